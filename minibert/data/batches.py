"""Documents -> windows that fit the model -> batches with a token budget."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from minibert.attention import Packing
from minibert.config import BertConfig
from minibert.data.documents import Document, Scheme, word_labels
from minibert.errors import check
from minibert.model import IGNORED, Bert
from minibert.text.tokenizer import Tokenizer

TOKENS = 4096  # word pieces computed at a time by default: eight windows of 512

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
    """A part of one document that fits the model. Each word is scored in exactly one window, at its
    first piece: in the window that shows the most text on both sides of it."""

    document: int
    input_ids: list[int]  # with [CLS] and [SEP]
    words: list[int]  # the words scored here
    positions: list[int]  # indices in input_ids of their first pieces
    owners: list[int]  # the word of each piece of input_ids; -1: punctuation, [CLS], [SEP]


def make_windows(
    documents: Sequence[Document], tokenizer: Tokenizer, max_length: int
) -> list[Window]:
    """Cut documents into windows of at most `max_length` pieces, overlapping by half."""
    check(max_length >= 8, f"windows of {max_length} pieces are too short; give at least 8")
    encoded = tokenizer.encode([d.text for d in documents], [d.words for d in documents])
    return [
        window
        for number, (ids, owners) in enumerate(encoded)
        for window in _windows_of_document(number, ids, owners, tokenizer, max_length - 2)
    ]


def _windows_of_document(
    number: int, ids: list[int], owners: list[int], tokenizer: Tokenizer, room: int
) -> list[Window]:
    """Windows of at most `room` pieces of one document; `owners`: the word of each piece."""
    # The last window is moved back to the end of the text, so that it is full too.
    starts = [*range(0, len(ids) - room, room // 2), max(0, len(ids) - room)]
    windows = [
        Window(
            document=number,
            input_ids=[tokenizer.cls_id, *ids[start : start + room], tokenizer.sep_id],
            words=[],
            positions=[],
            owners=[-1, *owners[start : start + room], -1],
        )
        for start in starts
    ]

    # A piece has the most text around it in the window whose middle is nearest. The borders lie
    # halfway between the middles of neighbouring windows.
    borders = [(a + b + room) / 2 for a, b in pairwise(starts)]
    for i, word in enumerate(owners):
        is_first_piece = word >= 0 and (i == 0 or owners[i - 1] != word)
        if is_first_piece:
            nearest = bisect_right(borders, i)
            windows[nearest].words.append(word)
            windows[nearest].positions.append(1 + i - starts[nearest])  # 1: [CLS]
    return windows


def make_batches(windows: Sequence[Window], tokens: int) -> list[list[Window]]:
    """Group windows, longest first. A group has at most `tokens` pieces, or is a single window."""
    groups: list[list[Window]] = []
    size = 0
    for window in sorted(windows, key=lambda w: -len(w.input_ids)):
        size += len(window.input_ids)
        if not groups or size > tokens:
            groups.append([])
            size = len(window.input_ids)
        groups[-1].append(window)
    return groups


# Splits -----------------------------------------------------------------------------------------


class Split(NamedTuple):
    """Documents ready for a tagger."""

    documents: list[Document]
    windows: list[Window]
    targets: list[list[int]]  # a label id per word of each document


def make_split(
    documents: list[Document],
    tokenizer: Tokenizer,
    scheme: Scheme,
    names: Sequence[str],
    max_length: int,
) -> Split:
    """Windows and label ids of documents; `names`: the labels in the order of their ids."""
    ids = {name: i for i, name in enumerate(names)}
    targets = [[ids[label] for label in word_labels(d, scheme)] for d in documents]
    return Split(documents, make_windows(documents, tokenizer, max_length), targets)


def make_splits(
    documents: Mapping[str, list[Document]],
    tokenizer: Tokenizer,
    scheme: Scheme,
    config: BertConfig,
    max_length: int,
) -> dict[str, Split]:
    """Every split of a corpus for a model with this config, in windows that fit the model."""
    length = min(max_length, config.max_position_embeddings)
    return {
        name: make_split(part, tokenizer, scheme, config.labels, length)
        for name, part in documents.items()
    }


def first_documents(split: Split, count: int) -> Split:
    """At most `count` documents of a split."""
    return Split(
        split.documents[:count],
        [window for window in split.windows if window.document < count],
        split.targets[:count],
    )


# Batches ----------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Padded tensors of some windows. `labels` are IGNORED except at the scored pieces."""

    input_ids: Tensor  # (B, L)
    attention_mask: Tensor  # (B, L)
    labels: Tensor  # (B, L)
    windows: list[Window]
    packing: Packing  # of attention_mask

    def to(self, device: torch.device) -> "Batch":
        """All but `attention_mask` on `device`. A GPU copies pinned memory without a wait."""
        used = [self.input_ids, self.labels]
        pinned = [x.pin_memory() for x in used] if device.type == "cuda" else used
        ids, labels = (x.to(device, non_blocking=True) for x in pinned)
        return self._replace(input_ids=ids, labels=labels, packing=self.packing.to(device))


def collate(windows: Sequence[Window], targets: Sequence[Sequence[int]] | None = None) -> Batch:
    """Pad windows to one batch; `targets` holds a label id for every word of every document."""
    shape = (len(windows), max(len(window.input_ids) for window in windows))
    input_ids = torch.zeros(shape, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED)

    for row, window in enumerate(windows):
        input_ids[row, : len(window.input_ids)] = torch.tensor(window.input_ids)
        attention_mask[row, : len(window.input_ids)] = 1
        if targets is not None and window.words:
            gold = [targets[window.document][word] for word in window.words]
            labels[row, window.positions] = torch.tensor(gold)

    return Batch(input_ids, attention_mask, labels, list(windows), Packing.of(attention_mask))


def embed_windows(bert: Bert, windows: Sequence[Window]) -> tuple[Tensor, Packing]:
    """The first layer's input (T, D) of some windows on the model's device, and their packing."""
    batch = collate(windows).to(bert.embeddings.word.weight.device)
    return bert.start(batch.input_ids, batch.packing), batch.packing
