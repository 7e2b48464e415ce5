"""Repair of output projections without training."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minibert.attention import Packing
from minibert.data.batches import Window, collate, make_batches
from minibert.model import BertForTokenClassification

RIDGE = 0.01  # of `repair`: share of each input's own square


@torch.no_grad()
def repair(
    whole: BertForTokenClassification,
    smaller: BertForTokenClassification,
    windows: Sequence[Window],
    projection: bool,
    tokens: int = 4096,
) -> None:
    """Change `smaller` in place so that each layer's residual stream comes near that of `whole`.

    Ordinary least squares over all tokens of `windows`, layer by layer from below: of the output
    bias alone, so that what the lost heads put out on average stays; or with `projection` of the
    output's weights too (after Kwon et al. 2022, section 3.3, with a small ridge towards the old
    weights). Labels are not used.
    """
    states = []
    for group in make_batches(windows, tokens):
        batch = collate(group)
        ids = batch.input_ids.to(whole.classifier.weight.device)
        packing = Packing.of(batch.attention_mask.to(ids.device))
        embedded = [model.bert.start(ids, packing) for model in (whole, smaller)]
        states.append((packing, *embedded))
    for layer, small in zip(whole.bert.layers, smaller.bert.layers):
        output = small.attention.output
        contexts = [small.attention.context(new, packing).flatten(1) for packing, _, new in states]
        attended = [layer.attention(old, packing) for packing, old, _ in states]
        wanted = [old + a - new for (_, old, new), a in zip(states, attended)]
        _refit(output, contexts, wanted, output.in_features * projection)
        states = [
            (packing, layer.feed_forward(old, a), small.feed_forward(new, output(context)))
            for (packing, old, new), a, context in zip(states, attended, contexts)
        ]


def _refit(
    output: nn.Linear, contexts: Sequence[Tensor], wanted: Sequence[Tensor], width: int
) -> None:
    """Change the bias, and the weights of the first `width` inputs, so that `output` of the
    contexts, (T, inputs) each, comes near to what is wanted, (T, D) each."""
    gram, cross = 0.0, 0.0
    for context, target in zip(contexts, wanted):
        given = torch.cat([context[:, :width], context.new_ones(len(context), 1)], 1).double()
        gram = gram + given.T @ given
        cross = cross + given.T @ (target - output(context)).double()
    gram.diagonal()[:width] *= 1 + RIDGE
    solution = torch.linalg.lstsq(gram.cpu(), cross.cpu(), driver="gelsd").solution
    change = solution.to(output.weight)  # (width + 1, D); zero where an input is constant 0
    output.weight[:, :width] += change[:width].T
    output.bias += change[width]
