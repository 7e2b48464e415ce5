"""Phrases and scores by hand; properties of any text; F1 by a slow second way."""

import json
import subprocess
import sys
import textwrap
from functools import partial
from itertools import pairwise
from statistics import mean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibert import InputError
from minibert.data.corpus import SAMPLE, parse_document, read_documents
from minibert.data.documents import Document, is_stop_word
from minibert.data.languages import in_language
from minibert.phrases import candidates, scores
from minibert.phrases.candidates import (
    Candidate,
    content_runs,
    group,
    listed_runs,
    noun_runs,
    tagged_runs,
    unbroken_runs,
)
from minibert.phrases.scores import phrase_counts, phrase_measures, present
from minibert.text.language import ENGLISH, read_language
from minibert.text.words import word_spans

stem = partial(candidates.stem, language=ENGLISH)
stems = partial(candidates.stems, language=ENGLISH)
distinct = partial(scores.distinct, language=ENGLISH)


def doc(text, keyphrases=None):
    return Document("d", text, word_spans(text), keyphrases)


def tagged(text):
    """A document of word/tag pairs."""
    words, labels = zip(*(pair.rsplit("|", 1) for pair in text.split()))
    return parse_document(json.dumps({"id": "t", "words": words, "labels": labels}), "here")


def written(document, runs):
    """The text of each run."""
    return [
        document.text[document.words[first][0] : document.words[last - 1][1]]
        for first, last in runs
    ]


# Stems ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("caresses", "caress"),
        ("Ponies", "poni"),
        ("RELATIONAL", "relat"),
        ("ship's", "ship"),
        ("hopefulness", "hope"),
        ("multi-agent", "multiag"),
        ("naïve", "naïv"),
        ("العربية", "العربية"),
        ("3.5", "35"),
        ("...", ""),
    ],
)
def test_stems_are_porters(word, expected):
    assert stem(word) == expected


def test_stems_of_a_text():
    text_stems = stems("Client/server SYSTEMS, (2nd) — 深度")
    assert text_stems == ("client", "server", "system", "2nd", "深", "度")
    assert stems(" ... ") == ()


# Runs of words ----------------------------------------------------------------------------------

BREAKS = ["\t", "\n\n", "\n \n", "\r\n\r\n", "\f", "\n\f", "\v", "\x1c", "\x85", "\u2028", "\u2029"]


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("", []),
        ("of the", []),
        ("Frost", ["Frost"]),
        ("The late frost of the northern orchards", ["late frost", "northern orchards"]),
        ("late frost, orchards", ["late frost", "orchards"]),
        ("late frost. Orchards", ["late frost", "Orchards"]),
        ("late (frost) orchards", ["late", "frost", "orchards"]),
        ("client/server side", ["client", "server side"]),
        ("late\u00a0 frost", ["late\u00a0 frost"]),
        ("late frost\nbites orchards", ["late frost\nbites orchards"]),
        ("late frost \r\n bites", ["late frost \r\n bites"]),
        ("Late frost\nBare orchards", ["Late frost", "Bare orchards"]),  # a title, a list
        *((f"late{end}frost", ["late", "frost"]) for end in BREAKS),
        ("gates(HCG). <td>net sales</td>", ["gates", "HCG", "net sales"]),
        ("It is IT, said U.S. staff", ["IT", "U.S", "staff"]),
        ("CD4+ cells, C++ code", ["CD4+ cells", "C++ code"]),
        ("over 300 frost days", ["frost days"]),
        ("深度 学", ["深度 学"]),
        ("שלום עולם", ["שלום עולם"]),
    ],
)
def test_content_runs_by_hand(text, phrases):
    document = doc(text)
    assert written(document, content_runs(document, 5)) == phrases


@pytest.mark.parametrize(
    ("following", "joined"),
    [
        ("Models of them", True),  # "Models" had no room in the line
        ("Models of them, and of those in all the other towns that are as old as it", False),
        ("models of them, and of those in all the other towns that are as old as it", True),
    ],
)
def test_line_break_joins_after_full_lines_only(following, joined):
    document = doc(f"Heads of Attention in the Berlin of then, and of now in Zurich\n{following}")
    phrases = written(document, content_runs(document, 5))
    assert any("\n" in phrase for phrase in phrases) == joined


