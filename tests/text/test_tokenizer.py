"""Word pieces by hand and by a second way, and the same ids as transformers."""

import json
import re
import unicodedata
from itertools import groupby

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import SPECIAL, TEXT
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as PieceTokenizer
from tokenizers.implementations import BertWordPieceTokenizer

from minibert.data.batches import make_windows
from minibert.data.corpus import SAMPLE, read_documents
from minibert.data.documents import Document
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


# SentencePiece ----------------------------------------------------------------------------------

SENTENCEPIECE = ["<s>", "<pad>", "</s>", "<unk>"]  # as the numbers of XLM-R
METASPACE = "\u2581"
# A longer piece is likelier than its parts, as in a trained model.
UNIGRAM = ["_", "_the", "the", "_multi", "multi", "ple", "s", "agent", "-", "(", ")", "_(", "/"]
UNIGRAM += [".", "_and/or", "or", "kg", "f", "fi", "x", "_1", "1", "2", "a", "e", "\u00e9"]
UNIGRAM = [piece.replace("_", METASPACE) for piece in UNIGRAM]
TOKENIZER_CLASS = {"tokenizer_class": "PreTrainedTokenizerFast"}


def unigram(words=UNIGRAM, split=True, special=SENTENCEPIECE, unknown=3):
    """A tokenizer as XLM-R's (`split`), or as the older ones without a split at white space."""
    scored = [(word, -10.0 + min(len(word), 8)) for word in words]
    pieces = PieceTokenizer(models.Unigram([*((s, 0.0) for s in special), *scored], unknown))
    pieces.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in special])
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    pieces.normalizer = normalizers.Sequence([normalizers.NFKC(), spaces])
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="always")
    parts = [pre_tokenizers.WhitespaceSplit(), metaspace] if split else [metaspace]
    pieces.pre_tokenizer = pre_tokenizers.Sequence(parts)
    return pieces


def write_unigram(folder, pieces, settings=TOKENIZER_CLASS):
    folder.mkdir(exist_ok=True)
    pieces.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module", params=[True, False], ids=["split", "whole"])
def sentences(request, tmp_path_factory):
    """A Unigram tokenizer with the letters of the sample and a third of its words."""
    texts = [d.text for d in read_documents(SAMPLE / "train.jsonl")]
    letters = sorted({c for text in texts for c in unicodedata.normalize("NFKC", text)} - {" "})
    words = sorted({w for text in texts for w in text.split() if w.isalpha() and len(w) > 3})[::3]
    vocabulary = [METASPACE, *letters, *(METASPACE + word for word in words)]
    folder = tmp_path_factory.mktemp("sentencepiece")
    return Tokenizer.load(write_unigram(folder, unigram(vocabulary, request.param)))


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # The piece of the space is the first of its word, wherever the library places it.
        ("the agents", [("_the", 0), ("_", 1), ("agent", 1), ("s", 1)]),
        ("agents  (the multi-agents).", [("_", 0), ("agent", 0), ("s", 0), ("_(", -1), ("the", 1),
         ("_multi", 2), ("-", 2), ("agent", 2), ("s", 2), (")", -1), (".", -1)]),
        ("the - agent", [("_the", 0), ("_", -1), ("-", -1), ("_", 1), ("agent", 1)]),
        ("the .agent", [("_the", 0), ("_", -1), (".", -1), ("agent", 1)]),
        # NFKC makes two characters of one, and one of two.
        ("\ufb01x the \u338f", [("_", 0), ("fi", 0), ("x", 0), ("_the", 1), ("_", -1),
         ("kg", -1)]),  # no letter
        ("e\u0301 agent", [("_", 0), ("\u00e9", 0), ("_", 1), ("agent", 1)]),
        ("\u00bd agent", [("_1", 0), ("?", 0), ("2", 0), ("_", 1), ("agent", 1)]),
        # Unknown text is one piece. A word inside a piece of two words becomes one too.
        ("QQ agent", [("_", 0), ("?", 0), ("_", 1), ("agent", 1)]),
        ("and/or the", [("_and/or", 0), ("?", 1), ("_the", 2)]),
        ("the \u200b agent", [("_the", 0), ("_", -1), ("?", -1), ("_", 1), ("agent", 1)]),
    ],
)  # fmt: skip
def test_pieces_of_sentencepiece_are_assigned_to_words(tmp_path, split, text, expected):
    library = unigram(split=split)
    tokenizer = Tokenizer.load(write_unigram(tmp_path, library))
    [result] = tokenizer.encode([text], [word_spans(text)])
    names = [library.id_to_token(i).replace("<unk>", "?") for i in result.ids]
    assert [(n.replace(METASPACE, "_"), w) for n, w in zip(names, result.words)] == expected


def test_a_word_of_sentencepiece_begins_with_the_space(sentences):
    """On real text: the pieces of each word, joined, are the word in its normal form. After white
    space they begin with a space."""
    documents = read_documents(SAMPLE / "test.jsonl")
    encoded = sentences.encode([d.text for d in documents], [d.words for d in documents])
    for document, result in zip(documents, encoded):
        check_alignment(result, document.words)
        named = [(sentences._pieces.id_to_token(i), w) for i, w in zip(result.ids, result.words)]
        for number, (start, end) in enumerate(document.words):
            joined = "".join(name for name, word in named if word == number)
            after_space = start == 0 or document.text[start - 1].isspace()
            assert (joined[0] == METASPACE) == after_space
            text = unicodedata.normalize("NFKC", document.text[start:end])
            unknown = "<unk>" in joined
            assert unknown or joined.removeprefix(METASPACE) == text


