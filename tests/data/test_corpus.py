"""Documents and corpora from every form of file; what is wrong is rejected with its place."""

import hashlib
import json
import os
import random
import zipfile
from pathlib import Path

import pytest

from minibert.data.corpus import SAMPLE, load_corpus, parse_document, read_documents
from minibert.data.documents import Document, find_phrases
from minibert.errors import InputError
from minibert.text.words import word_spans

KPCROWD = Path(__file__).parents[3] / "shared" / "data" / "kpcrowd500"
GOOD = {"id": "a", "text": "A small text.", "keyphrases": ["small text"]}


def doc(text, keyphrases=None, document_id="d", **others):
    return Document(document_id, text, word_spans(text), keyphrases, **others)


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


def test_spans_without_keyphrases_are_the_keyphrases():
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
def test_line_ends_blank_lines_and_byte_order_mark_are_ignored(tmp_path, end, encoding):
    lines = ['{"id": 1, "text": "añ\u2028b"}', "", '{"id": 2, "text": "c"}', "  ", ""]
    (tmp_path / "x.jsonl").write_bytes(end.join(lines).encode(encoding))
    assert [(d.id, d.text) for d in read_documents(tmp_path / "x.jsonl")] == [
        ("1", "añ\u2028b"),
        ("2", "c"),
    ]


@pytest.mark.parametrize("form", ["folder", "folder in a folder", "zip"])
def test_published_layout(tmp_path, form):
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
def test_published_layout_in_upper_case_with_macos_files(tmp_path, form):
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
def test_key_file_separates_phrases_by_lines_and_semicolons(tmp_path, keys, phrases):
    folder = published(tmp_path / "corpus", {"a": ("Red fox", keys)})
    assert read_documents(folder)[0].keyphrases == phrases


@pytest.mark.parametrize("name", ["test.jsonl", "valid.json", "TRAIN.JSONL", "dev.ndjson"])
def test_folder_with_one_split_is_read(tmp_path, name):
    (tmp_path / name).write_text(json.dumps(GOOD))
    for other in ("._" + name, "test.pos.jsonl", "notes.jsonl", "test.txt"):
        (tmp_path / other).write_text("not to be read")
    assert [d.id for d in read_documents(tmp_path)] == ["a"]


@pytest.mark.parametrize("other", ["train.jsonl", "validation.json", "docsutf8", "DOCSUTF8"])
def test_folder_with_several_document_files_is_rejected(tmp_path, other):
    (tmp_path / "test.jsonl").write_text(json.dumps(GOOD))
    (tmp_path / other).mkdir() if "." not in other else (tmp_path / other).write_text("")
    assert_rejected(
        tmp_path, "test.jsonl", other.lower() if "." not in other else other, "name one file"
    )


def test_folder_with_several_published_collections_is_rejected(tmp_path):
    for name in ("one", "two"):
        published(tmp_path / name, {"a": (name, name)})
    assert_rejected(tmp_path, "docsutf8 is in each of one, two")


def assert_rejected(path, *parts):
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
def test_bad_line_error_names_file_and_line(tmp_path, line, part):
    path = tmp_path / "bad.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n{line}\n", encoding="utf-8")
    assert assert_rejected(path, part).startswith(f"{path}:3: ")


def test_half_a_surrogate_pair_is_rejected(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"id": 1, "text": "half \\ud83d pair"}')
    assert_rejected(tmp_path / "x.jsonl")


def test_type_error_names_the_type_of_list_items():
    with pytest.raises(InputError, match=r"keyphrases must be list\[str\]"):
        parse_document('{"id": 1, "text": "x", "keyphrases": [1]}', "f:1")


def test_ids_must_differ(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": 1, "text": "x"}\n{"id": "1", "text": "y"}\n')
    assert_rejected(path, "'1'", "2 times")


@pytest.mark.parametrize("content", ["", "\n \r\n", "\ufeff"])
def test_empty_file_is_rejected(tmp_path, content):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content.encode())
    assert_rejected(path, "no documents")


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_file_that_is_not_utf8_is_rejected(tmp_path, encoding):
    path = tmp_path / "x.jsonl"
    path.write_bytes('{"id": 1, "text": "é"}'.encode(encoding))
    assert_rejected(path, "UTF-8")


