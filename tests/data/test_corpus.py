"""Documents from every form, labels by hand, and windows that lose no word."""

import hashlib
import json
import os
import random
import zipfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SPECIAL
from tokenizers.implementations import BertWordPieceTokenizer

from minibert.data.batches import (
    Window,
    collate,
    first_documents,
    make_batches,
    make_split,
    make_windows,
)
from minibert.data.corpus import (
    SAMPLE,
    load_corpus,
    parse_document,
    read_documents,
    split_documents,
)
from minibert.data.documents import Document, find_phrases, label_names, share_in_text, word_labels
from minibert.data.tokenizer import Tokenizer
from minibert.data.words import word_spans
from minibert.errors import InputError
from minibert.model import IGNORED

KPCROWD = Path(__file__).parents[3] / "shared" / "data" / "kpcrowd500"
GOOD = {"id": "a", "text": "A small text.", "keyphrases": ["small text"]}


def doc(text, keyphrases=None, id="d", **others):
    return Document(id, text, word_spans(text), keyphrases, **others)


def window(document, input_ids, words=(), positions=()):
    return Window(document, input_ids, [*words], [*positions], [-1] * len(input_ids))


def texts(document, runs):
    """Runs of words as the text they cover."""
    return [document.text[document.words[a][0] : document.words[b - 1][1]] for a, b in runs]


def one(path, content, name="one.jsonl", encoding="utf-8"):
    """The only document of a file with this content."""
    (path / name).write_bytes(content.encode(encoding))
    [document] = read_documents(path / name)
    return document


def published(path, documents):
    """Write {name: (text, keys)} as 500N-KPCrowd is published."""
    for folder in ("docsutf8", "keys"):
        (path / folder).mkdir(parents=True)
    for name, (text, keys) in documents.items():
        (path / "docsutf8" / f"{name}.txt").write_bytes(text.encode())
        (path / "keys" / f"{name}.key").write_bytes(keys.encode())
    return path


