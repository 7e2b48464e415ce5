"""The effect of masking heads: exact scores under many head masks, in one pass over the data.

Masking a head of layer l changes neither the layers below nor the attention of layer l: the ablated
attention output is the full one minus the head's context times its columns of the output
projection. So each window runs once in full, and its layers' inputs and contexts are kept. Each
mask then costs one subtraction, one feed-forward network and the layers above, for several masks at
once. The last layer's feed-forward network runs at scored positions only. Results are exact up to
rounding.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from minibert.config import BertConfig, Head
from minibert.data.batches import TOKENS, Split, Window, embed_windows, make_batches
from minibert.evaluation.tagger import Predictions, ProgressBar, Recorder
from minibert.model import BertForTokenClassification
from minibert.pruning import with_heads
from minibert.runtime.distributed import local_windows

ATTENTION = 1 / 3  # of a layer's arithmetic: 4 of its 12 D^2 weights


@torch.no_grad()
def ablate(
    model: BertForTokenClassification,
    split: Split,
    masks: Tensor,
    fill: Tensor | None = None,
    tokens: int = 768,
    progress: ProgressBar = list,
) -> Predictions:
    """Run the model under every mask of `masks` (V, layers, heads), by original head indices.

    Row 0 of the result is the model without a mask, row 1 + v that under mask v. `fill` (layers,
    heads, K) replaces the context that a mask removes (see `mean_context`); zero by default.
    `tokens`: word pieces computed at a time; memory grows with it, results do not depend on it.
    """
    layers = model.eval().bert.layers
    masks = check_masks(model, masks)
    constants = _constants(model, fill)

    lowest = _lowest_layers(masks)

    recorder = Recorder(model.config.labels, split, variants=1 + len(masks))
    for window in progress(local_windows(split.windows)):
        trace = EncoderTrace(model, [window])
        recorder.add([0], window, model.classifier(trace.last[None]))

        side_by_side = max(1, tokens // len(window.input_ids))
        for number, layer in enumerate(layers):
            from_here = (lowest == number).nonzero().flatten()
            if not len(from_here):
                continue
            removable = trace.contributions(number, constants[number], slice(None))
            for variants in from_here.split(side_by_side):
                change = masks[variants, number][:, layer.attention.heads] - 1  # (v, H)
                attended = trace.attended[number] + torch.einsum("vh,htd->vtd", change, removable)
                hidden = layer.feed_forward(trace.inputs[number].expand_as(attended), attended)
                hidden = _above(trace, number + 1, hidden, masks[variants], constants)
                recorder.add((1 + variants).tolist(), window, model.classifier(hidden))

    return recorder.total()


@torch.no_grad()
def cumulative(
    model: BertForTokenClassification,
    split: Split,
    steps: Sequence[Sequence[Head]],
    fill: Tensor | None = None,
    tokens: int = 1024,
    progress: ProgressBar = list,
) -> Predictions:
    """Mask the heads of one step after another. Row s of the result has the heads of the first s
    steps masked.

    Each step reuses everything below the newly masked heads; a masked head is never computed.
    """
    model.eval()
    constants = _constants(model, fill)
    recorder = Recorder(model.config.labels, split, variants=1 + len(steps))

    for windows in progress(make_batches(local_windows(split.windows), tokens)):
        trace = EncoderTrace(model, windows)
        scored = [len(window.words) for window in windows]
        for row, heads in enumerate([[], *steps]):
            trace.remove(heads, constants)
            for window, hidden in zip(windows, trace.last.split(scored)):
                recorder.add([row], window, model.classifier(hidden)[None])

    return recorder.total()


@torch.no_grad()
def mean_context(model: BertForTokenClassification, split: Split, tokens: int = TOKENS) -> Tensor:
    """(layers, heads, K) each head's context, averaged over the tokens of a split: the `fill` of
    mean ablation. Zero for heads that the model no longer has."""
    config = model.config
    shape = (config.num_hidden_layers, config.num_attention_heads, config.head_size)
    total = torch.zeros(shape, dtype=torch.float64)
    count = 0

    for windows in make_batches(split.windows, tokens):
        embedded, packing = embed_windows(model.eval().bert, windows)
        count += len(embedded)
        hidden_states = model.bert.hidden_states(embedded, packing)
        for number, (layer, hidden) in enumerate(zip(model.bert.layers, hidden_states)):
            context = layer.attention.context(hidden, packing)
            total[number, list(layer.attention.heads)] += context.sum(0).double().cpu()

    return total / count


def masks_without(config: BertConfig, masked: Sequence[Sequence[Head]]) -> Tensor:
    """(V, layers, heads): one head mask for each list of heads, 0 at these heads."""
    masks = torch.ones(len(masked), config.num_hidden_layers, config.num_attention_heads)
    for mask, heads in zip(masks, masked):
        for head in heads:
            mask[head] = 0
    return masks


# The cost ---------------------------------------------------------------------------------------


def passes_of_ablate(masks: Tensor) -> float:
    """The number of forward passes whose arithmetic equals that of `ablate`, about."""
    layers = masks.shape[1]
    return 1 + sum(_partial_pass(number, layers) for number in _lowest_layers(masks).tolist())


def passes_of_cumulative(config: BertConfig, steps: Sequence[Sequence[Head]]) -> float:
    """The same for `cumulative`."""
    layers, heads = config.num_hidden_layers, len(config.present_heads)
    passes, masked = 1.0, 0
    for step in steps:
        masked += len(step)
        left = ATTENTION * (1 - masked / heads) + 1 - ATTENTION  # of a layer's arithmetic
        passes += left * _partial_pass(min(step)[0], layers)
    return passes


def _partial_pass(lowest: int, layers: int) -> float:
    """The part of a forward pass that a change of the heads of layer `lowest` repeats."""
    return (layers - lowest - ATTENTION) / layers


# The engine -------------------------------------------------------------------------------------


class EncoderTrace:
    """The intermediate values of some windows' forward pass, for each layer: its input (T, D), its
    heads' context (T, H, K) and its attention output (T, D). In the last layer only scored tokens.
    """

    def __init__(self, model: BertForTokenClassification, windows: list[Window]):
        self.config = model.config
        self.layers = model.bert.layers
        self.attentions = [layer.attention for layer in self.layers]
        self.shifts: list[Tensor | float] = [0.0] * len(self.layers)  # fill of the removed heads
        self.inputs: list[Tensor] = []
        self.contexts: list[Tensor] = []
        self.attended: list[Tensor] = []

        hidden, self.packing = embed_windows(model.bert, windows)
        starts = np.cumsum([0, *self.packing.lengths])
        rows = [start + p for start, w in zip(starts, windows) for p in w.positions]
        self.rows = torch.tensor(rows, dtype=torch.long, device=hidden.device)  # scored tokens
        self.last = self._run(0, hidden)

    def _run(self, first: int, hidden: Tensor) -> Tensor:
        """From the input (T, D) of layer `first` to the last layer's output at scored tokens."""
        for values in (self.inputs, self.contexts, self.attended):
            del values[first:]

        for number in range(first, len(self.layers)):
            attention = self.attentions[number]
            context = attention.context(hidden, self.packing)
            if number == len(self.layers) - 1:
                context, hidden = context[self.rows], hidden[self.rows]
            attended = attention.output(context.flatten(1)) + self.shifts[number]

            self.inputs.append(hidden)
            self.contexts.append(context)
            self.attended.append(attended)
            hidden = self.layers[number].feed_forward(hidden, attended)
        return hidden

    def contributions(self, layer: int, constant: Tensor | None, places: slice) -> Tensor:
        """(H, T, D) what the heads at these places add to the attention output, minus what their
        fill would add (`constant`, of `_constants`)."""
        attention = self.attentions[layer]
        weight = attention.output.weight.unflatten(1, (len(attention.heads), attention.head_size))
        added = torch.einsum("thk,dhk->htd", self.contexts[layer][:, places], weight[:, places])
        return added if constant is None else added - constant[list(attention.heads[places]), None]

    def remove(self, heads: Sequence[Head], constants: list[Tensor | None]) -> None:
        """Remove heads, and recompute everything above the lowest of them."""
        for head in heads:
            self._remove_head(head, constants[head[0]])

        if heads:
            lowest = min(layer for layer, _ in heads)
            hidden = self.layers[lowest].feed_forward(self.inputs[lowest], self.attended[lowest])
            self.last = self._run(lowest + 1, hidden)

    def _remove_head(self, head: Head, constant: Tensor | None) -> None:
        layer, number = head
        attention = self.attentions[layer]
        place = attention.heads.index(number)

        (added,) = self.contributions(layer, constant, slice(place, place + 1))
        self.attended[layer] = self.attended[layer] - added
        if constant is not None:
            self.shifts[layer] = self.shifts[layer] + constant[number]

        # Later steps compute this layer without the head.
        places = [i for i in range(len(attention.heads)) if i != place]
        kept_heads = [attention.heads[i] for i in places]
        self.attentions[layer] = with_heads(attention, self.config, kept_heads)
        self.contexts[layer] = self.contexts[layer][:, places]


