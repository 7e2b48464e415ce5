"""Attention as links between the words of a text, and what the links make of each word."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from minibert.config import Head
from minibert.data.batches import Window, embed_windows, make_batches
from minibert.data.documents import Document
from minibert.evaluation.metrics import Array
from minibert.evaluation.tagger import ProgressBar
from minibert.model import Bert, SelfAttention

Strength = Literal["attention", "norm"]


TOKENS = 4096  # word pieces computed at a time


class Block(NamedTuple):
    """Links of one window: to the words that are scored there, from all that are seen there."""

    senders: int  # the first word seen
    receivers: int  # the first word scored
    strength: Array  # (seen, scored), zero from a word to itself


class Links(NamedTuple):
    """Directed links between the words of one document.

    A link i -> j is what the pieces of word i give to the pieces of word j, summed. In a text of
    several windows it is taken from the window in which word j is scored, so every pair counts
    once; words that no window shows together have no link.
    """

    count: int  # of words
    blocks: list[Block]

    def received(self) -> Array:
        """(words,) the strength of all links to each word."""
        out = np.zeros(self.count)
        for _, first, strength in self.blocks:
            out[first : first + strength.shape[1]] += strength.sum(0)
        return out

    def sent(self) -> Array:
        """(words,) the strength of all links from each word."""
        out = np.zeros(self.count)
        for first, _, strength in self.blocks:
            out[first : first + strength.shape[0]] += strength.sum(1)
        return out

    def spread(self, mass: Array) -> Array:
        """(words,) what arrives when each word sends its mass times the strength of its links."""
        out = np.zeros(self.count)
        for sender, first, strength in self.blocks:
            sending = mass[sender : sender + strength.shape[0]]
            out[first : first + strength.shape[1]] += sending @ strength
        return out

    def strongest(self, count: int) -> list[tuple[int, int, float]]:
        """The `count` strongest links (from, to, strength) from each word, strongest first."""
        best: dict[int, list[tuple[float, int]]] = {}
        for sender, first, strength in self.blocks:
            few = min(count, strength.shape[1])
            columns = np.argpartition(-strength, few - 1, axis=1)[:, :few]
            for i, row in enumerate(columns):
                found = [(float(strength[i, j]), int(first + j)) for j in row if strength[i, j] > 0]
                held = best.setdefault(sender + i, [])
                held[:] = sorted([*held, *found], key=lambda link: (-link[0], link[1]))[:count]
        return [(i, j, value) for i in sorted(best) for value, j in best[i]]

    def triples(self) -> Iterator[tuple[int, int, float]]:
        """Every link (from, to, strength) above zero."""
        for sender, first, strength in self.blocks:
            for i, j in zip(*np.nonzero(strength)):
                yield int(sender + i), int(first + j), float(strength[i, j])


def pagerank(
    links: Links,
    damping: float = 0.85,
    personalisation: Array | None = None,
    tolerance: float = 1e-10,
) -> Array:
    """(words,) the share of its time that a random reader spends at each word (Brin and Page 1998).

    With probability `damping` the reader follows a link, chosen by strength, otherwise goes to a
    word by `personalisation` (words,), at least one above zero, by default all alike; so too from
    a word that links nowhere. Iterated until no word changes by `tolerance` or more of the mean.
    Links that are not finite give NaN.
    """
    start = np.ones(links.count) if personalisation is None else personalisation
    start = start / start.sum()
    sent = links.sent()
    outward = np.divide(1, sent, out=np.zeros_like(sent), where=sent > 0)
    rank = start
    while True:
        lost = rank[sent == 0].sum()
        following = links.spread(rank * outward) + lost * start
        after = damping * following + (1 - damping) * start
        if not np.abs(after - rank).max() >= tolerance / links.count:
            return after
        rank = after


class LinkSums:
    """The links of each document, summed over heads by their weights, window by window."""

    def __init__(self, documents: Sequence[Document], heads: Mapping[Head, float]):
        self.heads = heads
        self.last = max((layer for layer, _ in heads), default=-1)
        self.blocks: list[list[Block]] = [[] for _ in documents]
        self.counts = [len(document.words) for document in documents]
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
            self.blocks[window.document].append(_by_words(window, total))

    def links(self) -> list[Links]:
        """Of each document."""
        ordered = (sorted(blocks, key=lambda block: block.receivers) for blocks in self.blocks)
        return [Links(count, blocks) for count, blocks in zip(self.counts, ordered)]


def word_links(
    bert: Bert,
    windows: Sequence[Window],
    documents: Sequence[Document],
    heads: Mapping[Head, float],
    strength: Strength = "attention",
    progress: ProgressBar = list,
) -> list[Links]:
    """The links of each document, summed over heads by their weights.

    "attention": attention probabilities. "norm": these times the length of the vector that they
    carry to the output (Kobayashi et al. 2020, eq. 4). [CLS], [SEP] and punctuation take no part.
    Layers above the highest head are not computed; heads that the model has lost give nothing.
    """
    present = [head for head in bert.config.present_heads if head in heads]
    sums = LinkSums(documents, {head: heads[head] for head in present})
    for piece in piece_links(bert, windows, present, strength, progress):
        sums.add(*piece)
    return sums.links()


def received_by_head(
    bert: Bert,
    windows: Sequence[Window],
    documents: Sequence[Document],
    strength: Strength = "attention",
) -> list[Array]:
    """(words, layers, heads) of each document: what `Links.received` is for every head alone; zero
    for heads that the model has lost."""
    return links_and_received(bert, windows, documents, {}, strength)[1]


def links_and_received(
    bert: Bert,
    windows: Sequence[Window],
    documents: Sequence[Document],
    heads: Mapping[Head, float],
    strength: Strength = "attention",
) -> tuple[list[Links], list[Array]]:
    """What `word_links` and `received_by_head` return, in one pass over the windows."""
    config = bert.config
    shape = (config.num_hidden_layers, config.num_attention_heads)
    received = [np.zeros((len(document.words), *shape)) for document in documents]
    present = config.present_heads
    sums = LinkSums(documents, {head: heads[head] for head in present if head in heads})

    for window, layer, chosen, links in piece_links(bert, windows, present, strength, list):
        sums.add(window, layer, chosen, links)
        place = np.ix_(window.words, [layer], chosen)
        received[window.document][place] = received_by_word(links, window).T[:, None]

    return sums.links(), received


@torch.no_grad()
def piece_links(
    bert: Bert,
    windows: Sequence[Window],
    heads: Sequence[Head],
    strength: Strength,
    progress: ProgressBar,
) -> Iterator[tuple[Window, int, list[int], Tensor]]:
    """(window, layer, heads, links (H, from, to)) of every window that has words, layer by layer
    where there are such heads."""
    of_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        of_layer.setdefault(layer, []).append(head)
    highest = max(of_layer, default=-1)
    for group in progress(make_batches([w for w in windows if w.words], TOKENS)):
        hidden, packing = embed_windows(bert, group)
        hidden_states = bert.hidden_states(hidden, packing)
        for number, hidden in zip(range(highest + 1), hidden_states):
            if number not in of_layer:
                continue
            attention, chosen = bert.layers[number].attention, of_layer[number]
            for window, own in zip(group, hidden.split(packing.lengths)):
                yield window, number, chosen, head_links(attention, own, chosen, strength)


def head_links(
    attention: SelfAttention, hidden: Tensor, heads: Sequence[int], strength: Strength
) -> Tensor:
    """(L, D) of one sequence -> (H, from, to) between its pieces, of these heads alone (original
    indices): attention probabilities, times the length of what they carry if `strength` is norm."""
    query, key = (_project(part, attention, hidden, heads) for part in ("query", "key"))
    probs = torch.softmax(query @ key.transpose(1, 2) / attention.head_size**0.5, -1)
    if strength == "attention":
        return probs
    value = _project("value", attention, hidden, heads)
    places = [attention.heads.index(head) for head in heads]
    output = attention.output.weight.unflatten(1, (-1, attention.head_size))[:, places]
    carried = torch.einsum("htk,dhk->htd", value, output)
    return probs * carried.norm(dim=-1)[:, None]


def _project(part: str, attention: SelfAttention, hidden: Tensor, heads: Sequence[int]) -> Tensor:
    """(L, D) -> (H, L, K): queries, keys or values of these heads alone."""
    linear, size = getattr(attention, part), attention.head_size
    places = [attention.heads.index(head) for head in heads]
    weight = linear.weight.unflatten(0, (-1, size))[places].flatten(0, 1)
    bias = linear.bias.unflatten(0, (-1, size))[places].flatten()
    return F.linear(hidden, weight, bias).unflatten(-1, (-1, size)).transpose(0, 1)


def _by_words(window: Window, links: Tensor) -> Block:
    """(from, to) between pieces -> a block between words."""
    first, own = words_of_pieces(window)
    strength = own.T @ links.cpu().to(own.dtype) @ own
    strength.fill_diagonal_(0)
    scored = [word - first for word in window.words]
    return Block(first, window.words[0], strength[:, scored].numpy())


def words_of_pieces(window: Window) -> tuple[int, Tensor]:
    """The first word that the window shows, and (pieces, words) 1 where a piece is of a word."""
    first = min(word for word in window.owners if word >= 0)
    owners = torch.tensor(window.owners) - first
    own = torch.zeros(len(owners), int(owners.max()) + 1, dtype=torch.float64)
    pieces = torch.tensor(window.owners) >= 0
    own[pieces, owners[pieces]] = 1
    return first, own


def received_by_word(links: Tensor, window: Window) -> Array:
    """(H, from, to) between the pieces of a window -> (H, words scored in it) what each of these
    words receives from other words; not from [CLS], [SEP] and punctuation."""
    owners = torch.tensor(window.owners, device=links.device)
    others = (owners[:, None] != owners) & (owners[:, None] >= 0)  # (from, to)
    by_piece = torch.einsum("hft,ft->ht", links, others.to(links.dtype))
    first, own = words_of_pieces(window)
    return (by_piece.double().cpu() @ own)[:, [word - first for word in window.words]].numpy()