def test_wrapping_does_not_change_phrases():
    for document in read_documents(SAMPLE / "test.jsonl"):
        wrapped = doc(textwrap.fill(document.text, 72, break_on_hyphens=False))
        expected = written(document, content_runs(document, 5))
        phrases = written(wrapped, content_runs(wrapped, 5))
        assert [phrase.replace("\n", " ") for phrase in phrases] == expected


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("w1 w2 w3 w4 w5", ["w1 w2 w3 w4 w5"]),
        ("w1 w2 w3 w4 w5 w6", ["w1 w2 w3", "w4 w5 w6"]),
        ("w1 w2 w3 w4 w5 w6 w7", ["w1 w2 w3", "w4 w5 w6 w7"]),
        ("w1 w2 w3 w4 w5 w6 w7 w8 w9 x1 x2", ["w1 w2 w3", "w4 w5 w6 w7", "w8 w9 x1 x2"]),
        ("深度学习的模型", ["深度学", "习的模型"]),
    ],
)
def test_long_runs_are_cut_into_equal_parts(text, parts):
    document = doc(text)
    assert written(document, content_runs(document, 5)) == parts


def test_parts_of_noun_runs_end_in_a_noun():
    document = tagged("red|JJ green|JJ fox|NN eats|VBZ fox|NN")
    assert written(document, noun_runs(document, 2)) == ["green fox", "fox"]
    document = tagged("red|JJ fox|NN grey|JJ hen|NN")
    assert written(document, noun_runs(document, 3)) == ["red fox", "grey hen"]
    document = tagged("old|JJ fox|NN den|NN grey|JJ tall|JJ hen|NN")
    assert written(document, noun_runs(document, 5)) == ["old fox den", "grey tall hen"]
    assert written(document, noun_runs(document, 4)) == ["old fox den", "grey tall hen"]
    assert written(document, noun_runs(document, 2)) == ["old fox", "den", "tall hen"]


def test_noun_runs_by_hand():
    document = tagged(
        "Neural|JJ network|NN models|NNS learn|VBP quick|JJ ,|, deep|JJ Bayes|NNP fast|RB "
        "larger|JJR nets|NNPS other|JJ nets|NNS run|VBG Late|JJ frost|NN hits|VBZ"
    )
    phrases = ["Neural network models", "deep Bayes", "nets", "nets", "Late frost"]
    assert written(document, noun_runs(document, 5)) == phrases


def test_noun_runs_of_universal_tags():
    document = tagged("New|ADJ York|PROPN hens|NOUN run|VERB old|ADJ ,|PUNCT I|PRON saw|NUM it|X")
    assert written(document, noun_runs(document, 5)) == ["New York hens"]


def test_noun_runs_need_tags():
    with pytest.raises(InputError, match=r"'d' has no labels.* or --tagger"):
        noun_runs(doc("late frost"), 5)


def test_runs_of_a_tagger():
    document = doc("red fox, den of a red fox")
    labels = ["B", "I", "I", "O", "O", "B", "B"]
    assert tagged_runs(document, labels) == [(0, 3), (5, 6), (6, 7)]
    types = ["B-X", "I-X", "I-Y", "O", "O", "I-X", "O"]
    assert tagged_runs(document, types) == [(0, 2), (2, 3), (5, 6)]
    inside = np.array([1, 1, 1, 0, 0, 1, 1], dtype=bool)
    assert unbroken_runs(document, inside) == [(0, 2), (2, 3), (5, 7)]


@pytest.mark.parametrize("runs", [tagged_runs, unbroken_runs])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_labels_of_wrong_length_are_rejected(runs, count):
    with pytest.raises(ValueError, match=r"'d'.* 2 words, found shape"):
        runs(doc("late frost"), ["B"] * count)


def test_listed_runs_match_spelling_and_stems():
    document = doc("Change-of-command; neural networks. Neural\nnetwork, a Neural-Network frost")
    runs = listed_runs(document, ["changeofcommand", "a neural network", "NEURAL NETWORK", "!"])
    spelled = ["Change-of-command", "Neural\nnetwork", "Neural-Network", "a Neural-Network"]
    assert sorted(set(written(document, runs))) == [*spelled, "neural networks"]
    document = doc("a client/server")
    assert written(document, listed_runs(document, ["client-server"])) == ["client/server"]


# Candidates -------------------------------------------------------------------------------------


def test_candidate_has_every_run_with_its_stems():
    document = doc("Late frosts, mild days. A late FROST; late, frost late frosted")
    assert group(document, [(5, 7), (2, 4)]) == [
        Candidate(("late", "frost"), [(0, 2), (5, 7), (9, 11)]),
        Candidate(("mild", "dai"), [(2, 4)]),
    ]


def test_candidate_in_capitals_does_not_match_stop_word():
    document = doc("It is IT, and it was IT")
    [candidate] = group(document, content_runs(document, 5))
    assert written(document, candidate.runs) == ["IT", "IT"]