@pytest.mark.parametrize("name", ["x.jsonl", "x.zip", "folder"])
def test_missing_path_is_rejected(tmp_path, name):
    assert_rejected(tmp_path / name, "no such file")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04"])
def test_file_that_is_not_a_zip_is_rejected(tmp_path, content):
    (tmp_path / "x.zip").write_bytes(content)
    assert_rejected(tmp_path / "x.zip", "not a zip")


@pytest.fixture
def damaged(tmp_path):
    """A function: compression -> path of a zip whose text was changed, but not its checksum."""

    def damage(compression):
        path = published(tmp_path / "corpus", {"a": ("one " * 99, "one")})
        path = zipped(tmp_path / "x.zip", path, compression)
        content = bytearray(path.read_bytes())
        start = content.index(b"a.txt") + len("a.txt")  # of the text's data
        content[start : start + 4] = b"\xff\xff\xff\xff"
        path.write_bytes(content)
        return path

    return damage


def test_zip_with_wrong_checksum_is_rejected(damaged):
    assert_rejected(damaged(zipfile.ZIP_STORED), "a.txt")


def test_damaged_zip_is_rejected(damaged):
    assert_rejected(damaged(zipfile.ZIP_DEFLATED), "a.txt")


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_published_text_without_key_file_is_rejected(tmp_path, form):
    folder = published(tmp_path / "corpus", {"a": ("one", "one"), "b": ("two", "two")})
    (folder / "keys" / "b.key").unlink()
    path = folder if form == "folder" else zipped(tmp_path / "x.zip", folder)
    assert_rejected(path, "docsutf8/b.txt", "keys/b.key")


def test_published_text_without_words_or_not_utf8_is_rejected(tmp_path):
    assert_rejected(
        published(tmp_path / "1", {"a": ("one", ""), "b": ("👍 ...", "x")}), "docsutf8/b.txt"
    )
    folder = published(tmp_path / "2", {"a": ("one", "x")})
    (folder / "keys" / "a.key").write_bytes("é".encode("latin-1"))
    assert_rejected(folder, "a.key", "UTF-8")


def test_folder_without_documents_is_rejected(tmp_path):
    assert_rejected(tmp_path, "docsutf8")
    (tmp_path / "docsutf8").mkdir()
    assert_rejected(tmp_path, "no documents")


def test_aliases_are_used_only_without_text():
    line = json.dumps({"id": 1, "text": "two words", "tokens": 2, "keyphrases": ["words"]})
    assert parse_document(line, "f:1").text == "two words"
    line = json.dumps({"id": 1, "tokens": ["two", "words"], "tags": ["O", "B"]})
    assert parse_document(line, "f:1").labels == ["O", "B"]


# Corpora ----------------------------------------------------------------------------------------


def story(seed, words=60):
    """A text that shares no five words with another seed's."""
    draw = random.Random(f"story {seed}")
    return [f"w{draw.randrange(10**9)}" for _ in range(words)]


def ids_of(splits):
    return {split: {d.id for d in documents} for split, documents in splits.items()}


def lines_of(count, first=0):
    rows = ({"id": i, "text": " ".join(story(i))} for i in range(first, first + count))
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_sample():
    corpus = load_corpus("sample")
    assert {split: len(d) for split, d in corpus.splits.items()} == {
        "train": 62,
        "dev": 18,
        "test": 22,
    }
    all_documents = [d for documents in corpus.splits.values() for d in documents]
    assert len({d.id for d in all_documents}) == 102
    assert all(all(find_phrases(d, d.keyphrases)) for d in all_documents)
    assert corpus.note == ""
    assert set(corpus.checksums) == {str(SAMPLE / f"{s}.jsonl") for s in corpus.splits}
    for path, checksum in corpus.checksums.items():
        assert checksum == hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize("dev", ["dev", "validation", "valid", "val", "Valid"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".ndjson", ".JSONL"])
@pytest.mark.parametrize("source", ["{}", "{}/{{split}}.jsonl"])
def test_folder_with_three_splits(tmp_path, dev, suffix, source):
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
def test_two_files_of_one_split_are_rejected(tmp_path, source):
    for first, split in enumerate(("train", "dev", "valid", "test")):
        (tmp_path / f"{split}.jsonl").write_text(lines_of(1, first))
    with pytest.raises(InputError, match=r"dev.jsonl and .*valid.jsonl: either could be dev"):
        load_corpus(source.format(tmp_path))


