"""Corpora -> labelled documents -> windows -> batches with a token budget."""

import json
import os
import random
import re
import zipfile
import zlib
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from minibert.config import BertConfig, fits
from minibert.errors import InputError
from minibert.files import refuse_pointer, sha256
from minibert.model import IGNORED
from minibert.tokenizer import Span, Tokenizer, normal_form, word_spans
from minibert.weights import download

Scheme = Literal["io", "bio", "given"]
# The names under which data sets publish each split, and what their JSON lines are called.
SPLITS = {"train": ["train"], "dev": ["dev", "validation", "valid", "val"], "test": ["test"]}
SUFFIXES = (".jsonl", ".json", ".ndjson")
SAMPLE = Path(__file__).parent / "sample"
AnyPath = Path | zipfile.Path
OUTSIDE = "O"  # the label of a word in no keyphrase

# A phrase of a line of several, as in "a; b": semicolons end it, but for those of "R&amp;D".
PHRASE = re.compile(r"(?:&(?:#\w+|[a-z]{2,}\d*);|[^;])+")

# Fields under the names that published data sets use -> ours.
ALIASES = {"document": "words", "doc_bio_tags": "labels", "tokens": "words", "tags": "labels"}


class Document(NamedTuple):
    """A text, its words as character spans, and what is known of them."""

    id: str
    text: str
    words: list[Span]
    keyphrases: list[str] | None = None
    spans: list[Span] | None = None  # where the keyphrases stand, if the collection says so
    labels: list[str] | None = None  # one per word, for any other token task

    def forms(self) -> list[str]:
        """Each word without case and punctuation; a word of punctuation alone stays as it is."""
        words = (self.text[start:end] for start, end in self.words)
        return [normal_form(word) or word for word in words]


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


# Stop words -------------------------------------------------------------------------------------


@cache
def stop_words() -> frozenset[str]:
    """English function words, and a few verbs that carry no topic, in normal form."""
    text = (Path(__file__).parent / "stop_words.txt").read_text(encoding="utf-8")
    return frozenset(normal_form(word) for word in text.split())


def is_stop_word(document: Document) -> list[bool]:
    """One for each word. A word of two to four capitals is an abbreviation (IT, U.S, WHO) and no
    stop word, unless a word beside it is in capitals too, as in a heading."""
    words = [document.text[start:end].replace(".", "") for start, end in document.words]
    capitals = [len(word) > 1 and word.isalpha() and word.isupper() for word in words]
    beside = [a or b for a, b in zip([False, *capitals], [*capitals[1:], False])]
    return [
        form in stop_words() and not (upper and len(word) <= 4 and not heading)
        for word, form, upper, heading in zip(words, document.forms(), capitals, beside)
    ]


# Labels -----------------------------------------------------------------------------------------


def find_phrases(document: Document, phrases: Iterable[str]) -> list[list[tuple[int, int]]]:
    """For each phrase, every run of words (first, last + 1) that spells it.

    Compared without case, spaces and punctuation on both sides, on word boundaries: 500N-KPCrowd's
    gold has its punctuation stripped ("changeofcommand" stands for "change-of-command"). A phrase
    that is a stop word but for its case must have that case: "IT" is not found in "it".
    """
    forms = document.forms()
    at = {0: 0}  # where a word begins in the letters of the whole text -> its number
    letters = 0
    for number, form in enumerate(forms, 1):
        letters += len(form)
        at[letters] = number
    text = "".join(forms)
    found = []
    for phrase in phrases:
        form = normal_form(phrase)
        starts = [m.start() for m in re.finditer(f"(?={re.escape(form)})", text)] if form else []
        runs = [(at[s], at[s + len(form)]) for s in starts if s in at and s + len(form) in at]
        if form in stop_words():
            runs = [run for run in runs if _same_case(document, run, phrase)]
        found.append(runs)
    return found


def share_in_text(documents: Iterable[Document]) -> float | None:
    """The share of the keyphrases that `find_phrases` finds in their texts; None without any."""
    places = [runs for d in documents for runs in find_phrases(d, d.keyphrases or [])]
    return sum(map(bool, places)) / len(places) if places else None


def _same_case(document: Document, run: tuple[int, int], phrase: str) -> bool:
    """Whether the letters of words and phrase are the same, but for a capital that begins a
    sentence."""
    words = document.text[document.words[run[0]][0] : document.words[run[1] - 1][1]]
    spelled, wanted = ("".join(filter(str.isalpha, part)) for part in (words, phrase))
    return wanted in (spelled, spelled[:1].lower() + spelled[1:])


def word_labels(document: Document, scheme: Scheme) -> list[str]:
    """One label per word: O or I (io); O, B or I (bio); or the document's own (given)."""
    if scheme == "given":
        if document.labels is None:
            raise InputError(f"document {document.id!r} has no labels; --labels given needs them")
        return document.labels
    if document.spans is not None:
        runs = [_words_in(document, span) for span in document.spans]
    elif document.keyphrases is not None:
        runs = [run for found in find_phrases(document, document.keyphrases) for run in found]
    else:
        raise InputError(
            f"document {document.id!r} has no keyphrases; for other labels: --labels given"
        )
    labels = [OUTSIDE] * len(document.words)
    for first, last in sorted(runs, key=lambda run: (run[0] - run[1], run)):  # longest first
        if scheme == "io":
            labels[first:last] = ["I"] * (last - first)
        elif first < last and set(labels[first:last]) == {OUTSIDE}:
            labels[first:last] = ["B"] + ["I"] * (last - first - 1)
    return labels