def test_given_run_across_punctuation_stays():
    document = doc("late, frost and late frost or late, frost")
    [candidate] = group(document, [(0, 2)])
    assert candidate.runs == [(0, 2), (3, 5)]


def test_punctuation_at_ends_of_run_is_cut_off():
    document = parse_document('{"id": 1, "words": ["(", "late", "frost", ")", "frost"]}', "")
    assert group(document, [(0, 4), (3, 4), (2, 2)]) == [Candidate(("late", "frost"), [(1, 3)])]


def test_candidates_only_inside_longer_ones_are_dropped():
    document = doc("deep neural networks, neural networks, deep neural networks")
    runs = [(0, 3), (0, 2), (1, 3), (2, 3), (1, 2)]
    assert group(document, runs) == [
        Candidate(("deep", "neural", "network"), [(0, 3), (5, 8)]),
        Candidate(("neural", "network"), [(1, 3), (3, 5), (6, 8)]),
    ]
    overlapping = group(document, [(0, 2), (1, 3)])
    assert [c.stems for c in overlapping] == [("deep", "neural"), ("neural", "network")]


# Any text ---------------------------------------------------------------------------------------

PARTS = ["fox", "foxes", "Red", "red", "den", "the", "of", "3", "multi-agent", "深", "度", "שלום"]
GAPS = [" ", " ", " ", ", ", ". ", "\n", "/", "", "-"]
texts = st.lists(st.tuples(st.sampled_from(PARTS), st.sampled_from(GAPS)), max_size=25).map(
    lambda pairs: "".join(word + gap for word, gap in pairs)
)


any_text = texts | st.text(max_size=30)


@st.composite
def problems(draw, texts=any_text):
    """A document and some runs of its words."""
    document = doc(draw(texts))
    place = st.integers(0, len(document.words))
    pairs = draw(st.lists(st.tuples(place, place), max_size=8))
    return document, [(min(p), max(p)) for p in pairs] + content_runs(document, 4)


@given(problems(texts))
def test_candidates_equal_search_over_all_stretches(problem):
    document, runs = problem
    n = len(document.words)
    stop = is_stop_word(document)
    stretches = [(a, b) for a in range(n) for b in range(a + 1, n + 1)]
    key = {run: stems(text) for run, text in zip(stretches, written(document, stretches))}

    def plain(run):
        words = document.words[slice(*run)]
        gaps = [document.text[a : b + 1] for (_, a), (b, _) in pairwise(words)]
        ends = [gap for gap in gaps if "\n" in gap and not gap[-1].islower()]
        spaced = not any(gap[:-1].strip(" \n") for gap in gaps)
        return spaced and not ends and not all(stop[slice(*run)])

    wanted = {key[run] for run in runs if run in key}
    alike = [r for r in stretches if key[r] in wanted and (r in runs or plain(r))]

    def alone(run):
        return not any(r != run and r[0] <= run[0] and run[1] <= r[1] for r in alike)

    expected = {key[run]: [r for r in alike if key[r] == key[run]] for run in filter(alone, alike)}
    assert dict(group(document, runs)) == expected


@given(problems(), st.randoms())
def test_order_of_runs_does_not_matter(problem, random):
    document, runs = problem
    shuffled = random.sample(runs, len(runs))
    assert group(document, shuffled + runs[:2]) == group(document, runs)


# Scores -----------------------------------------------------------------------------------------


def test_phrases_are_distinct_by_their_stems():
    phrases = ["Red foxes", "den", "red-fox", "!", "RED FOX", "Dens"]
    assert distinct(phrases) == [("red", "fox"), ("den",), ("redfox",)]


def test_present_phrases_are_runs_of_stems():
    document = doc("Red foxes, deep dens")
    gold = distinct(["red fox", "fox deep", "fox den", "den", "dens deep", "red", "re"])
    assert present(document, gold) == distinct(["red fox", "fox deep", "den", "red"])
    assert present(doc("x"), gold) == []


def test_gold_and_ranked_phrases_have_the_stems_of_the_document():
    text = "L'île et ses marchés"
    document = in_language(doc(text, ["île", "Marché", "marchés"]), read_language("fr"))
    assert scores.gold_stems(document) == [("île",), ("march",)]
    assert present(document, scores.gold_stems(document)) == [("île",), ("march",)]
    measures = phrase_measures([document], [["ÎLE", "marché"]], np.ones((1, 1)))
    assert measures["F1@5"] == measures["present F1@5"] == 1


