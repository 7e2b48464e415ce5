"""A smaller copy of a model, without some of its heads, and the way back to full shape."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from minibert.config import BertConfig, Head
from minibert.model import BertForTokenClassification, SelfAttention


def keep_heads(attention: SelfAttention, config: BertConfig, heads: Sequence[int]) -> SelfAttention:
    """The attention with these heads only, by original index: rows of query, key and value and
    columns of the output are sliced. The result computes what `attention` computes if the other
    heads are masked. The output bias stays, even without any head."""
    rows = _rows(attention, heads)
    with torch.device("meta"):
        smaller = SelfAttention(config, tuple(heads))

    for name in ("query", "key", "value"):
        whole, part = getattr(attention, name), getattr(smaller, name)
        part.weight = nn.Parameter(whole.weight.detach()[rows])
        part.bias = nn.Parameter(whole.bias.detach()[rows])
    smaller.output.weight = nn.Parameter(attention.output.weight.detach()[:, rows])
    smaller.output.bias = nn.Parameter(attention.output.bias.detach().clone())

    _copy_state(attention, smaller)
    return smaller


def _rows(attention: SelfAttention, heads: Sequence[int]) -> Tensor:
    """The rows of query, key and value, and the columns of the output, that belong to `heads`."""
    places = torch.tensor([attention.heads.index(head) for head in heads], dtype=torch.long)
    rows = places[:, None] * attention.head_size + torch.arange(attention.head_size)
    return rows.flatten().to(attention.output.weight.device)


def _copy_state(attention: SelfAttention, other: SelfAttention) -> None:
    """Freeze the same parameters in `other`, and put it in the same mode (train or eval)."""
    for source, parameter in zip(attention.parameters(), other.parameters()):
        parameter.requires_grad_(source.requires_grad)
    other.train(attention.training)


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
        layer.attention = keep_heads(layer.attention, config, config.heads(number))
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
        narrow = layer.attention
        with torch.device(narrow.output.weight.device):
            attention = SelfAttention(config, config.heads(number)).to(narrow.output.weight)

        rows = _rows(attention, narrow.heads)
        for name in ("query", "key", "value"):
            part, whole = getattr(narrow, name), getattr(attention, name)
            whole.weight.zero_()[rows] = part.weight
            whole.bias.zero_()[rows] = part.bias
        attention.output.weight.zero_()[:, rows] = narrow.output.weight
        attention.output.bias.copy_(narrow.output.bias)

        _copy_state(narrow, attention)
        layer.attention = attention
    return wide
