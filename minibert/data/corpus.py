"""Files, folders, zips and data sets of the Hub -> documents; a corpus with its three splits."""

import json
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from minibert.data.documents import Document, find_phrases
from minibert.data.splits import split_documents
from minibert.errors import InputError, check, fits
from minibert.files import refuse_pointer, sha256
from minibert.hub import download
from minibert.text.words import word_spans

# The names under which data sets publish each split.
SPLITS = {"train": ["train"], "dev": ["dev", "validation", "valid", "val"], "test": ["test"]}

SUFFIXES = (".jsonl", ".json", ".ndjson")  # of files with one JSON object a line

SAMPLE = Path(__file__).parent / "sample"

AnyPath = TypeVar("AnyPath", Path, zipfile.Path)

# One phrase of a line such as "a; b". A semicolon ends it, except in an entity: "R&amp;D".
PHRASE = re.compile(r"(?:&(?:#\w+|[a-z]{2,}\d*);|[^;])+")

# Fields under the names of published data sets -> our names.
ALIASES = {"document": "words", "doc_bio_tags": "labels", "tokens": "words", "tags": "labels"}


# Documents of one path --------------------------------------------------------------------------


def read_documents(path: str | Path) -> list[Document]:
    """Documents of a JSONL file, of a folder with the JSONL file of one split, or of a folder or
    zip with docsutf8/NAME.txt and keys/NAME.key.

    Raises InputError, with file and line, for anything else.
    """
    path = Path(path)
    check(path.exists(), f"{path}: no such file or folder")
    path = document_file(path)
    refuse_pointer(path)

    read = _read_published if _is_published_layout(path) else _read_jsonl
    documents = list(read(path))
    check(documents, f"{path}: no documents in it")
    for document_id, count in Counter(d.id for d in documents).items():
        check(count == 1, f"{path}: the id {document_id!r} occurs {count} times; ids must differ")
    return documents


def document_file(path: str | Path) -> Path:
    """`path`; for a folder with one train, dev or test file, that file. Raises InputError for a
    folder with several such files, or with one beside docsutf8."""
    path = Path(path)
    if not path.is_dir():
        return path

    names = {name for names in SPLITS.values() for name in names}
    files = [
        file
        for file in sorted(_visible(path))
        if file.suffix.lower() in SUFFIXES and file.stem.lower() in names
    ]
    layouts = [file.name for file in files]
    if _subfolder(path, "docsutf8"):
        layouts.append("docsutf8")
    check(len(layouts) <= 1, f"{path}: holds {', '.join(layouts)}; name one file")
    return files[0] if files else path


# JSON lines -------------------------------------------------------------------------------------


def _read_jsonl(path: Path) -> Iterator[Document]:
    for where, line in read_lines(path):
        yield parse_document(line, where)


def read_lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """("file:line", line) for each line that is not blank. Raises InputError."""
    refuse_pointer(path)
    try:
        # Not splitlines(), which also splits at U+2028 and others inside a string.
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as UTF-8 text ({error})") from None
    return ((f"{path}:{i}", line) for i, line in enumerate(lines, 1) if line.strip())


def parse_object(line: str, where: str) -> dict:
    """One JSON line -> its object. `where`: the beginning of every error message."""
    try:
        raw = json.loads(line)
        json.dumps(raw, ensure_ascii=False).encode()  # fails for half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error})") from None
    expected = f"{where}: expected an object with id and text, found {line[:40]!r}"
    check(isinstance(raw, dict), expected)
    return raw


def parse_document(line: str, where: str) -> Document:
    """One JSON line -> a document. `where`: the beginning of every error message."""
    raw = parse_object(line, where)
    if "text" not in raw:
        raw = {ALIASES.get(key, key): value for key, value in raw.items()}
    if "sents" in raw:
        raw |= _words_and_labels(raw, where)

    parse = _from_words if "words" in raw else _from_text
    document = parse(str(field(raw, "id", str | int, where)), raw, where)
    check(document.words, f"{where}: document {document.id!r} has no word in its text; remove it")
    return document


def _words_and_labels(raw: dict, where: str) -> dict[str, list[str]]:
    """The words and labels of {"sents": [[[word, label], ...], ...]}."""
    sentences = field(raw, "sents", list[list[list[str]]], where)
    pairs = [pair for sentence in sentences for pair in sentence]
    right = all(len(pair) == 2 for pair in pairs)
    check(right, f"{where}: sents must hold [word, label] pairs")
    return {"words": [word for word, _ in pairs], "labels": [label for _, label in pairs]}