def _words_in(document: Document, span: Span) -> tuple[int, int]:
    """The run of words that a span of characters touches."""
    touched = [i for i, (a, b) in enumerate(document.words) if a < span[1] and span[0] < b]
    return (touched[0], touched[-1] + 1) if touched else (0, 0)


def label_names(documents: Iterable[Document], scheme: Scheme) -> tuple[str, ...]:
    """The labels of a scheme, O first."""
    if scheme != "given":
        return (OUTSIDE, "B", "I") if scheme == "bio" else (OUTSIDE, "I")
    names = {label for document in documents for label in word_labels(document, scheme)}
    return tuple(sorted(names, key=lambda name: (name != OUTSIDE, name)))


# Windows and batches ----------------------------------------------------------------------------


class Window(NamedTuple):
    """A stretch of one document that fits the model. Each word is scored in exactly one window,
    at its first piece, in the window that shows most of what surrounds it."""

    document: int
    input_ids: list[int]  # with [CLS] and [SEP]
    words: list[int]  # the words scored here
    positions: list[int]  # where in input_ids their first pieces stand
    owners: list[int]  # the word of each piece of input_ids; -1: punctuation, [CLS], [SEP]


def make_windows(
    documents: Sequence[Document], tokenizer: Tokenizer, max_length: int
) -> list[Window]:
    """Cut documents into windows of at most `max_length` pieces, overlapping by half."""
    if max_length < 8:
        raise InputError(f"windows of {max_length} pieces are too short; give at least 8")
    encoded = tokenizer.encode([d.text for d in documents], [d.words for d in documents])
    room = max_length - 2
    windows = []
    for number, (ids, words) in enumerate(encoded):
        starts = [*range(0, len(ids) - room, room // 2), max(0, len(ids) - room)]
        cut = [
            Window(
                document=number,
                input_ids=[tokenizer.cls_id, *ids[s : s + room], tokenizer.sep_id],
                words=[],
                positions=[],
                owners=[-1, *words[s : s + room], -1],
            )
            for s in starts
        ]
        # A piece has most around it in the window whose middle is nearest.
        borders = [(a + b + room) / 2 for a, b in pairwise(starts)]
        for i, word in enumerate(words):
            if word >= 0 and (i == 0 or words[i - 1] != word):
                nearest = bisect_right(borders, i)
                cut[nearest].words.append(word)
                cut[nearest].positions.append(1 + i - starts[nearest])
        windows += cut
    return windows


def make_batches(windows: Sequence[Window], tokens: int) -> list[list[Window]]:
    """Group windows, longest first; a group has at most `tokens` pieces, or is one window."""
    groups: list[list[Window]] = []
    size = 0
    for window in sorted(windows, key=lambda w: -len(w.input_ids)):
        size += len(window.input_ids)
        if not groups or size > tokens:
            groups.append([])
            size = len(window.input_ids)
        groups[-1].append(window)
    return groups


class Split(NamedTuple):
    """Documents ready for a tagger."""

    documents: list[Document]
    windows: list[Window]
    targets: list[list[int]]  # a label id per word


def make_split(
    documents: list[Document],
    tokenizer: Tokenizer,
    scheme: Scheme,
    names: Sequence[str],
    max_length: int,
) -> Split:
    ids = {name: i for i, name in enumerate(names)}
    targets = [[ids[label] for label in word_labels(d, scheme)] for d in documents]
    return Split(documents, make_windows(documents, tokenizer, max_length), targets)


def make_splits(
    corpus: Corpus, tokenizer: Tokenizer, scheme: Scheme, config: BertConfig, max_length: int
) -> dict[str, Split]:
    """Every split of a corpus for a model with this config, in windows that it can take."""
    length = min(max_length, config.max_position_embeddings)
    return {
        name: make_split(documents, tokenizer, scheme, config.labels, length)
        for name, documents in corpus.splits.items()
    }


def first_documents(split: Split, count: int) -> Split:
    """At most `count` documents of a split."""
    return Split(
        split.documents[:count],
        [window for window in split.windows if window.document < count],
        split.targets[:count],
    )


class Batch(NamedTuple):
    """Padded tensors of some windows; labels are IGNORED except at scored pieces."""

    input_ids: Tensor  # (B, L)
    attention_mask: Tensor  # (B, L)
    labels: Tensor  # (B, L)
    windows: list[Window]


def collate(windows: list[Window], targets: Sequence[Sequence[int]] | None = None) -> Batch:
    """Pad windows to one batch; `targets` holds a label id for every word of every document."""
    input_ids, attention_mask, labels = (
        torch.full((len(windows), max(len(w.input_ids) for w in windows)), fill)
        for fill in (0, 0, IGNORED)
    )
    for row, window in enumerate(windows):
        input_ids[row, : len(window.input_ids)] = torch.tensor(window.input_ids)
        attention_mask[row, : len(window.input_ids)] = 1
        if targets is not None and window.words:
            gold = [targets[window.document][word] for word in window.words]
            labels[row, window.positions] = torch.tensor(gold)
    return Batch(input_ids, attention_mask, labels, windows)
