"""Words and normal forms: hand-worked tables, and properties of any text."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TEXT

from minibert.text.words import normal_form, word_spans


def words_of(text):
    return [text[a:b] for a, b in word_spans(text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \n\t\u00a0 ", []),
        ("-- !? ... () \u201c\u201d / $ %", []),
        ("👍 🎉🎉 😀! 👩\u200d👩\u200d👧 👍🏽", []),
        ("one", ["one"]),
        (
            "A multi-agent, state-of-the-art system.",
            ["A", "multi-agent", "state-of-the-art", "system"],
        ),
        ("client/server and/or 3/4", ["client", "server", "and", "or", "3", "4"]),
        ("war\u2014peace 1914\u20131918", ["war", "peace", "1914", "1918"]),
        ("wait\u2026what", ["wait", "what"]),
        ("(see [12], {x}) f(x)", ["see", "12", "x", "f", "x"]),
        ("\u201cQuoted,\u201d 'single' \u00abguillemets\u00bb", ["Quoted", "single", "guillemets"]),
        ("isn't O\u2019Neill's dogs'", ["isn't", "O\u2019Neill's", "dogs"]),
        ("$5.00, 50% #tag C++ U.S. -7", ["5.00", "50", "tag", "C++", "U.S", "7"]),
        ("hi\u00a0there\u2003you\nall\u3000now", ["hi", "there", "you", "all", "now"]),
        ("深度学习。model3的", ["深", "度", "学", "习", "model3", "的"]),
        ("カナと", ["カ", "ナ", "と"]),
        ("good👍job 👍fine👍", ["good👍job", "fine"]),
        ("nai\u0308ve e\u0301", ["nai\u0308ve", "e\u0301"]),
    ],
)
def test_words_of_a_text(text, words):
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gates(HCG). attention[12] {a}b", ["gates", "HCG", "attention", "12", "a", "b"]),
        ("gates(HCG)are pruned[3,4]by", ["gates", "HCG", "are", "pruned", "3,4", "by"]),
        ("(VR)-based [3H]thymidine Ni(II)", ["VR", "based", "3H", "thymidine", "Ni", "II"]),
        (
            "heads.The red,green Note:See so!We",
            ["heads", "The", "red", "green", "Note", "See", "so", "We"],
        ),
        (
            "ends.A e.g.,the U.S.The 2010.We",
            ["ends", "A", "e.g", "the", "U.S", "The", "2010", "We"],
        ),
        ("été.Été Москва.Это war--peace", ["été", "Été", "Москва", "Это", "war", "peace"]),
        ('a|b c;d e\\f g"h <i x>y', [*"abcdefgh", "i", "x", "y"]),
        ("\u201eeins\u201czwei \u00abun\u00bbdeux", ["eins", "zwei", "un", "deux"]),
        ("x\uff08y\uff09z\uff0cw", ["x", "y", "z", "w"]),
        ("سلام،عالم", ["سلام", "عالم"]),
    ],
)
def test_words_without_spaces_are_separated(text, words):
    assert words_of(text) == words


@pytest.mark.parametrize(
    "word",
    [
        "25(OH)D",
        "1,25(OH)2D3",
        "Ca(2+)-binding",
        "2-[14C]FIAU",
        "SU(2)R",
        "Thy1(+)CD45(-)CD31",
        "null(hyper)surfaces",
        "node.js",
        "arXiv.org",
        "e.g",
        "i.e",
        "U.S",
        "Ph.D",
        "PEDOT:PSS",
        "N,N-dimethyl",
        "1,000",
        "3.5",
        "12:30",
        "a@b.org",
        "p=0.04",
        "O\u2019Neill's",
        "d\u2018une",
        "3\u2032-kinase",
        "HLA-A*02",
        "x·y",
        "CD4+CD25+",
    ],
)
def test_marks_inside_a_word_are_kept(word):
    assert words_of(f"the {word}, and") == ["the", word, "and"]
    assert words_of(f"({word})") == [word]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<td>net sales</td>", ["net", "sales"]),
        ("<a href=\"x.org/y\" class='z'>big</a><br/>CO<sub>2</sub>", ["big", "CO", "2"]),
        ("a<b and c> d, p<0.05 <3", ["a", "b", "and", "c", "d", "p", "0.05", "3"]),
    ],
)
def test_tags_are_not_words(text, words):
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "C++, C# (A*) CD4+ Ca2+ CD127\u207a C/C++",
            ["C++", "C#", "A*", "CD4+", "Ca2+", "CD127⁺", "C", "C++"],
        ),
        ("C++程", ["C++", "程"]),
        ("The .NET (.NET) ...NET .We .5", [*["The", ".NET", ".NET", "NET", "We"], "5"]),
        (
            "**bold** **AI** *deep nets* note* n* 50+ 4* x+++",
            ["bold", "AI", "deep", "nets", "note", "n*", "50", "4", "x"],
        ),
    ],
)
def test_symbols_belong_to_the_preceding_word(text, words):
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("مرحبا بالعالم، (سلام)!", [(0, 5), (6, 13), (16, 20)]),
        ("हिन्दी भाषा।", [(0, 6), (7, 11)]),
        ("«ab» 深学 (c-d)/e.", [(1, 3), (5, 6), (6, 7), (9, 12), (14, 15)]),
        ("\U0001d4b3 🎉 x", [(0, 1), (4, 5)]),  # characters above U+FFFF count as one
    ],
)
def test_word_offsets_are_character_offsets(text, spans):
    assert word_spans(text) == spans


@pytest.mark.parametrize("text", ["❤\ufe0f", "🏳\ufe0f\u200d🌈 ☎\ufe0f"])
def test_emoji_with_variation_selector_is_not_a_word(text):
    assert words_of(text) == []


@settings(deadline=None)
@given(TEXT)
def test_every_letter_and_number_is_in_a_word(text):
    spans = word_spans(text)
    inside = {i for a, b in spans for i in range(a, b)}
    assert all(unicodedata.category(c)[0] not in "LN" or i in inside for i, c in enumerate(text))
    assert len(inside) == sum(b - a for a, b in spans)  # disjoint
    assert spans == sorted(spans)
    assert not any(c.isspace() or c == "/" for i, c in enumerate(text) if i in inside)
    bare = [text[a:b].removeprefix(".").rstrip("+*#") for a, b in spans]
    assert {unicodedata.category(edge)[0] for word in bare for edge in (word[0], word[-1])} <= set(
        "LMN"
    )
    assert all(word.count("(") == word.count(")") for word in bare)
    assert all(word.count("[") == word.count("]") for word in bare)


@settings(deadline=None)
@given(TEXT, st.data())
def test_words_are_the_same_in_part_of_a_text(text, drawn):
    """Otherwise a phrase taken from a text would not be found in it."""
    spans = word_spans(text)
    first = drawn.draw(st.integers(0, len(spans)))
    part = spans[first : drawn.draw(st.integers(first, len(spans)))]
    start, end = (part[0][0], part[-1][1]) if part else (0, 0)
    assert word_spans(text[start:end]) == [(a - start, b - start) for a, b in part]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Change-of-Command", "changeofcommand"),
        ("U.S.", "us"),
        ("New York's", "newyorks"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("ﬁne \uff26ull x²", "finefullx2"),
        ("nai\u0308ve", "na\u00efve"),
        ("हिन्दी", "हिन्दी"),
        ("3.5%", "35"),
        ("A C++ class, C# or A*.", "ac++classc#ora*"),
        (".NET CD127\u207a 2+", ".netcd127+2"),
        ("深度。", "深度"),
        ("… -- 👍 \u200b", ""),
    ],
)
def test_normal_form(text, form):
    assert normal_form(text) == form
