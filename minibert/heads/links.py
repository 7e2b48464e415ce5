"""Attention as links between the words of a text, and PageRank over them.

The links of a document are one sparse matrix, (words, words): entry [i, j] is the attention that
the pieces of word i pay to the pieces of word j, summed. So `links.sum(axis=0)` is what each word
receives, and `mass @ links` is what arrives when every word sends out its mass.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_array, get_index_dtype
from torch import Tensor, nn
from torch.nn import functional as F

from minibert.config import Head
from minibert.data.batches import Window, embed_windows, make_batches
from minibert.data.documents import Document
from minibert.evaluation.metrics import Array
from minibert.evaluation.tagger import ProgressBar
from minibert.model import Bert, SelfAttention

TOKENS = 4096  # word pieces computed at a time


# Links of documents -----------------------------------------------------------------------------


def word_links(
    bert: Bert,
    windows: Sequence[Window],
    documents: Sequence[Document],
    heads: Mapping[Head, float],
) -> list[csc_array]:
    """The links of each document, (words, words), summed over heads by their weights.

    [CLS], [SEP] and punctuation neither send nor receive, and no word sends to itself. In a text of
    several windows, what a word receives is taken from the window that scores it. Words that no
    window shows together have no link. Layers above the highest head are not computed; heads that
    the model no longer has add nothing.
    """
    present = [head for head in bert.config.present_heads if head in heads]
    sums = LinkSums(documents, {head: heads[head] for head in present})
    for window, layer, chosen, links in piece_links(bert, windows, present):
        sums.add(window, layer, chosen, links)
    return sums.links()


def received_by_head(
    bert: Bert,
    windows: Sequence[Window],
    documents: Sequence[Document],
    heads: Collection[Head] | None = None,
) -> list[Array]:
    """(words, layers, heads) of each document: the attention that each head alone gives to every
    word; zero for heads that the model no longer has, and for all but `heads`, if given."""
    received = _zeros_by_head(bert, documents)
    present = [head for head in bert.config.present_heads if heads is None or head in heads]
    for window, layer, chosen, links in piece_links(bert, windows, present):
        _set_received(received, window, layer, chosen, links)
    return received


def _zeros_by_head(bert: Bert, documents: Sequence[Document]) -> list[Array]:
    shape = (bert.config.num_hidden_layers, bert.config.num_attention_heads)
    return [np.zeros((len(document.words), *shape)) for document in documents]


def _set_received(
    received: Sequence[Array], window: Window, layer: int, heads: Sequence[int], links: Tensor
) -> None:
    place = np.ix_(window.words, [layer], heads)
    received[window.document][place] = received_by_word(links, window).T[:, None]


class Attention(NamedTuple):
    """Attention to the words of each document."""

    links: list[csc_array]  # see `word_links`
    received: list[Array]  # see `received_by_head`
    from_cls: list[Array]  # (words,) from [CLS], mean over heads of the highest layer with heads


def word_attention(
    bert: Bert,
    windows: Sequence[Window],
    documents: Sequence[Document],
    heads: Mapping[Head, float],
) -> Attention:
    """All attention to words, in one pass over the windows. `heads`: those of the links."""
    received = _zeros_by_head(bert, documents)
    from_cls = [np.zeros(len(document.words)) for document in documents]
    present = bert.config.present_heads
    sums = LinkSums(documents, {head: heads[head] for head in present if head in heads})

    for window, layer, chosen, links in piece_links(bert, windows, present):
        sums.add(window, layer, chosen, links)
        _set_received(received, window, layer, chosen, links)
        if layer == present[-1][0]:
            from_cls[window.document][window.words] = sum_pieces(links[:, 0].mean(0), window)

    return Attention(sums.links(), received, from_cls)


class Block(NamedTuple):
    """Attention inside one window. Rows: every word in the window. Columns: the words that the
    window scores."""

    senders: NDArray[np.int32]  # (seen,)
    receivers: list[int]  # (scored,)
    strength: Array  # (seen, scored), zero from a word to itself


class LinkSums:
    """The links of each document, summed over heads by their weights, window by window."""

    def __init__(self, documents: Sequence[Document], heads: Mapping[Head, float]):
        self.heads = heads
        self.last = max((layer for layer, _ in heads), default=-1)
        self.blocks: list[list[Block]] = [[] for _ in documents]
        self.word_counts = [len(document.words) for document in documents]
        self.sums: dict[int, Tensor] = {}  # of the windows whose layers are not all added

    def add(self, window: Window, layer: int, heads: Sequence[int], links: Tensor) -> None:
        """Add one layer of a window, as `piece_links` yields it."""
        if layer > self.last:
            return
        weights = links.new_tensor([self.heads.get((layer, head), 0.0) for head in heads])
        before = self.sums.pop(id(window), torch.zeros((), device=links.device))
        total = before + torch.einsum("hft,h->ft", links, weights)

        if layer < self.last:
            self.sums[id(window)] = total
        else:
            self.blocks[window.document].append(between_words(window, total))

    def links(self) -> list[csc_array]:
        """Of each document."""
        return [join_blocks(*pair) for pair in zip(self.word_counts, self.blocks)]


def between_words(window: Window, links: Tensor) -> Block:
    """Sum links between the pieces of a window, (from, to), to links between its words."""
    first, membership = words_of_pieces(window)
    strength = membership.T @ links.cpu().to(membership.dtype) @ membership
    strength.fill_diagonal_(0)
    scored = [word - first for word in window.words]
    senders = np.arange(first, first + len(strength), dtype=np.int32)
    return Block(senders, window.words, strength[:, scored].numpy())


def join_blocks(words: int, blocks: Sequence[Block]) -> csc_array:
    """The blocks of one document as one matrix, (words, words)."""
    # Each word is scored in one window, so a block holds whole columns of the matrix: in the order
    # of the words they are the matrix in CSC format, and no entry has to be sorted.
    ordered = sorted(blocks, key=lambda block: block.receivers)
    index = get_index_dtype(maxval=sum(block.strength.size for block in ordered))
    lengths = np.zeros(words + 1, dtype=index)
    for block in ordered:
        lengths[np.add(block.receivers, 1)] = len(block.senders)

    senders = [np.tile(block.senders, len(block.receivers)) for block in ordered]
    strength = [block.strength.ravel("F") for block in ordered]
    columns = (
        np.concatenate([np.zeros(0), *strength]),
        np.concatenate([np.zeros(0, dtype=index), *senders], dtype=index),
        lengths.cumsum(dtype=index),
    )
    return csc_array(columns, shape=(words, words))


# Links of windows -------------------------------------------------------------------------------


@torch.no_grad()
def piece_links(
    bert: Bert, windows: Sequence[Window], heads: Sequence[Head], progress: ProgressBar = list
) -> Iterator[tuple[Window, int, list[int], Tensor]]:
    """(window, layer, heads, links (H, from, to)) of every window that has words, layer by layer,
    for the layers that have some of the `heads`."""
    heads_by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        heads_by_layer.setdefault(layer, []).append(head)
    highest = max(heads_by_layer, default=-1)

    for group in progress(make_batches([w for w in windows if w.words], TOKENS)):
        hidden, packing = embed_windows(bert, group)
        hidden_states = bert.hidden_states(hidden, packing)
        # In this order zip stops before it asks for the output of the highest layer.
        for layer, hidden in zip(range(highest + 1), hidden_states):
            if layer not in heads_by_layer:
                continue
            attention, chosen = bert.layers[layer].attention, heads_by_layer[layer]
            for window, window_hidden in zip(group, hidden.split(packing.lengths)):
                yield window, layer, chosen, head_links(attention, window_hidden, chosen)


def head_links(attention: SelfAttention, hidden: Tensor, heads: Sequence[int]) -> Tensor:
    """The attention probabilities of these heads alone (original indices) in one sequence:
    (L, D) -> (H, from, to)."""
    rows = [attention.heads.index(head) for head in heads]
    query = _project(attention.query, hidden, rows, attention.head_size)
    key = _project(attention.key, hidden, rows, attention.head_size)
    scores = query @ key.transpose(1, 2) / attention.head_size**0.5
    return torch.softmax(scores, -1)


def _project(linear: nn.Linear, hidden: Tensor, rows: Sequence[int], size: int) -> Tensor:
    """(L, D) -> (H, L, K): the projection by the rows of some heads alone."""
    weight = linear.weight.unflatten(0, (-1, size))[rows].flatten(0, 1)
    bias = linear.bias.unflatten(0, (-1, size))[rows].flatten()
    return F.linear(hidden, weight, bias).unflatten(-1, (-1, size)).transpose(0, 1)


def words_of_pieces(window: Window) -> tuple[int, Tensor]:
    """The first word in the window, and (pieces, words) 1 where a piece is of a word."""
    first = min(word for word in window.owners if word >= 0)
    owners = torch.tensor(window.owners) - first
    in_word = torch.tensor(window.owners) >= 0
    membership = torch.zeros(len(owners), int(owners.max()) + 1, dtype=torch.float64)
    membership[in_word, owners[in_word]] = 1
    return first, membership


def received_by_word(links: Tensor, window: Window) -> Array:
    """(H, from, to) between the pieces of a window -> (H, words scored in it): what each of these
    words receives from other words; [CLS], [SEP] and punctuation send nothing."""
    owners = torch.tensor(window.owners, device=links.device)
    from_others = (owners[:, None] != owners) & (owners[:, None] >= 0)  # (from, to)
    by_piece = torch.einsum("hft,ft->ht", links, from_others.to(links.dtype))
    return sum_pieces(by_piece, window)


def sum_pieces(values: Tensor, window: Window) -> Array:
    """(..., pieces of a window) -> (..., words scored in it): the sum over each word's pieces."""
    first, membership = words_of_pieces(window)
    by_word = values.double().cpu() @ membership
    return by_word[..., [word - first for word in window.words]].numpy()


