"""Word pieces by hand and by a second way, and the same ids as transformers."""

import json
import re
from itertools import groupby

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import SPECIAL, TEXT
from tokenizers import Tokenizer as PieceTokenizer
from tokenizers.implementations import BertWordPieceTokenizer

from minibert.data.corpus import SAMPLE, read_documents
from minibert.errors import InputError
from minibert.text.tokenizer import Tokenizer
from minibert.text.words import word_spans

SMALL = [*SPECIAL, "the", "multi", "##ple", "agent", "##s", "client", "server", "-", "/", "(", ")"]
SMALL += [".", "apple", "Apple", "深", "学"]


def spans_of(text, words):
    """The spans of these words, searched from left to right."""
    spans, offset = [], 0
    for word in words:
        offset = text.index(word, offset)
        spans.append((offset, offset + len(word)))
        offset += len(word)
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


# Pieces -----------------------------------------------------------------------------------------


def test_pieces_are_assigned_to_overlapping_words(small):
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


def test_unknown_words_and_chinese_characters(small):
    assert encode(small, "zebra 深学-the 度") == [
        ("[UNK]", 0),
        ("深", 1),
        ("学", 2),
        ("-", -1),
        ("the", 3),
        ("[UNK]", 4),
    ]


def test_words_that_share_a_piece(small):
    """The library makes one piece of "multi", which overlaps two of the given words."""
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
def test_dropped_word_becomes_unknown_piece(small, words, pieces):
    text = " ".join(words)
    assert encode(small, text, spans_of(text, words)) == pieces


def test_dropped_word_keeps_its_place_in_punctuation(small):
    assert encode(small, "the ( \u200b ) agent", [(0, 3), (6, 7), (10, 15)]) == [
        ("the", 0),
        ("(", -1),
        ("[UNK]", 1),
        (")", -1),
        ("agent", 2),
    ]


def check_alignment(pieces, spans):
    """Every word has pieces, which are adjacent, and words are in order."""
    runs = [word for word, _ in groupby(pieces.words) if word >= 0]
    assert runs == list(range(len(spans)))
    assert len(pieces.ids) == len(pieces.words)


def test_context_does_not_change_pieces_of_a_word(pieces):
    """All other pieces are punctuation between words."""
    documents = read_documents(SAMPLE / "test.jsonl")
    encoded = pieces.encode([d.text for d in documents], [d.words for d in documents])
    assert len(encoded) == len(documents)
    for document, result in zip(documents, encoded):
        check_alignment(result, document.words)
        words = [document.text[a:b] for a, b in document.words]
        alone = pieces.encode(words, [[(0, len(word))] for word in words])
        for number, expected in enumerate(alone):
            assert [i for i, w in zip(result.ids, result.words) if w == number] == expected.ids
        ends = [0, *(b for _, b in document.words)]
        starts = [*(a for a, _ in document.words), len(document.text)]
        between = [document.text[a:b].split() for a, b in zip(ends, starts)]
        assert result.words.count(-1) == sum(len(mark) for marks in between for mark in marks)


@settings(deadline=None)
@given(text=TEXT)
@example("ab\x1ccd")  # white space to Python, dropped by BERT
@example("한국어 İstanbul ﷺ \u200b a\u0301")
def test_any_text_is_aligned(pieces, text):
    spans = word_spans(text)
    [result] = pieces.encode([text], [spans])
    check_alignment(result, spans)
    assert all(0 <= i < pieces.size for i in result.ids)


@settings(deadline=None)
@given(words=st.lists(TEXT.filter(str.strip), max_size=8))
def test_any_given_words_are_aligned(pieces, words):
    text = " ".join(words)
    [result] = pieces.encode([text], [spans_of(text, words)])
    check_alignment(result, words)


# Files ------------------------------------------------------------------------------------------


def test_vocab_txt_ids_are_line_numbers(folder):
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
def test_vocab_txt_lower_case_setting(folder, settings_json, pieces):
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
    """Write files by name, objects as JSON. For tokenizer.json, `files` holds changes only."""
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
    """Whether transformers gives the same ids."""
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
def test_ids_equal_transformers(tmp_path, files):
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
    ("files", "message"),
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
def test_folder_with_other_ids_in_transformers_is_rejected(tmp_path, files, message):
    write_folder(tmp_path, files)
    assert re.search(message, refused(tmp_path))


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json", "tokenizer_config.json"])
def test_git_lfs_pointer_is_rejected_by_name(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert f"{name}: a Git LFS pointer" in refused(folder)


def test_truncation_and_padding_are_switched_off(folder):
    library = BertWordPieceTokenizer(str(folder / "vocab.txt"))
    library.enable_truncation(4)
    library.enable_padding(length=20)
    library.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").unlink()
    tokenizer = Tokenizer.load(folder, len(SMALL))
    long, short = tokenizer.encode(["the " * 50, "the"], [word_spans("the " * 50), [(0, 3)]])
    assert long.ids == [SMALL.index("the")] * 50
    assert short.ids == [SMALL.index("the")]


def test_saved_tokenizer_encodes_the_same(tmp_path, small):
    small.save(tmp_path / "new")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["tokenizer.json"]
    text = "(The multiple-agents) Apple 深学 \u200b zebra."
    again = Tokenizer.load(tmp_path / "new", len(SMALL))
    assert encode(again, text) == encode(small, text)


def test_tokenizer_json_takes_precedence(folder, pieces):
    pieces.save(folder)
    assert Tokenizer.load(folder, pieces.size).size == pieces.size != len(SMALL)


def refused(folder, vocab_size=1000):
    with pytest.raises(InputError) as error:
        Tokenizer.load(folder, vocab_size)
    assert str(folder) in str(error.value)
    return str(error.value)


def test_folder_without_tokenizer_is_rejected(tmp_path):
    assert "vocab.txt" in refused(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model": 3}', "\x00\xff"])
def test_damaged_tokenizer_json_is_rejected(tmp_path, text):
    (tmp_path / "tokenizer.json").write_bytes(text.encode("latin-1"))
    assert "tokenizer.json" in refused(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_damaged_tokenizer_config_is_rejected(folder, text):
    (folder / "tokenizer_config.json").write_text(text)
    refused(folder)


@pytest.mark.parametrize("name", SPECIAL[:4])
def test_vocab_txt_without_special_token_is_rejected(tmp_path, name):
    rest = [piece for piece in SMALL if piece != name]
    (tmp_path / "vocab.txt").write_text("\n".join(rest), encoding="utf-8")
    refused(tmp_path)


@pytest.mark.parametrize("name", SPECIAL[:4])
def test_tokenizer_json_without_special_token_is_rejected(folder, name):
    Tokenizer.load(folder, len(SMALL)).save(folder)
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    raw["added_tokens"] = []
    raw["post_processor"] = None
    raw["model"]["vocab"]["other"] = raw["model"]["vocab"].pop(name)
    (folder / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
    assert name in refused(folder)


def test_too_large_vocabulary_is_rejected(folder):
    assert str(len(SMALL) - 1) in refused(folder, len(SMALL) - 1)
    assert Tokenizer.load(folder, len(SMALL)).size == len(SMALL)


@pytest.mark.parametrize("kind", ["gap in tokenizer.json", "line twice in vocab.txt"])
def test_too_large_id_after_a_gap_is_rejected(folder, kind):
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