def zipped(path, folder, compression=zipfile.ZIP_DEFLATED):
    """The files of a folder in a zip, without entries for the folders."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for inner in sorted(folder.rglob("*.*")):
            file.write(inner, str(Path("corpus") / inner.relative_to(folder)))
    return path


# Reading ----------------------------------------------------------------------------------------


def test_text_with_keyphrases(tmp_path):
    document = one(tmp_path, json.dumps(GOOD) + "\n")
    assert document == Document(
        "a", "A small text.", [(0, 1), (2, 7), (8, 12)], ["small text"], None, None
    )


def test_text_alone_has_no_keyphrases(tmp_path):
    assert one(tmp_path, '{"id": 7, "text": "x"}') == Document("7", "x", [(0, 1)])


def test_spans_keep_start_and_end():
    line = '{"id": 1, "text": "big red dog", "spans": [[0, 3, "Task"], [4, 11]], "keyphrases": []}'
    document = parse_document(line, "f:1")
    assert document.spans == [(0, 3), (4, 11)]
    assert document.keyphrases == []


def test_spans_alone_are_the_keyphrases():
    line = '{"id": 1, "text": "big dog, big", "spans": [[0, 3], [9, 12], [4, 7]]}'
    assert parse_document(line, "f:1").keyphrases == ["big", "dog"]


@pytest.mark.parametrize(
    "fields",
    [
        {"words": ["A", "new-ish", "man", "."], "labels": ["D", "J", "N", "P"]},
        {"tokens": ["A", "new-ish", "man", "."], "tags": ["D", "J", "N", "P"]},
        {"document": ["A", "new-ish", "man", "."], "doc_bio_tags": ["D", "J", "N", "P"]},
        {"sents": [[["A", "D"], ["new-ish", "J"]], [], [["man", "N"], [".", "P"]]]},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_words_with_labels_under_every_name(fields):
    document = parse_document(json.dumps({"id": 3, **fields}), "f:1")
    assert document.id == "3"
    assert [document.text[a:b] for a, b in document.words] == ["A", "new-ish", "man", "."]
    assert document.labels == ["D", "J", "N", "P"]
    assert document.text == "A new-ish man ."


def test_words_without_labels_have_none():
    assert parse_document('{"id": 1, "words": ["a", "New York"]}', "f:1") == Document(
        "1", "a New York", [(0, 1), (2, 10)]
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_blank_lines_and_a_byte_order_mark_change_nothing(tmp_path, end, encoding):
    lines = ['{"id": 1, "text": "añ\u2028b"}', "", '{"id": 2, "text": "c"}', "  ", ""]
    (tmp_path / "x.jsonl").write_bytes(end.join(lines).encode(encoding))
    assert [(d.id, d.text) for d in read_documents(tmp_path / "x.jsonl")] == [
        ("1", "añ\u2028b"),
        ("2", "c"),
    ]


@pytest.mark.parametrize("form", ["folder", "folder in a folder", "zip"])
def test_published_form(tmp_path, form):
    folder = published(
        tmp_path / "corpus",
        {
            "b1": ("B side.\r\nEnd", "side\r\n\r\n b side \r\n"),
            "a2": ("\ufeffAlpha x", "\ufeffalpha"),
        },
    )
    (folder / "docsutf8" / "notes.md").write_text("not a document")
    path = {"folder": folder, "folder in a folder": tmp_path}.get(form)
    documents = read_documents(path or zipped(tmp_path / "x.zip", folder))
    assert documents == [
        doc("Alpha x", ["alpha"], "a2"),
        doc("B side.\nEnd", ["side", "b side"], "b1"),
    ]


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_published_form_in_upper_case_and_with_what_macos_adds(tmp_path, form):
    folder = tmp_path / "CORPUS"
    names = [
        "DOCSUTF8/0.TXT",
        "KEYS/0.KEY",
        "DOCSUTF8/._0.TXT",
        "DOCSUTF8/.DS_Store",
        "KEYS/._0.KEY",
    ]
    names += ["__MACOSX/docsutf8/._0.txt", "__MACOSX/docsutf8/0.txt", "__MACOSX/keys/0.key"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\x00\x05\x16\x07")
    (folder / "DOCSUTF8/0.TXT").write_text("Alpha x")
    (folder / "KEYS/0.KEY").write_text("alpha")
    path = folder if form == "folder" else zipped(tmp_path / "PLAIN.ZIP", folder)
    assert read_documents(path) == [doc("Alpha x", ["alpha"], "0")]


@pytest.mark.parametrize(
    ("keys", "phrases"),
    [
        ("red fox; blue dog", ["red fox", "blue dog"]),
        ("red fox;blue dog;\n ; den ;;", ["red fox", "blue dog", "den"]),
        ("\ufeffred fox ;\r\nblue dog\r\n", ["red fox", "blue dog"]),
        ("R&amp;D; AT&T; &#252;ber; a&b", ["R&amp;D", "AT&T", "&#252;ber", "a&b"]),
        ("", []),
    ],
)
def test_keys_are_a_phrase_a_line_or_several_between_semicolons(tmp_path, keys, phrases):
    folder = published(tmp_path / "corpus", {"a": ("Red fox", keys)})
    assert read_documents(folder)[0].keyphrases == phrases


@pytest.mark.parametrize("name", ["test.jsonl", "valid.json", "TRAIN.JSONL", "dev.ndjson"])
def test_the_only_split_of_a_folder_is_read(tmp_path, name):
    (tmp_path / name).write_text(json.dumps(GOOD))
    for other in ("._" + name, "test.pos.jsonl", "notes.jsonl", "test.txt"):
        (tmp_path / other).write_text("not to be read")
    assert [d.id for d in read_documents(tmp_path)] == ["a"]


@pytest.mark.parametrize("other", ["train.jsonl", "validation.json", "docsutf8", "DOCSUTF8"])
def test_a_folder_with_several_sets_of_documents_is_refused(tmp_path, other):
    (tmp_path / "test.jsonl").write_text(json.dumps(GOOD))
    (tmp_path / other).mkdir() if "." not in other else (tmp_path / other).write_text("")
    refused(tmp_path, "test.jsonl", other.lower() if "." not in other else other, "name one file")


def test_a_folder_with_several_published_collections_is_refused(tmp_path):
    for name in ("one", "two"):
        published(tmp_path / name, {"a": (name, name)})
    refused(tmp_path, "docsutf8 is in each of one, two")


def refused(path, *parts):
    """The message of the InputError that reading this path raises."""
    with pytest.raises(InputError) as error:
        read_documents(path)
    message = str(error.value)
    for part in (str(path), *parts):
        assert part in message
    return message


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("{", "not JSON"),
        ('{"id": 1, "text": "x"} {', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "object"),
        ('"text"', "object"),
        ("null", "object"),
        ('{"text": "x"}', "'id'"),
        ('{"id": 1}', "'text'"),
        ("{}", "'id'"),
        ('{"id": null, "text": "x"}', "id must"),
        ('{"id": true, "text": "x"}', "id must"),
        ('{"id": 1.5, "text": "x"}', "id must"),
        ('{"id": 1, "text": 5}', "text must"),
        ('{"id": 1, "text": ["x"]}', "text must"),
        ('{"id": 1, "text": ""}', "no word"),
        ('{"id": 1, "text": "  \\n"}', "no word"),
        ('{"id": 1, "text": "👍 🎉!"}', "no word"),
        ('{"id": 1, "text": "x", "keyphrases": "x"}', "keyphrases must"),
        ('{"id": 1, "text": "x", "keyphrases": ["x", 1]}', "keyphrases must"),
        ('{"id": 1, "text": "x", "keyphrases": null}', "keyphrases must"),
        ('{"id": 1, "text": "x", "keyphrases": {"x": 1}}', "keyphrases must"),
        ('{"id": 1, "text": "one", "spans": [[0, 4]]}', "spans must"),
        ('{"id": 1, "text": "one", "spans": [[-1, 2]]}', "spans must"),
        ('{"id": 1, "text": "one", "spans": [[2, 2]]}', "spans must"),
        ('{"id": 1, "text": "one", "spans": [[2, 1]]}', "spans must"),
        ('{"id": 1, "text": "one", "spans": [[0, 3], [1]]}', "spans must"),
        ('{"id": 1, "text": "one", "spans": [["0", "3"]]}', "spans must"),
        ('{"id": 1, "text": "one", "spans": [[0, 2.5]]}', "spans must"),
        ('{"id": 1, "text": "one", "spans": [[false, true]]}', "spans must"),
        ('{"id": 1, "text": "one", "spans": [0, 3]}', "spans must"),
        ('{"id": 1, "text": "one", "spans": {"0": 3}}', "spans must"),
        ('{"id": 1, "words": []}', "no word"),
        ('{"id": 1, "words": "one"}', "words must"),
        ('{"id": 1, "words": ["one", 2]}', "words must"),
        ('{"id": 1, "words": ["one", " \\u00a0"]}', "empty word"),
        ('{"id": 1, "words": ["one", ""]}', "empty word"),
        ('{"id": 1, "words": ["one", "two"], "labels": ["A"]}', "2 words but 1 labels"),
        ('{"id": 1, "words": ["one"], "labels": ["A", "B"]}', "1 words but 2 labels"),
        ('{"id": 1, "words": ["one"], "labels": [1]}', "labels must"),
        ('{"id": 1, "words": ["one"], "labels": "A"}', "labels must"),
        ('{"id": 1, "sents": [[["one", "A", "x"]]]}', "pairs"),
        ('{"id": 1, "sents": [[["one"]]]}', "pairs"),
        ('{"id": 1, "sents": [["one", "A"]]}', "sents must"),
        ('{"id": 1, "sents": []}', "no word"),
    ],
)
def test_a_bad_line_is_named_by_file_and_line(tmp_path, line, part):
    path = tmp_path / "bad.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n{line}\n", encoding="utf-8")
    assert refused(path, part).startswith(f"{path}:3: ")


def test_half_a_surrogate_pair_is_refused(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"id": 1, "text": "half \\ud83d pair"}')
    refused(tmp_path / "x.jsonl")


def test_the_error_for_a_list_says_of_what():
    with pytest.raises(InputError, match=r"keyphrases must be list\[str\]"):
        parse_document('{"id": 1, "text": "x", "keyphrases": [1]}', "f:1")


def test_ids_must_differ(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": 1, "text": "x"}\n{"id": "1", "text": "y"}\n')
    refused(path, "'1'", "2 times")


@pytest.mark.parametrize("content", ["", "\n \r\n", "\ufeff"])
def test_an_empty_file_is_refused(tmp_path, content):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content.encode())
    refused(path, "no documents")


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_text_that_is_not_utf8_is_refused(tmp_path, encoding):
    path = tmp_path / "x.jsonl"
    path.write_bytes('{"id": 1, "text": "é"}'.encode(encoding))
    refused(path, "UTF-8")


@pytest.mark.parametrize("name", ["x.jsonl", "x.zip", "folder"])
def test_a_missing_path_is_refused(tmp_path, name):
    refused(tmp_path / name, "no such file")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04"])
def test_a_zip_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "x.zip").write_bytes(content)
    refused(tmp_path / "x.zip", "not a zip")


@pytest.fixture
def damaged(tmp_path):
    """A function: zip with this compression, its text changed without its checksum -> path."""

    def damage(compression):
        path = published(tmp_path / "corpus", {"a": ("one " * 99, "one")})
        path = zipped(tmp_path / "x.zip", path, compression)
        content = bytearray(path.read_bytes())
        at = content.index(b"a.txt") + len("a.txt")  # where the text's data begin
        content[at : at + 4] = b"\xff\xff\xff\xff"
        path.write_bytes(content)
        return path

    return damage


def test_a_zip_with_a_wrong_checksum_is_refused(damaged):
    refused(damaged(zipfile.ZIP_STORED), "a.txt")


def test_a_damaged_zip_is_refused(damaged):
    refused(damaged(zipfile.ZIP_DEFLATED), "a.txt")


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_published_text_without_its_keys_is_refused(tmp_path, form):
    folder = published(tmp_path / "corpus", {"a": ("one", "one"), "b": ("two", "two")})
    (folder / "keys" / "b.key").unlink()
    path = folder if form == "folder" else zipped(tmp_path / "x.zip", folder)
    refused(path, "docsutf8/b.txt", "keys/b.key")


def test_a_published_text_without_words_or_not_in_utf8_is_refused(tmp_path):
    refused(published(tmp_path / "1", {"a": ("one", ""), "b": ("👍 ...", "x")}), "docsutf8/b.txt")
    folder = published(tmp_path / "2", {"a": ("one", "x")})
    (folder / "keys" / "a.key").write_bytes("é".encode("latin-1"))
    refused(folder, "a.key", "UTF-8")


def test_a_folder_without_documents_is_refused(tmp_path):
    refused(tmp_path, "docsutf8")
    (tmp_path / "docsutf8").mkdir()
    refused(tmp_path, "no documents")


# Corpora ----------------------------------------------------------------------------------------


def story(seed, words=60):
    """A text that shares no five words with another seed's."""
    draw = random.Random(f"story {seed}")
    return [f"w{draw.randrange(10**9)}" for _ in range(words)]