def _from_words(document_id: str, raw: dict, where: str) -> Document:
    """A document whose text is its words with a space between them."""
    words = field(raw, "words", list[str], where)
    labels = _optional_strings(raw, "labels", where)
    if labels is not None:
        counts = f"{where}: {len(words)} words but {len(labels)} labels"
        check(len(labels) == len(words), counts)

    spans, start = [], 0
    for word in words:
        check(word.strip(), f"{where}: an empty word")
        spans.append((start, start + len(word)))
        start += len(word) + 1

    keyphrases = _optional_strings(raw, "keyphrases", where)
    return Document(document_id, " ".join(words), spans, keyphrases, labels=labels)


def _from_text(document_id: str, raw: dict, where: str) -> Document:
    """A document of plain text. Its spans, if there are no keyphrases, are the keyphrases too."""
    text = field(raw, "text", str, where)
    keyphrases, spans = _optional_strings(raw, "keyphrases", where), None

    if "spans" in raw:
        values = field(raw, "spans", list[list[int | str]], where)
        right = all(
            fits(span[:2], list[int]) and len(span) >= 2 and 0 <= span[0] < span[1] <= len(text)
            for span in values
        )
        check(right, f"{where}: spans must be [start, end, ...] inside the text")
        spans = [(span[0], span[1]) for span in values]
        if keyphrases is None:
            keyphrases = list(dict.fromkeys(text[start:end] for start, end in spans))

    return Document(document_id, text, word_spans(text), keyphrases, spans)


def field(raw: dict, name: str, kind: Any, where: str) -> Any:
    """The value of a required field of a type, such as `list[str]`. Raises InputError."""
    check(name in raw, f"{where}: no field {name!r}; it has {', '.join(raw) or 'none'}")
    if not fits(raw[name], kind):
        expected = kind.__name__ if isinstance(kind, type) else kind
        raise InputError(f"{where}: {name} must be {expected}, not {str(raw[name])[:40]!r}")
    return raw[name]


def _optional_strings(raw: dict, name: str, where: str) -> list[str] | None:
    return field(raw, name, list[str], where) if name in raw else None


# The published layout: docsutf8/NAME.txt and keys/NAME.key --------------------------------------


