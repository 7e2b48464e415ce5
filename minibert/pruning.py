"""A smaller copy of a model: heads removed for good."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from minibert.config import BertConfig
from minibert.model import BertForTokenClassification, SelfAttention


def keep_heads(attention: SelfAttention, config: BertConfig, heads: Sequence[int]) -> SelfAttention:
    """The attention with only these of its heads, by original index: rows of query, key and value
    and columns of the output are sliced. It computes what the whole one computes when the other
    heads are silenced; the output bias stays, even without any head."""
    places = torch.tensor([attention.heads.index(head) for head in heads], dtype=torch.long)
    size = attention.head_size
    rows = (places[:, None] * size + torch.arange(size)).flatten()
    rows = rows.to(attention.output.weight.device)
    with torch.device("meta"):
        kept = SelfAttention(config, tuple(heads))
    for name in ("query", "key", "value"):
        whole, part = getattr(attention, name), getattr(kept, name)
        part.weight = nn.Parameter(whole.weight.detach()[rows])
        part.bias = nn.Parameter(whole.bias.detach()[rows])
    kept.output.weight = nn.Parameter(attention.output.weight.detach()[:, rows])
    kept.output.bias = nn.Parameter(attention.output.bias.detach().clone())
    return kept.train(attention.training)


@torch.no_grad()
def without_heads(
    model: BertForTokenClassification, heads: Sequence[tuple[int, int]], fill: Tensor | None = None
) -> BertForTokenClassification:
    """A copy of the model that lacks these heads, (layer, head) by original index. What
    `fill` (layers, heads, K) puts in their place goes into the output bias."""
    smaller = deepcopy(model)
    gone = {layer: set(old) for layer, old in model.config.pruned_heads.items()}
    for layer, head in heads:
        gone.setdefault(layer, set()).add(head)
        if fill is not None:
            attention = smaller.bert.layers[layer].attention
            start = attention.heads.index(head) * attention.head_size
            columns = attention.output.weight[:, start : start + attention.head_size]
            attention.output.bias += columns @ fill[layer, head].to(columns)
    config = replace(
        model.config, pruned_heads={layer: sorted(gone[layer]) for layer in sorted(gone)}
    )
    for number, layer in enumerate(smaller.bert.layers):
        layer.attention = keep_heads(layer.attention, config, config.heads(number))
    smaller.config = smaller.bert.config = config
    return smaller