def stories(*word_lists):
    return [doc(" ".join(words), id=str(i)) for i, words in enumerate(word_lists)]


def ids_of(splits):
    return {split: {d.id for d in documents} for split, documents in splits.items()}


def lines_of(count, first=0):
    rows = ({"id": i, "text": " ".join(story(i))} for i in range(first, first + count))
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_the_sample():
    corpus = load_corpus("sample")
    assert {split: len(d) for split, d in corpus.splits.items()} == {
        "train": 62,
        "dev": 18,
        "test": 22,
    }
    every = [d for documents in corpus.splits.values() for d in documents]
    assert len({d.id for d in every}) == 102
    assert all(all(find_phrases(d, d.keyphrases)) for d in every)
    assert corpus.note == ""
    assert set(corpus.checksums) == {str(SAMPLE / f"{s}.jsonl") for s in corpus.splits}
    for path, checksum in corpus.checksums.items():
        assert checksum == hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize("dev", ["dev", "validation", "valid", "val", "Valid"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".ndjson", ".JSONL"])
@pytest.mark.parametrize("source", ["{}", "{}/{{split}}.jsonl"])
def test_a_folder_with_three_splits(tmp_path, dev, suffix, source):
    for first, split in enumerate(("train", dev, "test")):
        (tmp_path / f"{split}{suffix}").write_text(lines_of(1, first))
    corpus = load_corpus(source.format(tmp_path) if suffix == ".jsonl" else str(tmp_path))
    assert ids_of(corpus.splits) == {"train": {"0"}, "dev": {"1"}, "test": {"2"}}
    assert str(tmp_path / f"{dev}{suffix}") in corpus.checksums
    assert load_corpus(tmp_path) == load_corpus(str(tmp_path))
    file = str(tmp_path / f"test{suffix}")
    assert read_documents(file) == read_documents(Path(file))
    assert str(tmp_path / f"{dev}{suffix}") in corpus.checksums
    assert corpus.note == ""