def _is_published_layout(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() == ".zip"


def _read_published(path: Path) -> Iterator[Document]:
    for name, text_file, key_file in _published_files(path):
        text = _decode(text_file, path)
        words = word_spans(text)
        check(words, f"{path}: docsutf8/{text_file.name} has no word in it; remove it")

        lines = _decode(key_file, path).splitlines()
        phrases = [phrase.strip() for line in lines for phrase in PHRASE.findall(line)]
        yield Document(name, text, words, [phrase for phrase in phrases if phrase])


def _published_files(
    path: Path,
) -> Sequence[tuple[str, Path | zipfile.Path, Path | zipfile.Path]]:
    """(name, text file, key file) of each document, as 500N-KPCrowd is published, in `path` or one
    folder below. Raises InputError."""
    if path.is_dir():
        return _files_below(path, path)
    try:
        return _files_below(zipfile.Path(path), path)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a zip file ({error})") from None


def _files_below(root: AnyPath, path: Path) -> list[tuple[str, AnyPath, AnyPath]]:
    """The files of `_published_files` in the folder or zip `path`, which is open as `root`."""
    folders: list[AnyPath] = [root]
    folders += [folder for folder in _visible(root) if folder.is_dir()]
    homes = [folder for folder in folders if _subfolder(folder, "docsutf8")]
    if not homes:
        raise InputError(
            f"{path}: neither train.jsonl, dev.jsonl, test.jsonl nor docsutf8/*.txt with "
            "keys/*.key; name a file"
        )
    names = ", ".join(sorted(home.name for home in homes))
    check(len(homes) == 1, f"{path}: docsutf8 is in each of {names}; give one of them alone")

    texts = _files_with_suffix(_subfolder(homes[0], "docsutf8"), ".txt")
    keys = dict(_files_with_suffix(_subfolder(homes[0], "keys"), ".key"))
    for name, text in texts:
        check(name in keys, f"{path}: docsutf8/{text.name} has no keys/{name}.key")
    return [(name, text, keys[name]) for name, text in texts]


def _visible(folder: AnyPath) -> list[AnyPath]:
    """The files and folders in a folder, without those that macOS adds: .DS_Store, ._NAME,
    __MACOSX."""
    return [p for p in folder.iterdir() if not p.name.startswith((".", "__MACOSX"))]


def _subfolder(folder: AnyPath, name: str) -> AnyPath | None:
    """The folder with this name in `folder`, in upper or lower case."""
    return next((p for p in _visible(folder) if p.is_dir() and p.name.lower() == name), None)


def _files_with_suffix(folder: AnyPath | None, suffix: str) -> list[tuple[str, AnyPath]]:
    """(name without suffix, file) of each file with this suffix, in upper or lower case."""
    files = [p for p in _visible(folder) if p.suffix.lower() == suffix] if folder else []
    return [(Path(file.name).stem, file) for file in sorted(files, key=lambda p: p.name)]


def _decode(file: Path | zipfile.Path, path: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: {file.name} is not readable as UTF-8 text ({error})") from None


# A corpus with three splits ---------------------------------------------------------------------


class Corpus(NamedTuple):
    """Documents by split, the checksum of each file, and a note for the user."""

    splits: dict[str, list[Document]]
    checksums: dict[str, str]
    note: str = ""


def load_corpus(source: str | Path) -> Corpus:
    """Train, dev and test documents.

    `source`: "sample"; a folder with train.jsonl, dev.jsonl and test.jsonl; a path with {split} in
    it; one JSONL file, zip or docsutf8 folder, which is split here; or the Hub id of a data set
    whose files have these names.
    """
    source = os.path.expanduser(SAMPLE if source == "sample" else source)
    path = Path(source)
    if "{split}" in source:
        patterns = [source]
    else:
        if not path.exists():
            is_hub_id = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source)
            check(is_hub_id, f"{source}: no such file or folder")
            path = download(source, ["*.jsonl"], kind="dataset")
        patterns = [f"{path}/{{split}}{suffix}" for suffix in SUFFIXES]

    for files in map(_split_files, patterns):
        if "{split}" in source or any(file.exists() for file in files.values()):
            splits = {split: read_documents(file) for split, file in files.items()}
            note = "docsutf8 beside these files is not read" if (path / "docsutf8").exists() else ""
            return Corpus(splits, {str(f): sha256(f) for f in files.values()}, note)
    return _load_unsplit(path)


def _split_files(pattern: str) -> dict[str, Path]:
    """The file of each split for a path with {split} in it, whether it exists or not. Raises
    InputError if a split has several files."""
    files = {}
    for split, names in SPLITS.items():
        paths = [Path(pattern.replace("{split}", name)) for name in names]
        existing = [file for path in paths for file in _in_any_case(path)]
        if len(existing) > 1:
            both = f"{existing[0]} and {existing[1]}"
            raise InputError(f"{both}: either could be {split}; remove one")
        files[split] = (existing or paths)[0]
    return files


def _in_any_case(path: Path) -> list[Path]:
    """The files with the name of `path` in upper or lower case."""
    return [p for p in path.parent.glob("*") if p.name.lower() == path.name.lower()]


def _load_unsplit(path: Path) -> Corpus:
    """The corpus of one JSONL file, docsutf8 folder or zip, split here."""
    is_there = path.is_file() or path.is_dir()
    check(is_there, f"{path}: not a file; the documents are read again later, so save them")
    documents = read_documents(path)
    note = "split by minibert: 70 % train, 10 % dev, 20 % test, near-duplicates together"

    if _is_published_layout(path):
        complete = [document for document in documents if _has_its_phrases(document)]
        if len(complete) < len(documents):
            note += (
                f"; {len(documents) - len(complete)} documents left out, whose text has under a "
                "quarter of their keyphrases"
            )
        documents = complete

    files = [path]
    if path.is_dir():
        pairs = [(text, keys) for _, text, keys in _files_below(path, path)]
        files = sorted(file for pair in pairs for file in pair)
    return Corpus(split_documents(documents), {str(f): sha256(f) for f in files}, note)


def _has_its_phrases(document: Document) -> bool:
    """Whether the text has a quarter of the keyphrases: 500N-KPCrowd has only the title of 50
    documents."""
    runs_of_phrases = find_phrases(document, document.keyphrases or [])
    return 4 * sum(map(bool, runs_of_phrases)) >= len(runs_of_phrases)