def _above(
    trace: EncoderTrace, first: int, hidden: Tensor, masks: Tensor, constants: list[Tensor | None]
) -> Tensor:
    """Run the inputs of layer `first` under several masks, (V, T, D) of the trace's one window,
    through the remaining layers, each under its own mask -> (V, scored tokens, D)."""
    variants = len(masks)
    packing = trace.packing._replace(lengths=trace.packing.lengths * variants)

    for number in range(first, len(trace.layers)):
        layer = trace.layers[number]
        context = layer.attention.context(hidden.flatten(0, 1), packing)
        context = context.unflatten(0, (variants, -1))  # (V*T, H, K) -> (V, T, H, K)
        if number == len(trace.layers) - 1:
            context, hidden = context[:, trace.rows], hidden[:, trace.rows]

        factors = masks[:, number, list(layer.attention.heads)]  # (V, H)
        if (factors != 1).any():
            context = context * factors[:, None, :, None]
        attended = layer.attention.output(context.flatten(2))
        constant = constants[number]
        if constant is not None:
            attended = attended + ((1 - masks[:, number]) @ constant)[:, None]

        hidden = layer.feed_forward(hidden, attended)
    return hidden


def _lowest_layers(masks: Tensor) -> Tensor:
    """(V,) the layer from which each mask (V, layers, heads) has to be computed: that of its lowest
    masked head, or the last one for a mask that changes nothing."""
    changed = (masks != 1).any(-1)  # (V, layers)
    changed[:, -1] |= ~changed.any(1)
    return changed.int().argmax(1)  # the first of equal values


def _constants(model: BertForTokenClassification, fill: Tensor | None) -> list[Tensor | None]:
    """Per layer (heads, D): what each head's fill adds to the attention output, zero for heads that
    the model no longer has. None without a fill."""
    if fill is None:
        return [None] * len(model.bert.layers)

    constants: list[Tensor | None] = []
    for layer, contexts in zip(model.bert.layers, fill.to(model.classifier.weight)):
        heads = list(layer.attention.heads)
        weight = layer.attention.output.weight.unflatten(1, (len(heads), layer.attention.head_size))
        constant = contexts.new_zeros(len(contexts), len(weight))
        constant[heads] = torch.einsum("hk,dhk->hd", contexts[heads], weight)
        constants.append(constant)
    return constants


def check_masks(model: BertForTokenClassification, masks: Tensor) -> Tensor:
    """`masks` in the model's dtype and on its device; ValueError if not (V, layers, heads)."""
    shape = (model.config.num_hidden_layers, model.config.num_attention_heads)
    if masks.ndim != 3 or tuple(masks.shape[1:]) != shape:
        raise ValueError(f"masks must be (V, {shape[0]}, {shape[1]}), not {tuple(masks.shape)}")
    return masks.to(model.classifier.weight)