@pytest.mark.parametrize("source", ["{}", "{}/{{split}}.jsonl"])
def test_two_files_that_could_be_one_split_are_refused(tmp_path, source):
    for first, split in enumerate(("train", "dev", "valid", "test")):
        (tmp_path / f"{split}.jsonl").write_text(lines_of(1, first))
    with pytest.raises(InputError, match=r"dev.jsonl and .*valid.jsonl: either could be dev"):
        load_corpus(source.format(tmp_path))


def test_splits_beside_docsutf8_are_read_and_the_note_says_so(tmp_path):
    published(tmp_path, {"a": ("one", "one")})
    for first, split in enumerate(("train", "dev", "test")):
        (tmp_path / f"{split}.jsonl").write_text(lines_of(1, first))
    corpus = load_corpus(str(tmp_path))
    assert ids_of(corpus.splits) == {"train": {"0"}, "dev": {"1"}, "test": {"2"}}
    assert "docsutf8 beside these files is not read" in corpus.note


def test_a_pipe_is_no_corpus(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"pipe: not a file; .* save them"):
        load_corpus(str(tmp_path / "pipe"))


@pytest.mark.parametrize("name", ["test.jsonl", "texts.zip"])
def test_a_git_lfs_pointer_is_refused_by_its_name(tmp_path, name):
    (tmp_path / name).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    with pytest.raises(InputError, match=f"{name}: a Git LFS pointer"):
        read_documents(tmp_path / name)


