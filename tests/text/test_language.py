"""Stop words, stems and elided words of languages; spans in every script."""

import sys
from itertools import pairwise

import pytest
import snowballstemmer
import stopwordsiso
from hypothesis import given
from hypothesis import strategies as st

from minibert import InputError
from minibert.text.language import ENGLISH, NAMES, read_language
from minibert.text.words import normal_form, word_spans


@pytest.mark.parametrize(
    ("code", "word", "stem"),
    [
        ("en", "relational", "relat"),
        ("fr", "continuellement", "continuel"),
        ("de", "häuser", "haus"),
        ("ru", "книгами", "книг"),
        ("el", "βιβλίων", "βιβλ"),
        ("hi", "किताबें", "किताब"),
        ("zh", "书", "书"),  # no stemmer
    ],
)
def test_stems_by_hand(code, word, stem):
    assert read_language(code).stem(word) == stem


def test_search_stems_are_porter_2_in_english_only():
    assert ENGLISH.stem("dying") == "dy"
    assert ENGLISH.search_stem("dying") == "die"
    french = read_language("fr")
    assert french.search_stem("nationaux") == french.stem("nationaux") == "national"


def test_each_name_has_a_list_or_a_stemmer():
    variants = {"porter", "dutch_porter"}
    stemmers = set(snowballstemmer.algorithms()) - variants
    with_stemmer = {code for code, name in NAMES.items() if name.lower() in stemmers}
    assert {NAMES[code].lower() for code in with_stemmer} == stemmers
    assert set(NAMES) == with_stemmer | stopwordsiso.langs()


def test_stop_words_of_a_language():
    german = read_language("de")
    assert {"und", "für", "ausser"} <= german.stop_words  # ß is folded to ss
    assert not german.is_stop_word("the")
    assert {normal_form(word) for word in german.stop_words} == german.stop_words
    assert read_language("en") is ENGLISH
    assert all(map(read_language("fr").is_stop_word, ["l", "qu", "jusqu"]))


def test_greek_stop_words_with_and_without_accents():
    greek = read_language("el")
    words = ["είναι", "ΕΊΝΑΙ", "ΟΜΩΣ", "από", "όμως"]
    assert all(greek.is_stop_word(normal_form(word)) for word in words)
    assert not greek.is_stop_word("λιμάνι")
    assert not read_language("es").is_stop_word("cómó")


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        ("fr", "L'air d\u2019automne, qu'elle", ["L'", "air", "d\u2019", "automne", "qu'", "elle"]),
        ("fr", "Aujourd'hui presqu'île O'Brien", ["Aujourd'hui", "presqu'île", "O'Brien"]),
        ("fr", "l' l'' d''eau l", ["l", "l", "d''", "eau", "l"]),
        ("it", "Dell'arte un'altra", ["Dell'", "arte", "un'", "altra"]),
        ("ca", "L'home d\u2019aigua", ["L'", "home", "d\u2019", "aigua"]),
        ("en", "l'air don't d'Alembert", ["l'air", "don't", "d'Alembert"]),
        ("de", "l'air", ["l'air"]),
    ],
)
def test_elided_words_are_apart(code, text, words):
    assert [text[a:b] for a, b in read_language(code).word_spans(text)] == words


SCRIPTS = [
    "l'été d\u2019œuvre",
    "дом й",
    "η οδός ΣΣ",
    "مَدرسة",
    "किताबें",
    "图书馆",
    "ガ",
    "ﬁ ß ",
    "\u2019'-",
    "İ",
]


@given(
    st.lists(st.sampled_from([*" '\u2019.-\n", *"".join(SCRIPTS), *SCRIPTS])).map("".join),
    st.sampled_from(["fr", "it", "el", "ar", "zh", "en"]),
)
def test_split_words_cover_the_same_characters(text, code):
    spans = read_language(code).word_spans(text)
    assert all(start < end for start, end in spans)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    whole = {i for span in word_spans(text) for i in range(*span)}
    assert {i for span in spans for i in range(*span)} == whole
    joined = "".join(normal_form(text[a:b]) for a, b in word_spans(text))
    assert "".join(normal_form(text[a:b]) for a, b in spans) == joined


# The user's own list ----------------------------------------------------------------------------


def test_own_stop_words_replace_the_list(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("\ufeffLe la\nAUJOURD'HUI\r\n", encoding="utf-8")
    french = read_language("fr", str(path))
    assert french.is_stop_word("le")
    assert french.is_stop_word("aujourdhui")
    assert french.is_stop_word("l")  # elided
    assert not french.is_stop_word("avec")
    assert french.stem("continuellement") == "continuel"

    english = read_language("en", path)
    assert english.stop_words == {"le", "la", "aujourdhui"}
    assert english.stemmer == ENGLISH.stemmer
    assert read_language("ta", path).stemmer == "tamil"  # no list of its own


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no words in it"),
        (b" \n\t\xef\xbb\xbf", "no words in it"),
        (b"... , !", "no words in it"),
        (b"\xff\xfe\x00", "not readable as UTF-8 text"),
        (b"word\x00word", "a binary file"),
    ],
)
def test_wrong_stop_word_file(tmp_path, content, why):
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=why):
        read_language("fr", path)


def test_stop_word_file_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "gone.txt", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_language("en", path)


def test_unknown_language_lists_the_known_ones():
    for code in ("xx", "", "FR", "french", "e\n"):
        with pytest.raises(InputError, match=r"is unknown; the known ones are af, ar, .*, zu$"):
            read_language(code)


def test_language_without_list():
    with pytest.raises(InputError, match=r"no list of stop words for Tamil: .*--stop-words FILE"):
        read_language("ta")


def test_missing_package_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "stopwordsiso", None)
    with pytest.raises(InputError, match=r"French need stopwordsiso: pip .*\[languages\]"):
        read_language("fr")
    assert read_language("en") is ENGLISH
    path = tmp_path / "words.txt"
    path.write_text("le")
    assert read_language("fr", path).is_stop_word("le")
