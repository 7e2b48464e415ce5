"""A smaller copy of a model, without some of its heads, and the way back to full shape."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from minibert.config import BertConfig, Head
from minibert.model import BertForTokenClassification, SelfAttention


def with_heads(attention: SelfAttention, config: BertConfig, heads: Sequence[int]) -> SelfAttention:
    """The attention with these heads, by original index: what `attention` computes if all others
    are masked. Heads that it does not have become zeros. The output bias stays in any case."""
    with torch.device("meta"):
        other = SelfAttention(config, tuple(heads))
    common = [head for head in heads if head in attention.heads]
    device = attention.output.weight.device
    rows, other_rows = _rows(attention, common).to(device), _rows(other, common).to(device)

    state = attention.state_dict()
    state["output.bias"] = state["output.bias"].clone()
    for name in state.keys() - {"output.bias"}:
        axis = 1 if name == "output.weight" else 0
        state[name] = state[name].index_select(axis, rows)
        if common != list(heads):
            zeros = state[name].new_zeros(other.get_parameter(name).shape)
            state[name] = zeros.index_copy(axis, other_rows, state[name])

    other.load_state_dict(state, assign=True)
    for source, copy in zip(attention.parameters(), other.parameters()):
        copy.requires_grad_(source.requires_grad)
    return other.train(attention.training)


def _rows(attention: SelfAttention, heads: Sequence[int]) -> Tensor:
    """The rows of query, key and value, and the columns of the output, that belong to `heads`."""
    places = torch.tensor([attention.heads.index(head) for head in heads], dtype=torch.long)
    return (places[:, None] * attention.head_size + torch.arange(attention.head_size)).flatten()


@torch.no_grad()
def without_heads(
    model: BertForTokenClassification, heads: Sequence[Head], fill: Tensor | None = None
) -> BertForTokenClassification:
    """A copy of the model without these heads.

    `fill` (layers, heads, K): constant contexts in place of the removed ones, which are folded
    into the output bias. Raises ValueError if `heads` is a dictionary.
    """
    if isinstance(heads, dict):  # of transformers' prune_heads
        raise ValueError("heads must be pairs (layer, head), such as [(0, 1)], not a dictionary")

    smaller = deepcopy(model)
    pruned = {number: set(removed) for number, removed in model.config.pruned_heads.items()}
    for number, head in heads:
        pruned.setdefault(number, set()).add(head)
        if fill is not None:
            attention = smaller.bert.layers[number].attention
            columns = attention.output.weight[:, _rows(attention, [head])]
            attention.output.bias.add_(columns @ fill[number, head].to(columns))

    config = replace(model.config, pruned_heads={n: sorted(pruned[n]) for n in sorted(pruned)})
    for number, layer in enumerate(smaller.bert.layers):
        layer.attention = with_heads(layer.attention, config, config.heads(number))
    smaller.config = smaller.bert.config = config
    return smaller


@torch.no_grad()
def prune(model: BertForTokenClassification, head_mask: Tensor) -> BertForTokenClassification:
    """A smaller copy that computes what the model computes under `head_mask` (layers, heads).

    Heads at 0 are removed. Other factors are folded into the output projection. Raises ValueError
    for a head mask of another shape, and RuntimeError if the copy is not equal in float64.
    """
    shape = (model.config.num_hidden_layers, model.config.num_attention_heads)
    if not isinstance(head_mask, Tensor) or tuple(head_mask.shape) != shape:
        raise ValueError(f"head_mask must be a tensor (layers, heads) = {shape}")
    masked = [head for head in model.config.present_heads if head_mask[head] == 0]
    dtype, device = model.classifier.weight.dtype, model.classifier.weight.device

    whole = deepcopy(model).cpu().double()
    smaller = without_heads(whole, masked)
    for number, layer in enumerate(smaller.bert.layers):
        attention = layer.attention
        factor = head_mask[number, list(attention.heads)].to(attention.output.weight)
        attention.output.weight *= factor.repeat_interleave(attention.head_size)

    difference = _difference(whole, head_mask.detach().cpu(), smaller)
    if not difference <= 1e-10:  # NaN fails too
        raise RuntimeError(f"the pruned model differs from the masked one by {difference:.1e}")
    return smaller.to(device, dtype)


def _difference(
    model: BertForTokenClassification, head_mask: Tensor, smaller: BertForTokenClassification
) -> float:
    """The largest difference between logits, masked and pruned, relative to the largest logit."""
    length = min(64, model.config.max_position_embeddings)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (2, length), generator=generator)

    masked = deepcopy(model).eval()(ids, head_mask=head_mask).logits
    pruned = deepcopy(smaller).eval()(ids).logits
    return float((pruned - masked).abs().max() / masked.abs().max())


@torch.no_grad()
def at_full_shape(model: BertForTokenClassification) -> BertForTokenClassification:
    """The same function with all original heads, the pruned ones as zeros, for libraries that do
    not support pruned heads."""
    wide = deepcopy(model)
    wide.config = wide.bert.config = config = replace(model.config, pruned_heads={})
    for number, layer in enumerate(wide.bert.layers):
        layer.attention = with_heads(layer.attention, config, config.heads(number))
    return wide
