"""Corpora -> labelled documents -> windows -> batches with a token budget."""

import json
import os
import random
import re
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from minibert.data.documents import (
    Document,
    find_phrases,
)
from minibert.data.words import word_spans
from minibert.errors import InputError, fits
from minibert.files import refuse_pointer, sha256
from minibert.hub import download

# The names under which data sets publish each split, and what their JSON lines are called.
SPLITS = {"train": ["train"], "dev": ["dev", "validation", "valid", "val"], "test": ["test"]}


SUFFIXES = (".jsonl", ".json", ".ndjson")


SAMPLE = Path(__file__).parent / "sample"


AnyPath = Path | zipfile.Path


# A phrase of a line of several, as in "a; b": semicolons end it, but for those of "R&amp;D".
PHRASE = re.compile(r"(?:&(?:#\w+|[a-z]{2,}\d*);|[^;])+")


# Fields under the names that published data sets use -> ours.
ALIASES = {"document": "words", "doc_bio_tags": "labels", "tokens": "words", "tags": "labels"}


# Reading ----------------------------------------------------------------------------------------


def read_documents(path: str | Path) -> list[Document]:
    """Documents of a JSONL file or of a folder with one split's JSONL file; or of a folder or zip
    with docsutf8/NAME.txt and keys/NAME.key.

    Raises InputError, with file and line, for anything that is not a document.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    path = document_file(path)
    refuse_pointer(path)
    read = _read_published if _is_published(path) else _read_jsonl
    documents = list(read(path))
    if not documents:
        raise InputError(f"{path}: no documents in it")
    for id, count in Counter(d.id for d in documents).items():
        if count > 1:
            raise InputError(f"{path}: the id {id!r} is there {count} times; ids must differ")
    return documents


def document_file(path: str | Path) -> Path:
    """`path`, or the train, dev or test file in it where it is a folder with one of them. Raises
    InputError where it holds several, or docsutf8 too."""
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
    if len(layouts) > 1:
        raise InputError(f"{path}: holds {', '.join(layouts)}; name one file")
    return files[0] if files else path


def _read_jsonl(path: Path) -> Iterator[Document]:
    for where, line in read_lines(path):
        yield parse_document(line, where)


def read_lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """("file:line", line) of every line that is not blank. Raises InputError."""
    refuse_pointer(path)
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as UTF-8 text ({error})") from None
    return ((f"{path}:{i}", line) for i, line in enumerate(lines, 1) if line.strip())


def parse_object(line: str, where: str) -> dict:
    """One JSON line -> an object; `where` begins the message of any error."""
    try:
        raw = json.loads(line)
        json.dumps(raw, ensure_ascii=False).encode()  # not so with half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error})") from None
    if not isinstance(raw, dict):
        raise InputError(f"{where}: expected an object with id and text, found {line[:40]!r}")
    return raw


def parse_document(line: str, where: str) -> Document:
    """One JSON line -> a document; `where` begins the message of any error."""
    raw = parse_object(line, where)
    if "text" not in raw:
        raw = {ALIASES.get(key, key): value for key, value in raw.items()}
    if "sents" in raw:  # [[[word, label], ...], ...]
        pairs = [
            pair
            for sentence in field(raw, "sents", list[list[list[str]]], where)
            for pair in sentence
        ]
        if any(len(pair) != 2 for pair in pairs):
            raise InputError(f"{where}: sents must hold [word, label] pairs")
        raw |= {"words": [w for w, _ in pairs], "labels": [label for _, label in pairs]}
    id = str(field(raw, "id", str | int, where))
    document = _from_words(id, raw, where) if "words" in raw else _from_text(id, raw, where)
    if not document.words:
        raise InputError(f"{where}: document {id!r} has no word in its text; remove it")
    return document


def _from_words(id: str, raw: dict, where: str) -> Document:
    words = field(raw, "words", list[str], where)
    labels = field(raw, "labels", list[str], where) if "labels" in raw else None
    if labels is not None and len(labels) != len(words):
        raise InputError(f"{where}: {len(words)} words but {len(labels)} labels")
    spans, start = [], 0
    for word in words:
        if not word.strip():
            raise InputError(f"{where}: an empty word")
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return Document(id, " ".join(words), spans, _keyphrases(raw, where), labels=labels)


def _from_text(id: str, raw: dict, where: str) -> Document:
    text = field(raw, "text", str, where)
    keyphrases, spans = _keyphrases(raw, where), None
    if "spans" in raw:
        given = field(raw, "spans", list[list[int | str]], where)
        spans = [(span[0], span[1]) for span in given if len(span) >= 2]
        if len(spans) < len(given) or not all(
            fits([a, b], list[int]) and 0 <= a < b <= len(text) for a, b in spans
        ):
            raise InputError(f"{where}: spans must be [start, end, ...] inside the text")
        if keyphrases is None:
            keyphrases = list(dict.fromkeys(text[start:end] for start, end in spans))
    return Document(id, text, word_spans(text), keyphrases, spans)


def _keyphrases(raw: dict, where: str) -> list[str] | None:
    return field(raw, "keyphrases", list[str], where) if "keyphrases" in raw else None


def field(raw: dict, name: str, kind: Any, where: str) -> Any:
    """A field that must be there and have a type, such as `list[str]`. Raises InputError."""
    if name not in raw:
        raise InputError(f"{where}: no field {name!r}; it has {', '.join(raw) or 'none'}")
    if not fits(raw[name], kind):
        expected = kind.__name__ if isinstance(kind, type) else kind
        raise InputError(f"{where}: {name} must be {expected}, not {str(raw[name])[:40]!r}")
    return raw[name]


def _is_published(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() == ".zip"


def _visible(folder: AnyPath) -> list[AnyPath]:
    """What a folder holds, less what macOS adds to it: .DS_Store, ._NAME, __MACOSX."""
    return [p for p in folder.iterdir() if not p.name.startswith((".", "__MACOSX"))]


def _subfolder(folder: AnyPath, name: str) -> AnyPath | None:
    """The folder of this name in `folder`, in upper or lower case."""
    return next((p for p in _visible(folder) if p.is_dir() and p.name.lower() == name), None)


def _files_in(folder: AnyPath | None, suffix: str) -> list[tuple[str, AnyPath]]:
    """(name without suffix, file) of each file with this suffix, in upper or lower case."""
    files = [Path(p.name) for p in _visible(folder)] if folder else []
    names = sorted(file for file in files if file.suffix.lower() == suffix)
    return [(name.stem, folder / name.name) for name in names]


def _published_files(path: Path) -> list[tuple[str, AnyPath, AnyPath]]:
    """(id, text, keys) of docsutf8/NAME.txt with keys/NAME.key, as 500N-KPCrowd is published, in
    `path` or one folder down. Raises InputError."""
    try:
        root = path if path.is_dir() else zipfile.Path(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a zip file ({error})") from None
    folders = [root, *filter(lambda p: p.is_dir(), _visible(root))]
    homes = [folder for folder in folders if _subfolder(folder, "docsutf8")]
    if not homes:
        raise InputError(
            f"{path}: neither train.jsonl, dev.jsonl, test.jsonl nor docsutf8/*.txt with "
            "keys/*.key; name a file"
        )
    if len(homes) > 1:
        names = ", ".join(sorted(home.name for home in homes))
        raise InputError(f"{path}: docsutf8 is in each of {names}; give one of them alone")

    keys = dict(_files_in(_subfolder(homes[0], "keys"), ".key"))
    texts = _files_in(_subfolder(homes[0], "docsutf8"), ".txt")
    for id, text in texts:
        if id not in keys:
            raise InputError(f"{path}: docsutf8/{text.name} has no keys/{id}.key")
    return [(id, text, keys[id]) for id, text in texts]


def _read_published(path: Path) -> Iterator[Document]:
    for id, file, key in _published_files(path):
        text = _decode(file, path)
        if not word_spans(text):
            raise InputError(f"{path}: docsutf8/{file.name} has no word in it; remove it")
        phrases = [
            p.strip() for line in _decode(key, path).splitlines() for p in PHRASE.findall(line)
        ]
        yield Document(id, text, word_spans(text), list(filter(None, phrases)))


def _decode(file: AnyPath, path: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: {file.name} is not readable as UTF-8 text ({error})") from None


# Splits -----------------------------------------------------------------------------------------


class Corpus(NamedTuple):
    """Documents by split, the checksum of each file, and what the user should know of them."""

    splits: dict[str, list[Document]]
    checksums: dict[str, str]
    note: str = ""


def load_corpus(source: str | Path) -> Corpus:
    """Train, dev and test documents.

    `source`: "sample"; a folder with train.jsonl, dev.jsonl and test.jsonl; a path with {split} in
    it; one JSONL file, zip or docsutf8 folder, which is then split by us; or the Hub id of a data
    set whose files have these names.
    """
    if source == "sample":
        source = str(SAMPLE)
    source = os.path.expanduser(source)
    path = Path(source)
    if "{split}" in source:
        patterns = [source]
    else:
        if not path.exists():
            if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source):
                raise InputError(f"{source}: no such file or folder")
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
    InputError where several could be it."""
    files = {}
    for split, names in SPLITS.items():
        paths = [Path(pattern.replace("{split}", name)) for name in names]
        present = [p for path in paths for p in _same_but_case(path)]
        if len(present) > 1:
            both = f"{present[0]} and {present[1]}"
            raise InputError(f"{both}: either could be {split}; remove one")
        files[split] = (present or paths)[0]
    return files


