"""Documents -> windows that fit the model -> batches with a token budget."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from minibert.attention import Packing
from minibert.config import BertConfig
from minibert.data.corpus import (
    Corpus,
)
from minibert.data.documents import (
    Document,
    Scheme,
    word_labels,
)
from minibert.errors import InputError
from minibert.model import IGNORED, Bert
from minibert.tokenizer import Tokenizer

# Windows and batches ----------------------------------------------------------------------------


# Documents and words that are computed together: memory does not grow with the input.
CHUNK, CHUNK_WORDS = 64, 20_000


def chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Lists of documents to compute together, read when they are needed: at most CHUNK, and fewer
    if they are long."""
    part: list[Document] = []
    words = 0
    for document in documents:
        if part and (len(part) == CHUNK or words + len(document.words) > CHUNK_WORDS):
            yield part
            part, words = [], 0
        part.append(document)
        words += len(document.words)
    if part:
        yield part


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
    packing: Packing  # of attention_mask


def collate(windows: Sequence[Window], targets: Sequence[Sequence[int]] | None = None) -> Batch:
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
    return Batch(input_ids, attention_mask, labels, list(windows), Packing.of(attention_mask))


def embed_windows(bert: Bert, windows: Sequence[Window]) -> tuple[Tensor, Packing]:
    """The first layer's input (T, D) of some windows on the model's device, and their packing."""
    batch = collate(windows)
    device = bert.embeddings.word.weight.device
    packing = batch.packing.to(device)
    return bert.start(batch.input_ids.to(device), packing), packing
