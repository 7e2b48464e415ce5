"""Orders of heads that are measured anew as heads go."""

from torch import Tensor

from minibert.config import Head
from minibert.data.batches import Split
from minibert.evaluation.tagger import ProgressBar
from minibert.heads.ablation import ablate, masks_without
from minibert.heads.importance import by_importance
from minibert.model import BertForTokenClassification
from minibert.pruning import without_heads


def refreshed_order(
    model: BertForTokenClassification,
    split: Split,
    every: int,
    fill: Tensor | None = None,
    progress: ProgressBar = list,
) -> list[Head]:
    """From least to most important by `head_importance`, measured anew on what is left after
    every `every` heads."""
    order: list[Head] = []
    for _ in progress(range(0, len(model.config.present_heads), every)):
        order += by_importance(without_heads(model, order, fill), split)[:every]
    return order


def greedy_order(
    model: BertForTokenClassification,
    split: Split,
    few: int,
    every: int,
    fill: Tensor | None = None,
    progress: ProgressBar = list,
) -> list[Head]:
    """At every step, of the `few` heads that gradients call least important, the one whose loss
    without it (with `fill` in its place) is lowest, judged exactly. The gradients are measured
    anew after every `every` heads."""
    order: list[Head] = []
    for step in progress(range(len(model.config.present_heads))):
        left = without_heads(model, order, fill)
        if step % every == 0:
            candidates = by_importance(left, split)
        best = candidates[:few]
        masks = masks_without(model.config, [[head] for head in best])
        losses = ablate(left, split, masks, fill).loss[1:].sum(1)
        order.append(candidates.pop(int(losses.argmin())))
    return order
