"""Texts of another language than the one in force; our texts of five languages are the examples."""

import sys
from pathlib import Path

import pytest

from minibert.data import languages
from minibert.data.corpus import SAMPLE, parse_document, read_documents
from minibert.data.documents import Document, find_phrases, is_content_word, is_stop_word
from minibert.data.languages import MIN_WORDS, ForeignTexts, foreign_language, in_language
from minibert.data.texts import read_texts
from minibert.text.language import ENGLISH, NAMES, read_language
from minibert.text.words import word_spans

TEXTS = list(read_texts([Path(__file__).parents[1] / "text" / "languages.jsonl"]))
CODES = [text.id[:2] for text in TEXTS]


def doc(text, **others):
    return Document("d", text, word_spans(text), **others)


def test_language_of_a_document():
    french = in_language(doc("L'eau de l'océan, avec DES algues"), read_language("fr"))
    words = [french.text[start:end] for start, end in french.words]
    assert words == ["L'", "eau", "de", "l'", "océan", "avec", "DES", "algues"]
    assert is_stop_word(french) == [True, False, True, True, False, True, False, False]
    assert is_content_word(french).tolist() == [0, 1, 0, 0, 1, 0, 1, 1]
    assert find_phrases(french, ["océan", "eau de l\u2019océan"]) == [[(4, 5)], [(1, 5)]]
    assert in_language(doc("L'eau"), ENGLISH) == doc("L'eau")


def test_labelled_words_stay():
    line = '{"id": 1, "words": ["l\'eau", "bleue"], "labels": ["O", "B"]}'
    document = parse_document(line, "f:1")
    french = in_language(document, read_language("fr"))
    assert french.words == document.words
    assert french.labels == document.labels


def test_texts_have_five_languages_and_three_scripts():
    assert set(CODES) == {"en", "fr", "de", "ru", "el"}
    assert len(TEXTS) == 10


@pytest.mark.parametrize("code", ["en", "fr", "de", "ru", "el", "zh"])
@pytest.mark.parametrize(
    ("text", "theirs"), list(zip(TEXTS, CODES)), ids=[text.id for text in TEXTS]
)
def test_language_of_a_text_is_guessed(text, theirs, code):
    document = in_language(text, read_language(code))
    assert foreign_language(document) == (None if code == theirs else theirs)


def test_guess_equals_largest_share_of_each_list():
    def share(text, code):
        document = in_language(text, read_language(code))
        return sum(is_stop_word(document)) / len(document.words)

    lists = set(NAMES) - {"ne", "sr", "ta", "yi"}
    for text, theirs in zip(TEXTS, CODES):
        assert max(lists, key=lambda code: share(text, code)) == theirs


PORTUGUESE = (
    "O governo anunciou na terça-feira que as escolas do interior vão receber mais dinheiro para o "
    "transporte dos alunos. No ano passado, a falta de ônibus fez com que as aulas do turno da "
    "noite fossem canceladas no norte do estado."
)
ARABIC = "افتتحت المدينة مكتبة جديدة بالقرب من النهر وهي مفتوحة كل يوم من الصباح إلى المساء. " * 2
CHINESE = "这座城市的老图书馆在关闭了三年以后又重新开放了。读者可以在那里看书也可以听讲座。"


@pytest.mark.parametrize(
    ("text", "guess"),
    [
        (PORTUGUESE, "pt"),  # one word in five is an English stop word
        (CHINESE, "zh"),
        (ARABIC, "ar"),
        ("गाँव के स्कूल में इस साल एक नया पुस्तकालय खुला है और बच्चे हर शाम वहाँ पढ़ने के लिए आते हैं।", "hi"),
        ("keyphrase extraction graph ranking " * 5, ""),  # a list of words
        ("keyphrase extraction graph ranking " * 4, None),  # short
        ("12 345 " * 20, None),
        ("", None),
    ],
)
def test_language_of_other_texts(text, guess):
    assert foreign_language(doc(text)) == guess
    if guess:
        assert foreign_language(in_language(doc(text), read_language(guess))) is None


def test_short_texts_are_never_foreign():
    words = word_spans(TEXTS[2].text)
    for count, guess in ((MIN_WORDS - 1, None), (MIN_WORDS, "fr")):
        assert foreign_language(doc(TEXTS[2].text[: words[count - 1][1]])) == guess


@pytest.mark.parametrize(
    ("english", "french", "guess"),
    [(5, 10, "fr"), (5, 9, None), (6, 14, None), (2, 2, ""), (2, 1, None), (3, 3, None)],
)
def test_guess_needs_twice_the_words(english, french, guess):
    """Of twenty words; "" for less than three English ones, if they are not the most."""
    others = 20 - english - french
    assert foreign_language(doc("she " * english + "avec " * french + "xyzzy " * others)) == guess


def test_english_sample_is_english():
    for path in sorted(SAMPLE.glob("*.jsonl")):
        assert {foreign_language(document) for document in read_documents(path)} == {None}


def test_own_stop_words_say_nothing_about_the_language(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("xyz")
    for code in ("en", "fr"):
        assert foreign_language(in_language(TEXTS[2], read_language(code, path))) is None


def test_without_the_lists_the_language_is_not_guessed(monkeypatch):
    languages._languages_of_words.cache_clear()
    monkeypatch.setitem(sys.modules, "stopwordsiso", None)
    guesses = [foreign_language(text) for text in TEXTS]
    languages._languages_of_words.cache_clear()
    assert guesses == [None if code == "en" else "" for code in CODES]


# The warning ------------------------------------------------------------------------------------


def warning_of(texts, code="en"):
    foreign = ForeignTexts(read_language(code))
    watched = list(foreign.watch(texts))
    assert [text.text for text in watched] == [text.text for text in texts]
    assert all(text.language.code == code for text in watched)
    return foreign.warning()


def test_warning_names_the_option():
    assert warning_of(TEXTS[:2]) is None
    assert warning_of([]) is None
    assert warning_of(TEXTS[2:3]) == (
        "the text 'fr-boulangerie' does not look English (few stop words). "
        "If it is French, use --language fr"
    )
    assert warning_of(TEXTS[:4]) == (
        "2 of 4 texts do not look English (few stop words); the first is 'fr-boulangerie'. "
        "If they are French, use --language fr"
    )
    assert warning_of([*TEXTS[:2], TEXTS[4]], "fr") == (
        "3 of 3 texts do not look French (few stop words); the first is 'en-garden'. "
        "If they are English, use --language en"
    )
    assert warning_of([doc("keyphrase extraction graph " * 9)]) == (
        "the text 'd' does not look English (few stop words). Choose its language with --language"
    )