def test_a_path_with_the_split_in_it(tmp_path):
    for first, split in enumerate(("train", "dev", "test")):
        (tmp_path / split).mkdir()
        (tmp_path / split / "my.json").write_text(lines_of(1, first))
    corpus = load_corpus(f"{tmp_path}/{{split}}/my.json")
    assert ids_of(corpus.splits) == {"train": {"0"}, "dev": {"1"}, "test": {"2"}}


def test_a_path_with_the_split_in_it_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for first, split in enumerate(("train", "dev", "test")):
        (tmp_path / f"{split}.jsonl").write_text(lines_of(1, first))
    assert load_corpus("~").splits
    assert load_corpus("~/{split}.jsonl").splits


@pytest.mark.parametrize("missing", ["train", "dev", "test"])
@pytest.mark.parametrize("source", ["{}", "{}/{{split}}.jsonl"])
def test_a_missing_split_is_refused(tmp_path, missing, source):
    for first, split in enumerate({"train", "dev", "test"} - {missing}):
        (tmp_path / f"{split}.jsonl").write_text(lines_of(1, first))
    with pytest.raises(InputError, match=f"{missing}.jsonl: no such file"):
        load_corpus(source.format(tmp_path))


@pytest.mark.parametrize("source", ["missing.jsonl", "{split}.jsonl", "no/such/folder"])
def test_a_missing_corpus_is_refused(tmp_path, source):
    with pytest.raises(InputError, match="no such file"):
        load_corpus(f"{tmp_path}/{source}")


def test_a_hub_id_is_downloaded_as_a_data_set(tmp_path, monkeypatch):
    def download(repository, patterns, kind):
        assert (repository, patterns, kind) == ("some.one/a-set", ["*.jsonl"], "dataset")
        return tmp_path

    monkeypatch.setattr("minibert.data.corpus.download", download)
    monkeypatch.chdir(tmp_path)
    for first, split in enumerate(("train", "validation", "test")):
        (tmp_path / f"{split}.jsonl").write_text(lines_of(1, first))
    assert ids_of(load_corpus("some.one/a-set").splits)["dev"] == {"1"}


@pytest.mark.parametrize("name", ["all.jsonl", "all.json", "all.ndjson", "all"])
def test_a_single_file_is_split_70_10_20(tmp_path, name):
    """Of texts without keyphrases, which is no reason to leave them out."""
    path = tmp_path / name
    path.write_text(lines_of(50))
    corpus = load_corpus(str(path))
    assert {split: len(d) for split, d in corpus.splits.items()} == {
        "train": 35,
        "dev": 5,
        "test": 10,
    }
    assert set().union(*ids_of(corpus.splits).values()) == {str(i) for i in range(50)}
    assert corpus.checksums == {str(path): hashlib.sha256(path.read_bytes()).hexdigest()}
    assert "split by minibert" in corpus.note
    assert "left out" not in corpus.note
    assert ids_of(load_corpus(str(path)).splits) == ids_of(corpus.splits)


def test_documents_without_their_keyphrases_are_left_out(tmp_path):
    """One phrase of four is enough, one of five is not; spans speak for themselves."""
    whole = {f"t{i}": " ".join(story(i)) for i in range(10)}
    folder = published(
        tmp_path / "corpus",
        {
            **{name: (text, text.split()[3]) for name, text in whole.items()},
            "quarter": ("Some title", "title\nx\ny\nz"),
            "fifth": ("Another title", "title\nx\ny\nz\nv"),
            "none": ("A third title", "x"),
            "no keys": ("A fourth title", ""),
        },
    )
    corpus = load_corpus(str(folder))
    kept = set().union(*ids_of(corpus.splits).values())
    assert kept == {*whole, "quarter", "no keys"}
    assert "; 2 documents left out" in corpus.note
    assert len(corpus.checksums) == 28


def test_split_sizes_and_a_split_that_depends_on_the_seed_alone():
    documents = stories(*map(story, range(100)))
    splits = split_documents(documents)
    assert {split: len(d) for split, d in splits.items()} == {"train": 70, "dev": 10, "test": 20}
    assert sorted(d.id for s in splits.values() for d in s) == sorted(d.id for d in documents)
    assert ids_of(split_documents(documents)) == ids_of(splits)
    assert ids_of(split_documents(documents, seed=1)) != ids_of(splits)


