"""Words by hand, and every word's pieces found again by a second way."""

import json
import re
import unicodedata
from itertools import groupby

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import SPECIAL
from tokenizers import Tokenizer as PieceTokenizer
from tokenizers.implementations import BertWordPieceTokenizer

from minibert.data.corpus import SAMPLE, read_documents
from minibert.data.words import normal_form, word_spans
from minibert.errors import InputError
from minibert.tokenizer import Tokenizer

SMALL = [*SPECIAL, "the", "multi", "##ple", "agent", "##s", "client", "server", "-", "/", "(", ")"]
SMALL += [".", "apple", "Apple", "深", "学"]
# Letters of many scripts, marks, white space of both kinds, what BERT drops, symbols.
TEXT = st.text("aBT3é深カﷺ가İह\u093f\u0301-/'()[]+*#.,:\u2014\u2026\u200b\x07\x1c \n\u00a0👍\ufe0f")


def words_of(text):
    return [text[a:b] for a, b in word_spans(text)]


def spans_of(text, words):
    """Where these words stand, looked up from left to right."""
    spans, at = [], 0
    for word in words:
        at = text.index(word, at)
        spans.append((at, at + len(word)))
        at += len(word)
    return spans


@pytest.fixture
def folder(tmp_path):
    """A model folder with vocab.txt alone."""
    (tmp_path / "vocab.txt").write_text("\n".join(SMALL) + "\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def small(folder):
    return Tokenizer.load(folder, len(SMALL))


def encode(tokenizer, text, spans=None):
    """(piece, word) pairs of one text."""
    [(ids, words)] = tokenizer.encode([text], [word_spans(text) if spans is None else spans])
    assert len(ids) == len(words)
    return [(SMALL[i], w) for i, w in zip(ids, words)]


# Words ------------------------------------------------------------------------------------------


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
def test_the_words_of_a_text(text, words):
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
def test_words_without_spaces_between_them_are_cut(text, words):
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
def test_marks_inside_a_word_do_not_cut_it(word):
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
def test_tags_are_no_words(text, words):
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
def test_symbols_belong_to_the_word_before_them(text, words):
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
def test_word_offsets_are_characters_of_the_text(text, spans):
    assert word_spans(text) == spans


@pytest.mark.parametrize("text", ["❤\ufe0f", "🏳\ufe0f\u200d🌈 ☎\ufe0f"])
def test_an_emoji_with_a_variation_selector_is_no_word(text):
    assert words_of(text) == []


@settings(deadline=None)
@given(TEXT)
def test_no_letter_or_number_is_outside_a_word(text):
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
def test_words_are_the_same_in_a_part_of_the_text(text, drawn):
    """Otherwise a phrase taken from a text would not be found there."""
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


# Pieces -----------------------------------------------------------------------------------------


def test_pieces_belong_to_the_words_they_overlap(small):
    assert encode(small, "(The multiple-agents) client/server.") == [
        ("(", -1),
        ("the", 0),
        ("multi", 1),
        ("##ple", 1),
        ("-", 1),
        ("agent", 1),
        ("##s", 1),
        (")", -1),
        ("client", 2),
        ("/", -1),
        ("server", 3),
        (".", -1),
    ]


def test_unknown_words_and_chinese_characters_have_a_piece_each(small):
    assert encode(small, "zebra 深学-the 度") == [
        ("[UNK]", 0),
        ("深", 1),
        ("学", 2),
        ("-", -1),
        ("the", 3),
        ("[UNK]", 4),
    ]


def test_words_that_share_one_piece_still_have_one_each(small):
    """The library makes one piece of "multiple"; the given words cut it in three."""
    assert encode(small, "multiple the", [(0, 2), (2, 5), (5, 8), (9, 12)]) == [
        ("multi", 0),
        ("[UNK]", 1),
        ("##ple", 2),
        ("the", 3),
    ]


@pytest.mark.parametrize(
    ("words", "pieces"),
    [
        (["the", "\u200b", "agent"], [("the", 0), ("[UNK]", 1), ("agent", 2)]),
        (["\u200b", "the"], [("[UNK]", 0), ("the", 1)]),
        (["the", "\u200b"], [("the", 0), ("[UNK]", 1)]),
        (["\u200b"], [("[UNK]", 0)]),
        (
            ["multiple", "\u200b", "\u0301", "agents"],
            [
                ("multi", 0),
                ("##ple", 0),
                ("[UNK]", 1),
                ("[UNK]", 2),
                ("agent", 3),
                ("##s", 3),
            ],
        ),
    ],
)
def test_a_word_that_the_tokenizer_drops_is_one_unknown_piece(small, words, pieces):
    text = " ".join(words)
    assert encode(small, text, spans_of(text, words)) == pieces


def test_a_dropped_word_stands_between_the_punctuation_around_it(small):
    assert encode(small, "the ( \u200b ) agent", [(0, 3), (6, 7), (10, 15)]) == [
        ("the", 0),
        ("(", -1),
        ("[UNK]", 1),
        (")", -1),
        ("agent", 2),
    ]


def check_alignment(pieces, spans):
    """Every word has a piece, all its pieces are neighbours, and words come in order."""
    runs = [word for word, _ in groupby(pieces.words) if word >= 0]
    assert runs == list(range(len(spans)))
    assert len(pieces.ids) == len(pieces.words)


def test_the_pieces_of_a_word_are_those_it_has_alone(pieces):
    """And all that is left over is punctuation between words."""
    documents = read_documents(SAMPLE / "test.jsonl")
    encoded = pieces.encode([d.text for d in documents], [d.words for d in documents])
    assert len(encoded) == len(documents)
    for document, found in zip(documents, encoded):
        check_alignment(found, document.words)
        words = [document.text[a:b] for a, b in document.words]
        alone = pieces.encode(words, [[(0, len(word))] for word in words])
        for number, expected in enumerate(alone):
            assert [i for i, w in zip(found.ids, found.words) if w == number] == expected.ids
        ends = [0, *(b for _, b in document.words)]
        starts = [*(a for a, _ in document.words), len(document.text)]
        between = [document.text[a:b].split() for a, b in zip(ends, starts)]
        assert found.words.count(-1) == sum(len(mark) for marks in between for mark in marks)


@settings(deadline=None)
@given(text=TEXT)
@example("ab\x1ccd")  # white space to Python, dropped by BERT
@example("한국어 İstanbul ﷺ \u200b a\u0301")
def test_any_text_is_aligned(pieces, text):
    spans = word_spans(text)
    [found] = pieces.encode([text], [spans])
    check_alignment(found, spans)
    assert all(0 <= i < pieces.size for i in found.ids)


@settings(deadline=None)
@given(words=st.lists(TEXT.filter(str.strip), max_size=8))
def test_any_given_words_are_aligned(pieces, words):
    text = " ".join(words)
    [found] = pieces.encode([text], [spans_of(text, words)])
    check_alignment(found, words)


# Files ------------------------------------------------------------------------------------------


def test_vocab_txt_numbers_its_pieces_by_line(folder):
    tokenizer = Tokenizer.load(folder, 100)
    assert tokenizer.size == len(SMALL)
    assert [SMALL[i] for i in (tokenizer.pad_id, tokenizer.unk_id)] == ["[PAD]", "[UNK]"]
    assert [SMALL[i] for i in (tokenizer.cls_id, tokenizer.sep_id)] == ["[CLS]", "[SEP]"]
    assert tokenizer.encode(["the server"], [[(0, 3), (4, 10)]])[0].ids == [
        SMALL.index("the"),
        SMALL.index("server"),
    ]


@pytest.mark.parametrize(
    ("settings_json", "pieces"),
    [
        (None, ["apple", "apple"]),
        ("{}", ["apple", "apple"]),
        ('{"do_lower_case": true}', ["apple", "apple"]),
        ('{"do_lower_case": false}', ["Apple", "apple"]),
    ],
)
def test_vocab_txt_is_lower_cased_unless_told_not_to(folder, settings_json, pieces):
    if settings_json:
        (folder / "tokenizer_config.json").write_text(settings_json)
    tokenizer = Tokenizer.load(folder, len(SMALL))
    assert [piece for piece, _ in encode(tokenizer, "Apple apple")] == pieces


ACCENTS = [*SMALL, "e", "\u00e9", "E", "\u00c9", "[extra]", "##\u00e9"]
ACCENTED = (
    "The Apple \u00e9 E \u00c9 multi\u00e9 apple-s [MASK] [extra] [EXTRA] zebra \u6df1 agents"
)
CASED, ACCENT = {"do_lower_case": False}, {"strip_accents": False}
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
EXTRA = {"content": "[extra]", "lstrip": False, "rstrip": False, "normalized": False,
         "single_word": False, "special": True}  # fmt: skip
OBJECT = {"__type": "AddedToken", "content": "[UNK]"}
STANDARD = {str(i): EXTRA | {"content": token} for i, token in enumerate(SPECIAL)}


def write_folder(folder, files):
    """Files by name, objects as JSON; tokenizer.json is given by its changes of the normalizer."""
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "vocab.txt").write_text("\n".join(ACCENTS) + "\n", encoding="utf-8")
    for name, content in files.items():
        if name == "tokenizer.json":
            BertWordPieceTokenizer(str(folder / "vocab.txt")).save(str(folder / name))
            raw = json.loads((folder / name).read_text(encoding="utf-8"))
            raw["normalizer"] |= content.get("normalizer", {})
            raw["added_tokens"] += content.get("added_tokens", [])
            raw["model"] |= content.get("model", {})
            content = raw
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def same_ids(folder):
    """Whether transformers gives the same ids as we."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    words = [match.span() for match in re.finditer(r"\S+", ACCENTED)]
    [ours] = Tokenizer.load(str(folder), len(ACCENTS)).encode([ACCENTED], [words])
    return ours.ids == theirs(ACCENTED, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    "files",
    [
        {},
        *(
            {"tokenizer_config.json": kind}
            for kind in [
                CASED,
                ACCENT,
                {"do_lower_case": True, "strip_accents": False},
                {"do_lower_case": False, "strip_accents": True},
                {"do_lower_case": True, "strip_accents": None, "tokenizer_class": "BertTokenizer"},
                CASED | {"tokenizer_class": "BertTokenizerFast", "never_split": ["zebra"]},
                CASED | {"tokenizer_class": "ElectraTokenizer", "do_basic_tokenize": False},
                CASED | {"added_tokens_decoder": STANDARD, "unk_token": OBJECT},
                {"mask_token": "[MASK]", "cls_token": "[CLS]", "additional_special_tokens": []},
            ]
        ),
        {"added_tokens.json": {}, "special_tokens_map.json": {"unk_token": {"content": "[UNK]"}}},
        {"tokenizer.json": {}},
        {"tokenizer.json": {"normalizer": {"strip_accents": True}}},  # as lower-casing does
        {"tokenizer.json": {"normalizer": {"lowercase": False}}, "tokenizer_config.json": CASED},
        {"tokenizer.json": {"normalizer": {"lowercase": False}}, "tokenizer_config.json": FAST},
        {"tokenizer.json": {"added_tokens": [EXTRA | {"id": len(ACCENTS) - 2}]}},
        {
            "tokenizer.json": {"added_tokens": [EXTRA | {"id": len(ACCENTS) - 2}]},
            "tokenizer_config.json": {
                "added_tokens_decoder": STANDARD | {str(len(ACCENTS) - 2): EXTRA},
                "extra_special_tokens": ["[extra]"],
            },
        },
    ],
)
def test_ids_are_those_of_transformers(tmp_path, files):
    write_folder(tmp_path, files)
    assert same_ids(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    tokenizer.save(str(tmp_path / "new"))
    (tmp_path / "new" / "config.json").write_text('{"model_type": "bert"}')
    assert same_ids(tmp_path / "new")
    words = [[(0, len(ACCENTED))]]
    assert Tokenizer.load(tmp_path / "new").encode([ACCENTED], words) == tokenizer.encode(
        [ACCENTED], words
    )


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"tokenizer_config.json": {"tokenize_chinese_chars": False}}, "tokenize_chinese_chars is"),
        ({"tokenizer_config.json": {"split_special_tokens": True}}, "split_special_tokens is True"),
        ({"tokenizer_config.json": {"do_lower_case": None}}, "do_lower_case is None"),
        (
            {"tokenizer_config.json": {"do_lower_case": 1}, "tokenizer.json": {}},
            "do_lower_case is 1",
        ),
        ({"tokenizer_config.json": {"strip_accents": "no"}}, "strip_accents is 'no'"),
        ({"tokenizer_config.json": {"unk_token": "the"}}, "unk_token is 'the'"),
        ({"tokenizer_config.json": {"cls_token": EXTRA}}, r"cls_token is '\[extra\]'"),
        ({"special_tokens_map.json": {"sep_token": "."}}, "sep_token is '.'"),
        (
            {"tokenizer_config.json": {"tokenizer_class": "BertJapaneseTokenizer"}},
            "tokenizer_class is 'BertJapaneseTokenizer'",
        ),
        (
            {"config.json": {"model_type": "bert", "tokenizer_class": "RobertaTokenizer"}},
            "tokenizer_class is 'RobertaTokenizer'",
        ),
        ({"added_tokens.json": {"[extra]": 22}}, r"added tokens .*\[extra\]"),
        ({"added_tokens.json": {"new": 99}}, "added tokens .*'new'"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"22": EXTRA}}}, "added tokens"),
        ({"tokenizer_config.json": {"additional_special_tokens": ["new"]}}, "added tokens .*'new'"),
        ({"tokenizer_config.json": {"extra_special_tokens": {"x_token": "new"}}}, "added tokens"),
        ({"tokenizer_config.json": {"entity_token": "the"}}, "added tokens .*'the'"),
        ({"tokenizer_config.json": {"added_tokens_decoder": ["the"]}}, "list of added tokens"),
        ({"special_tokens_map.json": {"additional_special_tokens": [EXTRA]}}, "added tokens"),
        (
            {
                "tokenizer.json": {"added_tokens": [EXTRA | {"id": len(ACCENTS) - 2}]},
                "tokenizer_config.json": {"added_tokens_decoder": STANDARD},
            },
            r"added tokens .*\[extra\]",
        ),
        ({"tokenizer.json": {"normalizer": {"lowercase": False}}}, "lowercase is False, but"),
        (
            {"tokenizer.json": {}, "tokenizer_config.json": CASED},
            "normalizer.lowercase is True, but by tokenizer_config.json, .* takes False",
        ),
        ({"tokenizer.json": {}, "tokenizer_config.json": ACCENT}, "strip_accents is True, but"),
        ({"tokenizer.json": {"normalizer": {"clean_text": False}}}, "clean_text is False, but"),
        (
            {"tokenizer.json": {"model": {"max_input_chars_per_word": 4}}},
            "chars_per_word is 4, but",
        ),
        ({"added_tokens.json": []}, "added_tokens.json: expected a JSON object"),
    ],
)
def test_a_folder_of_which_transformers_makes_other_ids_is_refused(tmp_path, files, said):
    write_folder(tmp_path, files)
    assert re.search(said, refused(tmp_path))


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json", "tokenizer_config.json"])
def test_a_git_lfs_pointer_is_refused_by_its_name(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert f"{name}: a Git LFS pointer" in refused(folder)


def test_truncation_and_padding_of_a_tokenizer_json_are_switched_off(folder):
    library = BertWordPieceTokenizer(str(folder / "vocab.txt"))
    library.enable_truncation(4)
    library.enable_padding(length=20)
    library.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").unlink()
    tokenizer = Tokenizer.load(folder, len(SMALL))
    long, short = tokenizer.encode(["the " * 50, "the"], [word_spans("the " * 50), [(0, 3)]])
    assert long.ids == [SMALL.index("the")] * 50
    assert short.ids == [SMALL.index("the")]


def test_what_is_saved_encodes_the_same(tmp_path, small):
    small.save(tmp_path / "new")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["tokenizer.json"]
    text = "(The multiple-agents) Apple 深学 \u200b zebra."
    again = Tokenizer.load(tmp_path / "new", len(SMALL))
    assert encode(again, text) == encode(small, text)


def test_tokenizer_json_comes_before_vocab_txt(folder, pieces):
    pieces.save(folder)
    assert Tokenizer.load(folder, pieces.size).size == pieces.size != len(SMALL)


def refused(folder, vocab_size=1000):
    with pytest.raises(InputError) as error:
        Tokenizer.load(folder, vocab_size)
    assert str(folder) in str(error.value)
    return str(error.value)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    assert "vocab.txt" in refused(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model": 3}', "\x00\xff"])
def test_a_garbage_tokenizer_json_is_refused(tmp_path, text):
    (tmp_path / "tokenizer.json").write_bytes(text.encode("latin-1"))
    assert "tokenizer.json" in refused(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_garbage_tokenizer_config_is_refused(folder, text):
    (folder / "tokenizer_config.json").write_text(text)
    refused(folder)


@pytest.mark.parametrize("name", SPECIAL[:4])
def test_a_vocab_txt_without_a_special_token_is_refused(tmp_path, name):
    rest = [piece for piece in SMALL if piece != name]
    (tmp_path / "vocab.txt").write_text("\n".join(rest), encoding="utf-8")
    refused(tmp_path)


@pytest.mark.parametrize("name", SPECIAL[:4])
def test_a_tokenizer_json_without_a_special_token_is_refused(folder, name):
    Tokenizer.load(folder, len(SMALL)).save(folder)
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    raw["added_tokens"] = []
    raw["post_processor"] = None
    raw["model"]["vocab"]["other"] = raw["model"]["vocab"].pop(name)
    (folder / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
    assert name in refused(folder)


def test_a_vocabulary_larger_than_the_model_is_refused(folder):
    assert str(len(SMALL) - 1) in refused(folder, len(SMALL) - 1)
    assert Tokenizer.load(folder, len(SMALL)).size == len(SMALL)


@pytest.mark.parametrize("kind", ["gap in tokenizer.json", "line twice in vocab.txt"])
def test_an_id_beyond_the_model_is_refused_where_ids_have_gaps(folder, kind):
    if kind == "line twice in vocab.txt":  # "the" moves to the last line, its old id is no piece
        vocabulary = "\n".join([*SMALL, "the"])
        (folder / "vocab.txt").write_text(vocabulary, encoding="utf-8")
    else:
        Tokenizer.load(folder, len(SMALL)).save(folder)
        raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        raw["model"]["vocab"]["the"] = len(SMALL)
        (folder / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
        assert PieceTokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("the")
    refused(folder, len(SMALL))