def test_splits_beside_docsutf8_are_read_with_a_note(tmp_path):
    published(tmp_path, {"a": ("one", "one")})
    for first, split in enumerate(("train", "dev", "test")):
        (tmp_path / f"{split}.jsonl").write_text(lines_of(1, first))
    corpus = load_corpus(str(tmp_path))
    assert ids_of(corpus.splits) == {"train": {"0"}, "dev": {"1"}, "test": {"2"}}
    assert "docsutf8 beside these files is not read" in corpus.note


def test_pipe_is_rejected(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"pipe: not a file; .* save them"):
        load_corpus(str(tmp_path / "pipe"))


@pytest.mark.parametrize("name", ["test.jsonl", "texts.zip"])
def test_git_lfs_pointer_is_rejected(tmp_path, name):
    (tmp_path / name).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    with pytest.raises(InputError, match=f"{name}: a Git LFS pointer"):
        read_documents(tmp_path / name)


def test_path_with_split_in_it(tmp_path):
    for first, split in enumerate(("train", "dev", "test")):
        (tmp_path / split).mkdir()
        (tmp_path / split / "my.json").write_text(lines_of(1, first))
    corpus = load_corpus(f"{tmp_path}/{{split}}/my.json")
    assert ids_of(corpus.splits) == {"train": {"0"}, "dev": {"1"}, "test": {"2"}}


def test_path_with_split_in_it_may_begin_with_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for first, split in enumerate(("train", "dev", "test")):
        (tmp_path / f"{split}.jsonl").write_text(lines_of(1, first))
    assert load_corpus("~").splits
    assert load_corpus("~/{split}.jsonl").splits


@pytest.mark.parametrize("missing", ["train", "dev", "test"])
@pytest.mark.parametrize("source", ["{}", "{}/{{split}}.jsonl"])
def test_missing_split_is_rejected(tmp_path, missing, source):
    for first, split in enumerate({"train", "dev", "test"} - {missing}):
        (tmp_path / f"{split}.jsonl").write_text(lines_of(1, first))
    with pytest.raises(InputError, match=f"{missing}.jsonl: no such file"):
        load_corpus(source.format(tmp_path))


@pytest.mark.parametrize("source", ["missing.jsonl", "{split}.jsonl", "no/such/folder"])
def test_missing_corpus_is_rejected(tmp_path, source):
    with pytest.raises(InputError, match="no such file"):
        load_corpus(f"{tmp_path}/{source}")


def test_hub_id_is_downloaded_as_data_set(tmp_path, monkeypatch):
    def download(repository, patterns, kind):
        assert (repository, patterns, kind) == ("some.one/a-set", ["*.jsonl"], "dataset")
        return tmp_path

    monkeypatch.setattr("minibert.data.corpus.download", download)
    monkeypatch.chdir(tmp_path)
    for first, split in enumerate(("train", "validation", "test")):
        (tmp_path / f"{split}.jsonl").write_text(lines_of(1, first))
    assert ids_of(load_corpus("some.one/a-set").splits)["dev"] == {"1"}


@pytest.mark.parametrize("name", ["all.jsonl", "all.json", "all.ndjson", "all"])
def test_single_file_is_split_70_10_20(tmp_path, name):
    """Texts without keyphrases are not left out."""
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
    """One phrase of four is enough, one of five is not."""
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
    kept_ids = set().union(*ids_of(corpus.splits).values())
    assert kept_ids == {*whole, "quarter", "no keys"}
    assert "; 2 documents left out" in corpus.note
    assert len(corpus.checksums) == 28


@pytest.fixture(scope="module")
def kpcrowd():
    path = KPCROWD / "500N-KPCrowd-v1.1.zip"
    if not path.exists():
        pytest.skip(f"{path} is missing: the collection may not be redistributed")
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
    found_phrases = [
        bool(runs)
        for documents in kpcrowd.splits.values()
        for document in documents[::3]
        for runs in find_phrases(document, document.keyphrases)
    ]
    assert len(found_phrases) > 5000
    assert sum(found_phrases) >= 0.99 * len(found_phrases)
