"""A smaller copy of a model: heads removed for good."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from minibert.config import BertConfig, Head
from minibert.model import BertForTokenClassification, SelfAttention


def keep_heads(attention: SelfAttention, config: BertConfig, heads: Sequence[int]) -> SelfAttention:
    """The attention with only these of its heads, by original index: rows of query, key and value
    and columns of the output are sliced. It computes what the whole one computes when the other
    heads are silenced; the output bias stays, even without any head."""
    rows = _rows(attention, heads)
    with torch.device("meta"):
        kept = SelfAttention(config, tuple(heads))
    for name in ("query", "key", "value"):
        whole, part = getattr(attention, name), getattr(kept, name)
        part.weight = nn.Parameter(whole.weight.detach()[rows])
        part.bias = nn.Parameter(whole.bias.detach()[rows])
    kept.output.weight = nn.Parameter(attention.output.weight.detach()[:, rows])
    kept.output.bias = nn.Parameter(attention.output.bias.detach().clone())
    _freeze_as(kept, attention)
    return kept.train(attention.training)


def _freeze_as(attention: SelfAttention, other: SelfAttention) -> None:
    """Train the parameters that are trained in `other`."""
    for parameter, source in zip(attention.parameters(), other.parameters()):
        parameter.requires_grad_(source.requires_grad)


def _rows(attention: SelfAttention, heads: Sequence[int]) -> Tensor:
    """The rows of query, key and value, and the columns of the output, of these heads."""
    places = torch.tensor([attention.heads.index(head) for head in heads], dtype=torch.long)
    size = attention.head_size
    rows = places[:, None] * size + torch.arange(size)
    return rows.flatten().to(attention.output.weight.device)


@torch.no_grad()
def without_heads(
    model: BertForTokenClassification, heads: Sequence[Head], fill: Tensor | None = None
) -> BertForTokenClassification:
    """A copy of the model that lacks these heads. What `fill` (layers, heads, K) puts in their
    place goes into the output bias. Raises ValueError where `heads` is a dictionary."""
    if isinstance(heads, dict):  # of transformers' prune_heads
        raise ValueError("heads must be pairs (layer, head), such as [(0, 1)], not a dictionary")
    smaller = deepcopy(model)
    gone = {layer: set(old) for layer, old in model.config.pruned_heads.items()}
    for layer, head in heads:
        gone.setdefault(layer, set()).add(head)
        if fill is not None:
            attention = smaller.bert.layers[layer].attention
            columns = attention.output.weight[:, _rows(attention, [head])]
            attention.output.bias += columns @ fill[layer, head].to(columns)
    config = replace(
        model.config, pruned_heads={layer: sorted(gone[layer]) for layer in sorted(gone)}
    )
    for number, layer in enumerate(smaller.bert.layers):
        layer.attention = keep_heads(layer.attention, config, config.heads(number))
    smaller.config = smaller.bert.config = config
    return smaller


@torch.no_grad()
def prune(model: BertForTokenClassification, head_mask: Tensor) -> BertForTokenClassification:
    """A smaller copy that computes what the model computes under `head_mask` (layers, heads): heads
    at 0 are removed, other factors folded into the output projection.

    Raises ValueError for a head mask of another shape, and RuntimeError, in place of returning a
    model that is not the same in float64.
    """
    shape = (model.config.num_hidden_layers, model.config.num_attention_heads)
    if not isinstance(head_mask, Tensor) or tuple(head_mask.shape) != shape:
        raise ValueError(f"head_mask must be a tensor (layers, heads) = {shape}")
    silent = [head for head in model.config.present_heads if head_mask[head] == 0]
    dtype, device = model.classifier.weight.dtype, model.classifier.weight.device
    whole = deepcopy(model).cpu().double()
    smaller = without_heads(whole, silent)
    for number, layer in enumerate(smaller.bert.layers):
        attention = layer.attention
        factor = head_mask[number, list(attention.heads)].to(attention.output.weight)
        attention.output.weight *= factor.repeat_interleave(attention.head_size)
    if not (worst := _difference(whole, head_mask.detach().cpu(), smaller)) <= 1e-10:
        raise RuntimeError(f"the pruned model differs from the masked one by {worst:.1e}")
    return smaller.to(device, dtype)


def _difference(
    model: BertForTokenClassification, head_mask: Tensor, smaller: BertForTokenClassification
) -> float:
    """How far the logits of the two are apart, beside their size."""
    length = min(64, model.config.max_position_embeddings)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (2, length), generator=generator)
    whole, small = (deepcopy(m).eval() for m in (model, smaller))
    masked = whole(ids, head_mask=head_mask).logits
    return float((small(ids).logits - masked).abs().max() / masked.abs().max())


@torch.no_grad()
def at_full_shape(model: BertForTokenClassification) -> BertForTokenClassification:
    """The same function with every head the model was born with, those it lost as zeros: what
    a library that knows no pruned heads can load."""
    wide = deepcopy(model)
    wide.config = wide.bert.config = config = replace(model.config, pruned_heads={})
    for number, layer in enumerate(wide.bert.layers):
        narrow = layer.attention
        with torch.device(narrow.output.weight.device):
            layer.attention = SelfAttention(config, config.heads(number)).to(narrow.output.weight)
        rows = _rows(layer.attention, narrow.heads)
        for name in ("query", "key", "value"):
            part, whole = getattr(narrow, name), getattr(layer.attention, name)
            whole.weight.zero_()[rows] = part.weight
            whole.bias.zero_()[rows] = part.bias
        layer.attention.output.weight.zero_()[:, rows] = narrow.output.weight
        layer.attention.output.bias.copy_(narrow.output.bias)
        _freeze_as(layer.attention, narrow)
        layer.attention.train(narrow.training)
    return wide