def _same_but_case(path: Path) -> list[Path]:
    return [p for p in path.parent.glob("*") if p.name.lower() == path.name.lower()]


def _load_unsplit(path: Path) -> Corpus:
    """One JSONL file, or a docsutf8 folder or zip, split by us."""
    if not (path.is_file() or path.is_dir()):
        raise InputError(f"{path}: not a file; the documents are read again later, so save them")
    documents = read_documents(path)
    note = "split by minibert: 70 % train, 10 % dev, 20 % test, near-duplicates together"
    sources = [path]
    if _is_published(path):
        whole = list(filter(_has_its_phrases, documents))
        if len(whole) < len(documents):
            note += (
                f"; {len(documents) - len(whole)} documents left out, whose text has under a "
                "quarter of their keyphrases"
            )
        documents = whole
    if path.is_dir():
        sources = [file for _, *files in _published_files(path) for file in files]
    return Corpus(split_documents(documents), {str(f): sha256(f) for f in sorted(sources)}, note)


def _has_its_phrases(document: Document) -> bool:
    """False for the 50 documents of which 500N-KPCrowd publishes the title alone."""
    found = find_phrases(document, document.keyphrases)
    return 4 * sum(map(bool, found)) >= len(found)


def split_documents(documents: list[Document], seed: int = 0) -> dict[str, list[Document]]:
    """70 % train, 10 % dev, 20 % test at random, with near-duplicates kept together.

    Two documents are near-duplicates when more than half of the shorter one's five-word runs stand
    in the other too: the same story printed twice, which would leak from train into test.
    """
    groups = _near_duplicates(documents)
    if len(groups) < 3:
        raise InputError(
            f"{len(documents)} documents are too few to split into train, dev and test"
        )
    random.Random(seed).shuffle(groups)
    groups.sort(key=len)
    splits = {"train": [], "dev": groups[0], "test": groups[1]}
    shares = {"train": 0.7, "dev": 0.1, "test": 0.2}
    for group in reversed(groups[2:]):
        neediest = max(splits, key=lambda s: shares[s] * len(documents) - len(splits[s]))
        splits[neediest] = splits[neediest] + group
    place = {document.id: i for i, document in enumerate(documents)}
    return {s: sorted(chosen, key=lambda d: place[d.id]) for s, chosen in splits.items()}


def _near_duplicates(documents: list[Document]) -> list[list[Document]]:
    runs = []
    holders = defaultdict(list)
    for i, document in enumerate(documents):
        words = document.forms()
        runs.append({tuple(words[j : j + 5]) for j in range(max(1, len(words) - 4))})
        for run in runs[-1]:
            holders[run].append(i)
    group = list(range(len(documents)))
    telling = [h for h in holders.values() if len(h) <= 20]  # what more share is boilerplate
    shared = Counter((i, j) for h in telling for i in h for j in h if i < j)
    for (i, j), count in shared.items():
        if 2 * count > min(len(runs[i]), len(runs[j])) and group[i] != group[j]:
            old, new = group[j], group[i]
            group = [new if g == old else g for g in group]
    grouped = defaultdict(list)
    for g, document in zip(group, documents):
        grouped[g].append(document)
    return list(grouped.values())