def test_near_duplicates_stay_together():
    """Reprints, cut reprints, and a chain whose ends share nothing."""
    reprint = [story(0), [*story(0)[:50], *story("end")], ["Reuters", *story(0)[:20]]]
    chain = [
        [*story("a"), *story("b")],
        [*story("b"), *story("c")[:50]],
        [*story("c"), *story("d")[:30]],
    ]
    words = [*map(story, range(1, 30)), *reprint, *chain]
    for seed in range(25):
        random.Random(seed).shuffle(words)
        documents = stories(*words)
        of = {d.id: s for s, found in split_documents(documents, seed).items() for d in found}
        assert len(of) == len(words)
        for group in (reprint, chain):
            assert len({of[str(words.index(member))] for member in group}) == 1


def test_near_duplicates_share_more_than_half_of_their_five_word_runs():
    """16 words have 12 runs: 6 of them shared leave 20 documents apart, 7 make them one."""
    half = [[*story("same", 10), *story(i, 6)] for i in range(20)]
    assert len(split_documents(stories(*half))["train"]) == 14
    more = [[*story("same", 11), *story(i, 5)] for i in range(20)]
    with pytest.raises(InputError, match="20 documents are too few"):
        split_documents(stories(*more))


def test_near_duplicates_are_found_without_case_and_punctuation():
    loud = [f"({word.upper()})," for word in story(0)]
    for seed in range(10):
        documents = stories(story(0), loud, *map(story, range(1, 20)))
        assert any({"0", "1"} <= ids for ids in ids_of(split_documents(documents, seed)).values())


@pytest.mark.parametrize("count", [4, 5, *range(7, 31)])
def test_no_split_is_empty(count):
    assert all(split_documents(stories(*map(story, range(count)))).values())


def test_no_split_of_six_documents_is_empty():
    assert all(split_documents(stories(*map(story, range(6)))).values())


def test_no_split_is_empty_where_some_documents_are_near_duplicates():
    documents = stories(*[story(0)] * 4, *map(story, range(1, 17)))
    for seed in range(50):
        assert all(split_documents(documents, seed).values())


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_documents_are_refused(count):
    with pytest.raises(InputError, match=f"{count} documents are too few"):
        split_documents(stories(*map(story, range(count))))


@pytest.fixture(scope="module")
def kpcrowd():
    path = KPCROWD / "500N-KPCrowd-v1.1.zip"
    if not path.exists():
        pytest.skip(f"{path} is not here: a collection that is not ours to pass on")
    return load_corpus(str(path))


def test_kpcrowd_has_450_whole_documents(kpcrowd):
    assert {split: len(d) for split, d in kpcrowd.splits.items()} == {
        "train": 315,
        "dev": 45,
        "test": 90,
    }
    assert "; 50 documents left out" in kpcrowd.note


def test_kpcrowd_near_duplicates_are_in_one_split(kpcrowd):
    """The same article under two categories ("business-20871890", "tech-20871890")."""
    split_of = {}
    for split, documents in kpcrowd.splits.items():
        for document in documents:
            split_of.setdefault(document.id.rsplit("-", 1)[1], set()).add(split)
    assert {len(splits) for splits in split_of.values()} == {1}
    assert len(split_of) < 450


def test_kpcrowd_phrases_are_found_in_their_texts(kpcrowd):
    found = [
        bool(runs)
        for documents in kpcrowd.splits.values()
        for document in documents[::3]
        for runs in find_phrases(document, document.keyphrases)
    ]
    assert len(found) > 5000
    assert sum(found) >= 0.99 * len(found)


# Labels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
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
def test_find_phrases(text, phrase, found):
    document = doc(text)
    [runs] = find_phrases(document, [phrase])
    assert texts(document, runs) == found


def test_find_phrases_gives_word_numbers_for_each_phrase_in_turn():
    document = doc("Red fox, red hen; the red fox den.")
    assert find_phrases(document, ["fox", "red fox", "cow", "red"]) == [
        [(1, 2), (6, 7)],
        [(0, 2), (5, 7)],
        [],
        [(0, 1), (2, 3), (5, 6)],
    ]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["x", "xb", "b", "B.", "(bx)", "x-b", "c"]), min_size=1), st.data())