@settings(deadline=None)
@given(text=TEXT)
@example("a\u0323\u0301\u0327b \ufdfa\u00bd\u2581 \u2581a")  # marks change places
def test_any_text_is_aligned_to_sentencepiece(sentences, text):
    spans = word_spans(text)
    [result] = sentences.encode([text], [spans])
    check_alignment(result, spans)


@settings(deadline=None)
@given(words=st.lists(TEXT.filter(str.strip), max_size=8))
def test_any_given_words_are_aligned_to_sentencepiece(sentences, words):
    text = " ".join(words)
    [result] = sentences.encode([text], [spans_of(text, words)])
    check_alignment(result, words)


def test_windows_of_sentencepiece(sentences):
    """Each word is scored once, at its first piece, between <s> and </s>."""
    documents = read_documents(SAMPLE / "test.jsonl")[:5]
    windows = make_windows(documents, sentences, 32)
    scored = [(w.document, word) for w in windows for word in w.words]
    assert sorted(scored) == [(n, i) for n, d in enumerate(documents) for i in range(len(d.words))]
    whole = sentences.encode([d.text for d in documents], [d.words for d in documents])
    for window in windows:
        assert (window.input_ids[0], window.input_ids[-1]) == (0, 2)
        ids, owners = whole[window.document]
        for word, position in zip(window.words, window.positions):
            assert window.owners[position] == word
            assert window.input_ids[position] == ids[owners.index(word)]


def test_numbers_of_sentencepiece(tmp_path):
    tokenizer = Tokenizer.load(write_unigram(tmp_path, unigram()), 4 + len(UNIGRAM))
    assert (tokenizer.cls_id, tokenizer.pad_id, tokenizer.sep_id, tokenizer.unk_id) == (0, 1, 2, 3)
    [window] = make_windows([Document("", "the", [(0, 3)], None, None)], tokenizer, 8)
    assert window.input_ids == [0, tokenizer._pieces.token_to_id(METASPACE + "the"), 2]

    first = unigram(special=["<unk>", "<s>", "</s>", "<pad>"], unknown=0)
    tokenizer = Tokenizer.load(write_unigram(tmp_path, first))
    assert (tokenizer.cls_id, tokenizer.pad_id, tokenizer.sep_id, tokenizer.unk_id) == (1, 3, 2, 0)


@pytest.mark.parametrize("split", [True, False])
def test_sentencepiece_ids_equal_transformers(tmp_path, split):
    """Also of the names of special tokens in the text, and of a saved copy."""
    transformers = pytest.importorskip("transformers")
    names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    folder = write_unigram(tmp_path, unigram(split=split), TOKENIZER_CLASS | names)
    text = "  the <s>multi</s> agents (QQ) \ufb01x\n<unk> e\u0301 <mask> [CLS] "
    expected = transformers.AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)
    tokenizer = Tokenizer.load(folder)
    tokenizer.save(tmp_path / "new")
    for same in (tokenizer, Tokenizer.load(tmp_path / "new")):
        assert same.encode([text], [[(0, len(text))]])[0].ids == expected["input_ids"]


@pytest.mark.parametrize(
    ("library", "changes", "message"),
    [
        (unigram(special=SENTENCEPIECE[1:], unknown=2), {}, "no <s>: not a"),
        (unigram(special=["<s>", "<unk>"], unknown=1), {}, "no <pad>, </s>: not a"),
        (unigram(unknown=4), {}, "unknown text must become <unk>"),
        (unigram(unknown=None), {}, "unknown text must become <unk>"),
        (unigram(), {"tokenizer_class": None}, "model"),  # transformers takes it for WordPiece
        (unigram(), {"tokenizer_class": "XLMRobertaTokenizer"}, "tokenizer_class is 'XLMR"),
        (unigram(), {"cls_token": "[CLS]"}, r"added tokens .*\[CLS\]"),
        (unigram(), {"mask_token": "<mask>"}, "added tokens .*<mask>"),
        (unigram(), {"unk_token": "the"}, "unk_token is 'the'; minibert reads .*<unk>"),
        (unigram(special=[*SPECIAL, *SENTENCEPIECE], unknown=8), {}, r"must become \[UNK\]"),
    ],
)
def test_sentencepiece_with_other_ids_is_rejected(tmp_path, library, changes, message):
    write_unigram(tmp_path, library, TOKENIZER_CLASS | changes)
    assert re.search(message, refused(tmp_path))


@pytest.mark.parametrize("unknown", [None, "<unk>"])
def test_unknown_word_without_its_piece_is_rejected(folder, unknown):
    Tokenizer.load(folder, len(SMALL)).save(folder)
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    raw["model"] |= {"unk_token": unknown or "missing"}
    (folder / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CLASS))
    assert "unknown text must become [UNK]" in refused(folder)


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


def test_saved_tokenizer_adds_special_tokens_for_other_programs(folder, tmp_path):
    Tokenizer.load(folder, len(SMALL)).save(folder)
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    raw["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")

    tokenizer = Tokenizer.load(folder, len(SMALL))
    tokenizer.save(tmp_path / "new")
    encoding = PieceTokenizer.from_file(str(tmp_path / "new" / "tokenizer.json")).encode("the")
    assert encoding.tokens == ["[CLS]", "the", "[SEP]"]
    assert encode(tokenizer, "the") == [("the", 0)]


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