def test_counts_by_hand():
    phrases = [distinct(["a", "b", "c", "d"]), distinct(["a"]), [], distinct(["a"])]
    gold = [distinct(["b", "d", "x"]), distinct(["a", "b"]), distinct(["a"]), []]
    others = [[1, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert phrase_counts(phrases, gold, 2).tolist() == [[1, 1, 2, 0], *others]
    assert phrase_counts(phrases, gold, None).tolist() == [[1, 2, 2, 0], *others]
    with pytest.raises(ValueError, match="zip"):
        phrase_counts(phrases, gold[:3], 2)


def test_each_convention_by_hand():
    """Gold of the first: red fox, bee, absent wolf; six found. Of the second: den; one found."""
    documents = [
        doc("red foxes bee one two three", ["Red fox", "red foxes", "bee", "wolf"]),
        doc("den bee", ["dens"]),
        doc("nothing to find", []),
        doc("cat", ["dog"]),
    ]
    ranked_lists = [
        ["bee", "one", "bees", "two", "three", "x", "red fox"],
        ["den"],
        ["find"],
        ["cat"],
    ]
    measures = phrase_measures(documents, ranked_lists, np.ones((1, 4)))
    scores = {name: values[0] for name, values in measures.items()}
    expected = {
        "F1@5": mean([2 * 1 / (5 + 3), 1, 0]),
        "F1@10": mean([2 * 2 / (6 + 3), 1, 0]),
        "F1@15": mean([2 * 2 / (6 + 3), 1, 0]),
        "micro F1@5": 2 * 2 / (7 + 5),
        "micro F1@10": 2 * 3 / (8 + 5),
        "micro F1@15": 2 * 3 / (8 + 5),
        "present F1@5": mean([2 * 1 / (5 + 2), 1]),
        "present F1@10": mean([2 * 2 / (6 + 2), 1]),
        "present F1@15": mean([2 * 2 / (6 + 2), 1]),
        "F1@O": mean([2 * 1 / (3 + 3), 1, 0]),
        "P@10": mean([2 / 6, 1, 0]),
    }
    assert scores == pytest.approx(expected, abs=1e-12)


names = st.lists(st.sampled_from(["fox", "foxes", "red fox", "den", "a b", "c", "d e f"]))


@given(st.lists(st.tuples(names, names.filter(bool)), min_size=1, max_size=5), st.integers(1, 7))
def test_f1_equals_counting_one_by_one(pairs, k):
    def key(phrase):
        return " ".join(map(stem, phrase.split()))

    expected = []
    for phrases, gold in pairs:
        wanted, seen = {key(g) for g in gold}, []
        for phrase in phrases:
            if key(phrase) not in seen and len(seen) < k:
                seen.append(key(phrase))
        hits = sum(s in wanted for s in seen)
        precision, recall = hits / max(1, len(seen)), hits / len(wanted)
        expected.append(2 * precision * recall / (precision + recall) if hits else 0)
    lists = [[distinct(part) for part in side] for side in zip(*pairs)]
    counts = phrase_counts(*lists, k)
    f1 = [2 * hit / (2 * hit + extra + missed) for hit, extra, missed, _ in counts]
    assert f1 == pytest.approx(expected, abs=1e-12)
    if k == 5:
        documents = [doc("x", gold) for _, gold in pairs]
        once = np.ones((1, len(pairs)))
        measures = phrase_measures(documents, [phrases for phrases, _ in pairs], once)
        assert measures["F1@5"][0] == pytest.approx(mean(expected), abs=1e-12)


def test_measures_repeat_drawn_documents():
    documents = [doc("red fox", ["red fox", "x"]), doc("den", ["den"]), doc("bee", ["y", "z"])]
    ranked_lists = [["red fox"], ["den", "bee"], ["bee"]]
    draws = np.array([[1.0, 1, 1], [2, 0, 1], [0, 3, 0]])
    measures = phrase_measures(documents, ranked_lists, draws)
    for row, times in enumerate(draws.astype(int)):
        several = [i for i, n in enumerate(times) for _ in range(n)]
        drawn = phrase_measures(
            [documents[i] for i in several], [ranked_lists[i] for i in several], np.ones((1, 3))
        )
        for name, value in measures.items():
            assert value[row] == pytest.approx(drawn[name][0], nan_ok=True, abs=1e-12)


def test_scores_need_gold_phrases():
    with pytest.raises(InputError, match="'d' has no keyphrases"):
        phrase_measures([doc("x", ["x"]), doc("x")], [["x"], ["x"]], np.ones((1, 2)))


def test_package_import_needs_no_stemmer():
    source = "import sys, minibert; sys.exit('snowballstemmer' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source]).returncode == 0
