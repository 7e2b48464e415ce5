"""Keyphrases, spans and given labels -> a label per word."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibert.data.corpus import parse_document
from minibert.data.documents import Document, find_phrases, label_names, share_in_text, word_labels
from minibert.errors import InputError
from minibert.text.words import word_spans


def doc(text, keyphrases=None, document_id="d", **others):
    return Document(document_id, text, word_spans(text), keyphrases, **others)


def texts(document, runs):
    """Runs of words as the text they cover."""
    return [document.text[document.words[a][0] : document.words[b - 1][1]] for a, b in runs]


# Labels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "phrase", "matches"),
    [
        ("The Red Fox runs.", "red fox", ["Red Fox"]),
        ("the red fox", "RED FOX", ["red fox"]),
        ("Red, fox!", "red fox", ["Red, fox"]),
        ("a change-of-command today", "changeofcommand", ["change-of-command"]),
        ("a changeofcommand today", "change-of-command", ["changeofcommand"]),
        ("Obama's \u2018plan\u2019", "Obamas plan", ["Obama's \u2018plan"]),
        ("U.S. troops", "us troops", ["U.S. troops"]),
        ("The party is art.", "art", ["art"]),
        ("a party", "art", []),
        ("a party", "part", []),
        ("a party", "ty", []),
        ("red foxes", "red fox", []),
        ("hired fox", "red fox", []),
        ("Fox in the den", "fox", ["Fox"]),
        ("In the den, a fox", "a fox", ["a fox"]),
        ("fox", "fox", ["fox"]),
        ("Fox, fox and FOX", "fox", ["Fox", "fox", "FOX"]),
        ("ha ha ha", "ha ha", ["ha ha", "ha ha"]),
        ("New\n  York", "new york", ["New\n  York"]),
        ("client/server", "client server", ["client/server"]),
        ("Straße STRASSE", "strasse", ["Straße", "STRASSE"]),
        ("深度学习", "度学", ["度学"]),
        ("a (b) c", "", []),
        ("a (b) c", "...", []),
        ("fox", "fox hole", []),
        ("a.c abc", "a.c", ["a.c"]),
        ("ab*c (", "b*", []),
        ("C, C++ and C#", "C++", ["C++"]),
        ("c and C++", "C", ["c"]),
        ("gates(HCG).We", "HCG", ["HCG"]),
        ("an A* search, a star", "A*", ["A*"]),
        ("It is IT. Use it", "IT", ["IT"]),
        ("It is IT. Use it", "it", ["It", "it"]),
        ("He saw us in the U.S. and US", "U.S.", ["U.S", "US"]),
        ("who is the WHO", "WHO", ["WHO"]),
        ("who is the WHO", "the who", ["the WHO"]),
    ],
)
def test_find_phrases(text, phrase, matches):
    document = doc(text)
    [runs] = find_phrases(document, [phrase])
    assert texts(document, runs) == matches


def test_find_phrases_returns_word_indices_per_phrase():
    document = doc("Red fox, red hen; the red fox den.")
    assert find_phrases(document, ["fox", "red fox", "cow", "red"]) == [
        [(1, 2), (6, 7)],
        [(0, 2), (5, 7)],
        [],
        [(0, 1), (2, 3), (5, 6)],
    ]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["x", "xb", "b", "B.", "(bx)", "x-b", "c"]), min_size=1), st.data())
def test_find_phrases_equals_search_of_all_runs(words, drawn):
    document = doc(" ".join(words))
    first = drawn.draw(st.integers(0, len(words) - 1))
    last = drawn.draw(st.integers(first + 1, len(words)))
    spelled = ["".join(filter(str.isalpha, word)).lower() for word in words]
    phrase = "".join(spelled[first:last])
    runs = [
        (i, j)
        for i in range(len(words))
        for j in range(i + 1, len(words) + 1)
        if "".join(spelled[i:j]) == phrase
    ]
    [found] = find_phrases(document, [" ".join(words[first:last]).upper()])
    assert sorted(found) == runs


PHRASES = ["red fox", "fox", "red fox den", "big red", "cow"]


@pytest.mark.parametrize(
    ("text", "phrases", "io", "bio"),
    [
        ("one two three", [], "OOO", "OOO"),
        ("one two three", ["two"], "OIO", "OBO"),
        ("one two three", ["two three", "one"], "III", "BBI"),  # adjacent
        ("one two three", ["two", "one two three"], "III", "BII"),  # nested
        ("one two three", ["one two", "two three"], "III", "BIO"),  # of one length: the first
        ("one two three four", ["one two", "two three four"], "IIII", "OBII"),  # the longest
        ("one two three four", ["two three four", "one two"], "IIII", "OBII"),
        ("one two one two", ["one two"], "IIII", "BIBI"),
        ("a big red fox den, a fox", PHRASES, "OIIIIOI", "OOBIIOB"),
        ("two, two; two", ["two two"], "III", "BIO"),
    ],
)
def test_labels_of_keyphrases(text, phrases, io, bio):
    document = doc(text, phrases)
    assert "".join(word_labels(document, "io")) == io
    assert "".join(word_labels(document, "bio")) == bio


@pytest.mark.parametrize(
    ("spans", "io", "bio"),
    [
        ([], "OOOO", "OOOO"),
        ([(4, 11)], "OIIO", "OBIO"),
        ([(5, 9)], "OIIO", "OBIO"),  # a span marks each word that it touches
        ([(3, 4)], "OOOO", "OOOO"),  # the space between
        ([(3, 5)], "OIOO", "OBOO"),
        ([(0, 3), (4, 7)], "IIOO", "BBOO"),
        ([(4, 7), (0, 11)], "IIIO", "BIIO"),
        ([(12, 16)], "OOOI", "OOOB"),
    ],
)
def test_labels_of_spans(spans, io, bio):
    """Only spans decide: the keyphrase "one" outside them is not labelled."""
    document = doc("one two thr (x)", ["one"], spans=spans)
    assert "".join(word_labels(document, "io")) == io
    assert "".join(word_labels(document, "bio")) == bio


def test_given_labels_and_label_names_of_each_scheme():
    documents = [
        parse_document('{"id": 1, "words": ["a", "b", "c"], "labels": ["V", "N", "V"]}', ""),
        parse_document('{"id": 2, "words": ["a", "b"], "labels": ["O", "A"]}', ""),
    ]
    assert [word_labels(d, "given") for d in documents] == [["V", "N", "V"], ["O", "A"]]
    assert label_names(documents, "given") == ("O", "A", "N", "V")
    assert label_names(documents[:1], "given") == ("N", "V")
    assert label_names(documents, "io") == ("O", "I")
    assert label_names(documents, "bio") == ("O", "B", "I")


@pytest.mark.parametrize("scheme", ["io", "bio", "given"])
def test_document_without_annotation_is_rejected(scheme):
    with pytest.raises(InputError, match=r"'some id'.*--labels given"):
        word_labels(doc("text", document_id="some id"), scheme)


def test_share_of_keyphrases_in_the_text():
    """Two of four phrases: fox and red-dog. Spans make no difference."""
    documents = [
        doc("A red dog.", ["red-dog", "dogs"]),
        doc("The fox", ["fox", "wind"], spans=[(4, 7)]),
        doc("No gold", []),
        doc("None given"),
    ]
    assert share_in_text(documents) == 0.5
    assert share_in_text(documents[2:]) is None