def test_find_phrases_finds_the_runs_that_spell_a_phrase_and_no_other(words, drawn):
    document = doc(" ".join(words))
    first = drawn.draw(st.integers(0, len(words) - 1))
    last = drawn.draw(st.integers(first + 1, len(words)))
    spelt = ["".join(filter(str.isalpha, word)).lower() for word in words]
    phrase = "".join(spelt[first:last])
    runs = [
        (i, j)
        for i in range(len(words))
        for j in range(i + 1, len(words) + 1)
        if "".join(spelt[i:j]) == phrase
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
    """Spans decide alone: "one" is a keyphrase elsewhere."""
    document = doc("one two thr (x)", ["one"], spans=spans)
    assert "".join(word_labels(document, "io")) == io
    assert "".join(word_labels(document, "bio")) == bio


def test_given_labels_and_the_names_of_each_scheme():
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
def test_labels_of_a_document_without_any_are_refused(scheme):
    with pytest.raises(InputError, match=r"'some id'.*--labels given"):
        word_labels(doc("text", id="some id"), scheme)


def test_the_share_of_the_gold_that_stands_in_the_text():
    """fox and red-dog, of four phrases; those given as spans count like the others."""
    documents = [
        doc("A red dog.", ["red-dog", "dogs"]),
        doc("The fox", ["fox", "wind"], spans=[(4, 7)]),
        doc("No gold", []),
        doc("None given"),
    ]
    assert share_in_text(documents) == 0.5
    assert share_in_text(documents[2:]) is None


# Windows and batches ----------------------------------------------------------------------------


def check_windows(documents, windows, pieces, max_length):
    """Each word scored once, at its first piece, in the window whose middle is nearest."""
    encoded = pieces.encode([d.text for d in documents], [d.words for d in documents])
    scored = Counter((w.document, word) for w in windows for word in w.words)
    words = [(i, j) for i, d in enumerate(documents) for j in range(len(d.words))]
    assert scored == Counter(words)
    starts = {number: [] for number in range(len(documents))}
    for window in windows:
        assert len(window.input_ids) <= max_length
        first, *inner, last = window.input_ids
        assert (first, last) == (pieces.cls_id, pieces.sep_id)
        assert len(window.words) == len(window.positions)
        ids, owners = encoded[window.document]
        for word, position in zip(window.words, window.positions):
            start = owners.index(word) + 1 - position  # of the window in the document
            assert ids[start : start + len(inner)] == inner
            assert window.owners == [-1, *owners[start : start + len(inner)], -1]
            starts[window.document].append((start, start + len(inner), owners.index(word)))
    for found in starts.values():
        for start, end, piece in found:
            assert start <= piece < end
            middles = {(a + b) / 2 for a, b, _ in found}
            nearest = min(abs(piece + 0.5 - middle) for middle in middles)
            assert abs(piece + 0.5 - (start + end) / 2) <= nearest + 1


@settings(deadline=None, max_examples=100)
@given(
    lists=st.lists(
        st.lists(st.sampled_from(["the", "orchards", "o", "(x)", "a-b", "of", "深", "..", "qzj"]))
        .map(lambda words: [*words, "end"])
        .flatmap(lambda words: st.integers(1, 5).map(words.__mul__)),
        min_size=1,
        max_size=3,
    ),
    max_length=st.integers(8, 33),
)
def test_windows_score_each_word_once_at_its_first_piece(pieces, lists, max_length):
    documents = [doc(" ".join(words)) for words in lists]
    windows = make_windows(documents, pieces, max_length)
    check_windows(documents, windows, pieces, max_length)
    assert [w.document for w in windows] == sorted(w.document for w in windows)


@pytest.fixture
def letters(tmp_path):
    """A tokenizer with one piece a letter, numbered from 5: "a" is 5."""
    alphabet = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *alphabet]) + "\n")
    return Tokenizer.load(tmp_path, 31)


def test_windows_overlap_by_half(letters):
    """13 words of a piece each, seven at a time: from 0, 3 and 6, with middles 3.5, 6.5, 9.5."""
    alone, *windows = make_windows([doc("x"), doc("a b c d e f g h i j k l m")], letters, 9)
    assert alone == Window(0, [2, 28, 3], [0], [1], [-1, 0, -1])
    assert {w.document for w in windows} == {1}
    assert [w.input_ids for w in windows] == [
        [2, 5, 6, 7, 8, 9, 10, 11, 3],
        [2, 8, 9, 10, 11, 12, 13, 14, 3],
        [2, 11, 12, 13, 14, 15, 16, 17, 3],
    ]
    assert [w.owners for w in windows] == [[-1, *range(s, s + 7), -1] for s in (0, 3, 6)]
    assert [w.words for w in windows] == [[0, 1, 2, 3, 4], [5, 6, 7], [8, 9, 10, 11, 12]]
    assert [w.positions for w in windows] == [[1, 2, 3, 4, 5], [3, 4, 5], [3, 4, 5, 6, 7]]


@pytest.mark.parametrize(("words", "count"), [(1, 1), (6, 1), (7, 2), (9, 2), (10, 3), (12, 3)])
def test_there_are_no_more_windows_than_a_text_needs(letters, words, count):
    windows = make_windows([doc("a " * words)], letters, 8)
    assert len(windows) == count
    assert {len(w.input_ids) for w in windows} == {min(words, 6) + 2}