# Links as a graph -------------------------------------------------------------------------------


def strongest_links(links: csc_array, count: int) -> list[tuple[int, int, float]]:
    """The `count` strongest links (from, to, strength) from each word, the strongest first, and of
    equals the one to the earliest word."""
    rows = links.tocsr()
    best = []
    for i, (start, end) in enumerate(pairwise(rows.indptr)):
        receivers, strength = rows.indices[start:end], rows.data[start:end]
        order = np.lexsort((receivers, -strength))[:count]
        best += [(i, int(receivers[k]), float(strength[k])) for k in order if strength[k] > 0]
    return best


def pagerank(links: csc_array, damping: float = 0.85, tolerance: float = 1e-10) -> Array:
    """(words,) the share of its time that a random reader spends at each word (Brin and Page 1998).

    With probability `damping` the reader follows a link, chosen by strength; otherwise, and from a
    word without links, the reader goes to any word. Iterated until no word changes by `tolerance`
    or more of the mean. Links that are not finite give NaN.
    """
    words = links.shape[0]
    if not words:
        return np.zeros(0)
    start = np.full(words, 1 / words)
    sent = links.sum(axis=1)
    outward = np.divide(1, sent, out=np.zeros_like(sent), where=sent > 0)

    rank = start
    while True:
        from_dead_ends = rank[sent == 0].sum()
        following = (rank * outward) @ links + from_dead_ends * start
        after = damping * following + (1 - damping) * start
        if not np.abs(after - rank).max() >= tolerance / words:  # also true of NaN
            return after
        rank = after
