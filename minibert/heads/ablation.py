"""What each head is worth: exact scores under many head masks, in one pass over the data.

Silencing a head of layer l leaves everything below l as it was, and the attention of layer l too:
the ablated attention output is the full one less the head's context through its columns of the
output projection. So each window is run once in full, its layers' inputs and contexts kept, and
each mask costs one subtraction, one feed-forward network and the layers above, several masks side
by side. The last layer's feed-forward network runs at scored positions only. All of it is exact up
to rounding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minibert.config import BertConfig, Head
from minibert.data.batches import Split, Window, embed_windows, make_batches
from minibert.data.documents import OUTSIDE
from minibert.evaluation.metrics import Array
from minibert.evaluation.tagger import ProgressBar, in_keyphrase, word_measures
from minibert.model import BertForTokenClassification
from minibert.pruning import keep_heads
from minibert.runtime.distributed import all_reduce_sum, local_windows


class Statistics(NamedTuple):
    """What V masks give on N documents with W words in all. Row 0 is the model without a mask."""

    loss: Array  # (1 + V, N) summed over a document's words
    right: Array  # (1 + V, N) words whose most probable label is the gold one
    ranks: Array  # (1 + V, W) log-odds of "not O", document after document


@torch.no_grad()
def ablate(
    model: BertForTokenClassification,
    split: Split,
    masks: Tensor,
    fill: Tensor | None = None,
    tokens: int = 768,
    progress: ProgressBar = list,
) -> Statistics:
    """Run the model under every mask of `masks` (V, layers, heads).

    `fill` (layers, heads, K) takes the place of what a mask takes away (see `mean_context`); by
    default nothing does. `tokens`: how many are computed at a time; memory grows with it, results
    do not depend on it. Masks cover the heads a model was born with, also those it no longer has.
    """
    layers = model.eval().bert.layers
    masks = check_masks(model, masks)
    constants = _constants(model, fill)
    changed = (masks != 1).any(-1)  # (V, layers)
    recorder = _Recorder(model, split, 1 + len(masks))
    for window in progress(local_windows(split.windows)):
        trace = EncoderTrace(model, [window])
        recorder.add([0], window, trace.last[None])
        side_by_side = max(1, tokens // len(window.input_ids))
        for number, layer in enumerate(layers):
            # The masks whose lowest change is here; those that change nothing go with the last.
            here = changed[:, number] & ~changed[:, :number].any(1)
            if number == len(layers) - 1:
                here |= ~changed.any(1)
            chosen = here.nonzero().flatten()
            if not len(chosen):
                continue
            removable = trace.contributions(number, constants[number], slice(None))
            for some in chosen.split(side_by_side):
                change = masks[some, number][:, layer.attention.heads] - 1
                moved = trace.attended[number] + torch.einsum("vh,htd->vtd", change, removable)
                hidden = layer.feed_forward(trace.inputs[number].expand_as(moved), moved)
                last = _above(trace, number + 1, hidden, masks[some], constants)
                recorder.add((1 + some).tolist(), window, last)
    return recorder.total()


@torch.no_grad()
def cumulative(
    model: BertForTokenClassification,
    split: Split,
    order: Sequence[Head],
    fill: Tensor | None = None,
    stride: int = 1,
    tokens: int = 1024,
    progress: ProgressBar = list,
) -> Statistics:
    """Mask the heads of `order` one after another, `stride` a step (the last step takes what is
    left); row s of the result has those of the first s steps masked.

    Each step reuses everything below the newly masked heads; a masked head is never computed.
    """
    steps = [order[start : start + stride] for start in range(0, len(order), stride)]
    model.eval()
    constants = _constants(model, fill)
    recorder = _Recorder(model, split, 1 + len(steps))
    for windows in progress(make_batches(local_windows(split.windows), tokens)):
        trace = EncoderTrace(model, windows)
        scored = [len(window.words) for window in windows]
        for row, heads in enumerate([[], *steps]):
            trace.remove(heads, constants)
            for window, hidden in zip(windows, trace.last.split(scored)):
                recorder.add([row], window, hidden[None])
    return recorder.total()


@torch.no_grad()
def mean_context(model: BertForTokenClassification, split: Split, tokens: int = 4096) -> Tensor:
    """(layers, heads, K) each head's context, averaged over the tokens of a split: what
    `fill` takes for mean ablation. Zero for heads that the model no longer has."""
    config = model.config
    shape = (config.num_hidden_layers, config.num_attention_heads, config.head_size)
    total = torch.zeros(shape, dtype=torch.float64)
    count = 0
    for windows in make_batches(split.windows, tokens):
        hidden, packing = embed_windows(model.eval().bert, windows)
        count += len(hidden)
        hidden_states = model.bert.hidden_states(hidden, packing)
        for number, (layer, hidden) in enumerate(zip(model.bert.layers, hidden_states)):
            context = layer.attention.context(hidden, packing)
            total[number, list(layer.attention.heads)] += context.sum(0).double().cpu()
    return total / count


def masks_without(config: BertConfig, silenced: Sequence[Sequence[Head]]) -> Tensor:
    """(V, layers, heads): one mask for each list of heads to silence."""
    masks = torch.ones(len(silenced), config.num_hidden_layers, config.num_attention_heads)
    for mask, heads in zip(masks, silenced):
        for head in heads:
            mask[head] = 0
    return masks


# What the statistics say ------------------------------------------------------------------------


def measure(
    statistics: Statistics,
    split: Split,
    names: Sequence[str],
    threshold: float | None,
    draws: Array,
) -> dict[str, Array]:
    """Each measure as (1 + R, 1 + V): under every row of `draws`, for no mask and every mask.

    Loss per word and, where O is a label, what `word_measures` gives; else accuracy per word.
    """
    words = np.array([len(target) for target in split.targets])
    per_word = draws @ words[:, None]
    out = {"loss": draws @ statistics.loss.T / per_word}
    if OUTSIDE not in names:
        return out | {"accuracy": draws @ statistics.right.T / per_word}
    gold = in_keyphrase(split.targets, names)
    cuts = np.cumsum(words)[:-1]
    every = [word_measures(gold, np.split(r, cuts), threshold, draws) for r in statistics.ranks]
    return out | {name: np.stack([m[name] for m in every], axis=1) for name in every[0]}


# The engine -------------------------------------------------------------------------------------


class EncoderTrace:
    """Some windows on their way through the model: what enters each layer (T, D), its heads'
    context (T, H, K), its attention output (T, D). In the last layer only scored tokens."""

    def __init__(self, model: BertForTokenClassification, windows: list[Window]):
        self.config = model.config
        self.layers = model.bert.layers
        self.attentions = [layer.attention for layer in self.layers]
        self.shifts: list[Tensor | float] = [0.0] * len(self.layers)  # from removed heads' fill
        self.inputs, self.contexts, self.attended = ([None] * len(self.layers) for _ in range(3))
        hidden, self.packing = embed_windows(model.bert, windows)
        starts = np.cumsum([0, *self.packing.lengths])
        rows = [start + p for start, w in zip(starts, windows) for p in w.positions]
        self.rows = torch.tensor(rows, dtype=torch.long, device=hidden.device)
        self.last = self._run(0, hidden)

    def _run(self, first: int, hidden: Tensor) -> Tensor:
        """From a layer's input (T, D) to the last layer's output at scored tokens."""
        for number in range(first, len(self.layers)):
            context = self.attentions[number].context(hidden, self.packing)
            if number == len(self.layers) - 1:
                context, hidden = context[self.rows], hidden[self.rows]
            attended = self.attentions[number].output(context.flatten(1)) + self.shifts[number]
            self.inputs[number], self.contexts[number] = hidden, context
            self.attended[number] = attended
            hidden = self.layers[number].feed_forward(hidden, attended)
        return hidden

    def contributions(self, layer: int, constant: Tensor | None, places: slice) -> Tensor:
        """(H, T, D) what the heads at these places add to the attention output, less what would
        take their place."""
        attention = self.attentions[layer]
        weight = attention.output.weight.unflatten(1, (len(attention.heads), attention.head_size))
        added = torch.einsum("thk,dhk->htd", self.contexts[layer][:, places], weight[:, places])
        return added if constant is None else added - constant[list(attention.heads[places]), None]

    def remove(self, heads: Sequence[Head], constants: list[Tensor | None]) -> None:
        """Drop heads for good, and run the layers from the lowest of them on again."""
        for layer, head in heads:
            attention = self.attentions[layer]
            place = attention.heads.index(head)
            (added,) = self.contributions(layer, constants[layer], slice(place, place + 1))
            self.attended[layer] = self.attended[layer] - added
            if constants[layer] is not None:
                self.shifts[layer] = self.shifts[layer] + constants[layer][head]
            kept = [i for i in range(len(attention.heads)) if i != place]
            self.attentions[layer] = keep_heads(
                attention, self.config, [attention.heads[i] for i in kept]
            )
            self.contexts[layer] = self.contexts[layer][:, kept]
        if heads:
            lowest = min(layer for layer, _ in heads)
            below, attended = self.inputs[lowest], self.attended[lowest]
            hidden = self.layers[lowest].feed_forward(below, attended)
            self.last = self._run(lowest + 1, hidden)


def _above(
    trace: EncoderTrace, first: int, hidden: Tensor, masks: Tensor, constants: list[Tensor | None]
) -> Tensor:
    """Several masks' inputs of layer `first`, (V, tokens of the one window, D), through the rest
    of the layers, each under its mask -> (V, scored tokens, D)."""
    variants = len(masks)
    packing = trace.packing._replace(lengths=trace.packing.lengths * variants)
    for number in range(first, len(trace.layers)):
        layer = trace.layers[number]
        context = layer.attention.context(hidden.flatten(0, 1), packing)
        context = context.unflatten(0, (variants, -1))  # (V, T, H, K)
        if number == len(trace.layers) - 1:
            context, hidden = context[:, trace.rows], hidden[:, trace.rows]
        factor = masks[:, number, list(layer.attention.heads)]  # (V, H)
        if (factor != 1).any():
            context = context * factor[:, None, :, None]
        attended = layer.attention.output(context.flatten(2))
        if constants[number] is not None:
            attended = attended + ((1 - masks[:, number]) @ constants[number])[:, None]
        hidden = layer.feed_forward(hidden, attended)
    return hidden


def _constants(model: BertForTokenClassification, fill: Tensor | None) -> list[Tensor | None]:
    """Per layer (heads, D): what each head's fill adds to the attention output; zero for heads
    that the model no longer has."""
    if fill is None:
        return [None] * len(model.bert.layers)
    constants = []
    for layer, own in zip(model.bert.layers, fill.to(model.classifier.weight)):
        heads = list(layer.attention.heads)
        weight = layer.attention.output.weight.unflatten(1, (len(heads), layer.attention.head_size))
        constant = own.new_zeros(len(own), len(weight))
        constant[heads] = torch.einsum("hk,dhk->hd", own[heads], weight)
        constants.append(constant)
    return constants


class _Recorder:
    """Collects the statistics of each window's scored words."""

    def __init__(self, model: BertForTokenClassification, split: Split, variants: int):
        labels = model.config.labels
        self.classifier = model.classifier
        self.targets = [torch.tensor(target) for target in split.targets]
        self.offsets = np.cumsum([0, *map(len, split.targets)])
        self.inside = [i for i, label in enumerate(labels) if label != OUTSIDE]
        self.outside = labels.index(OUTSIDE) if OUTSIDE in labels else None
        words = 0 if self.outside is None else self.offsets[-1]
        self.statistics = Statistics(
            np.zeros((variants, len(self.targets))),
            np.zeros((variants, len(self.targets))),
            np.zeros((variants, words)),
        )

    def add(self, variants: Sequence[int], window: Window, hidden: Tensor) -> None:
        """`hidden` (V, scored tokens, D): the last layer's output of one window."""
        logits = self.classifier(hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        log_probs = logits.log_softmax(-1).cpu()
        gold = self.targets[window.document][window.words]
        chosen = log_probs.gather(-1, gold.expand(len(variants), -1)[..., None])
        loss, right, ranks = self.statistics
        loss[variants, window.document] -= chosen.double().sum((1, 2)).numpy()
        right[variants, window.document] += (log_probs.argmax(-1) == gold).sum(1).numpy()
        if ranks.size:
            outside = log_probs[..., self.outside]
            inside = log_probs[..., self.inside].logsumexp(-1)
            words = self.offsets[window.document] + np.array(window.words, dtype=int)
            ranks[np.ix_(variants, words)] = (inside - outside).numpy()

    def total(self) -> Statistics:
        return Statistics(*map(all_reduce_sum, self.statistics))


def check_masks(model: BertForTokenClassification, masks: Tensor) -> Tensor:
    """`masks` in the model's precision and place; ValueError if not (V, layers, heads)."""
    shape = (model.config.num_hidden_layers, model.config.num_attention_heads)
    if masks.ndim != 3 or tuple(masks.shape[1:]) != shape:
        raise ValueError(f"masks must be (V, {shape[0]}, {shape[1]}), not {tuple(masks.shape)}")
    return masks.to(model.classifier.weight)