def test_a_word_longer_than_a_window_is_scored_at_its_first_piece(tmp_path):
    library = BertWordPieceTokenizer(
        {name: i for i, name in enumerate([*SPECIAL, "a", "##a", "b"])}, clean_text=True
    )
    pieces = Tokenizer(library._tokenizer, "here")
    documents = [doc("b " + "a" * 50 + " b")]
    check_windows(documents, make_windows(documents, pieces, 12), pieces, 12)


def test_a_document_of_100_000_words(pieces):
    document = doc("late frost " * 50_000)
    windows = make_windows([document], pieces, 512)
    assert [word for w in windows for word in w.words] == list(range(100_000))
    assert max(len(w.input_ids) for w in windows) == 512


@pytest.mark.parametrize("max_length", [-1, 0, 2, 7])
def test_windows_too_short_are_refused(pieces, max_length):
    with pytest.raises(InputError, match="at least 8"):
        make_windows([doc("x")], pieces, max_length)


LENGTHS = st.lists(st.integers(2, 60), max_size=30)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 200))
def test_batches_hold_each_window_once_within_the_budget(lengths, tokens):
    windows = [window(i, [1] * n) for i, n in enumerate(lengths)]
    groups = make_batches(windows, tokens)
    assert sorted(w.document for g in groups for w in g) == list(range(len(windows)))
    for group in groups:
        assert len(group) == 1 or sum(len(w.input_ids) for w in group) <= tokens
    flat = [len(w.input_ids) for g in groups for w in g]
    assert flat == sorted(lengths, reverse=True)
    for group, following in pairwise(groups):  # none is closed early
        assert sum(len(w.input_ids) for w in [*group, following[0]]) > tokens


def test_a_batch_may_reach_its_budget_and_a_longer_window_stands_alone():
    windows = [window(0, [1] * n) for n in (4, 30, 6, 5, 5, 9)]
    groups = make_batches(windows, 15)
    assert [[len(w.input_ids) for w in group] for group in groups] == [[30], [9, 6], [5, 5, 4]]


def test_collate_pads_and_labels_scored_pieces_alone():
    windows = [
        window(1, [2, 9, 8, 3], [2, 0], [1, 2]),
        window(0, [2, 7, 6, 5, 4, 3], [1], [4]),
        window(0, [2, 7, 3]),
    ]
    batch = collate(windows, [[10, 11], [20, 21, 22]])
    no = IGNORED
    assert batch.input_ids.tolist() == [[2, 9, 8, 3, 0, 0], [2, 7, 6, 5, 4, 3], [2, 7, 3, 0, 0, 0]]
    assert batch.attention_mask.tolist() == [[1] * 4 + [0] * 2, [1] * 6, [1] * 3 + [0] * 3]
    assert batch.labels.tolist() == [
        [no, 22, 20, no, no, no],
        [no, no, no, no, 11, no],
        [no] * 6,
    ]
    assert batch.windows == windows
    assert {t.dtype for t in batch[:3]} == {torch.int64}
    assert (collate(windows).labels == IGNORED).all()


def test_a_split_labels_every_word_of_every_document(pieces):
    documents = [doc("a red fox", ["red fox"]), doc("hen", [])]
    split = make_split(documents, pieces, "bio", ("O", "B", "I"), 16)
    assert split.targets == [[0, 1, 2], [0]]
    assert split.documents == documents
    assert split.windows == make_windows(documents, pieces, 16)
    batch = collate(split.windows, split.targets)
    assert sorted(batch.labels[batch.labels != IGNORED].tolist()) == [0, 0, 1, 2]


def test_the_first_documents_of_a_split(pieces):
    documents = [doc("late frost " * 20, id="a"), doc("hen", ["hen"], "b"), doc("fox", id="c")]
    documents = [d._replace(keyphrases=d.keyphrases or []) for d in documents]
    split = make_split(documents, pieces, "io", ("O", "I"), 16)
    for count in range(4):
        assert first_documents(split, count) == make_split(
            documents[:count], pieces, "io", ("O", "I"), 16
        )


def test_a_field_of_another_data_set_does_not_stand_in_for_the_text():
    line = json.dumps({"id": 1, "text": "two words", "tokens": 2, "keyphrases": ["words"]})
    assert parse_document(line, "f:1").text == "two words"
    line = json.dumps({"id": 1, "tokens": ["two", "words"], "tags": ["O", "B"]})
    assert parse_document(line, "f:1").labels == ["O", "B"]


def test_short_texts_that_are_the_same_stay_together():
    documents = stories(["one", "two"], ["one", "two"], *map(story, range(8)))
    for seed in range(20):
        splits = split_documents(documents, seed).values()
        homes = [{d.text for d in split} for split in splits]
        assert sum("one two" in home for home in homes) == 1
