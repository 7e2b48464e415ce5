"""How much each head may matter, without masking it: gradients, and what it looks at."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from minibert.config import Head
from minibert.data.batches import Split, collate, make_batches
from minibert.evaluation import metrics
from minibert.evaluation.metrics import Array
from minibert.evaluation.tagger import ProgressBar
from minibert.heads.links import piece_links, received_by_word
from minibert.model import BertForTokenClassification, summed_loss
from minibert.runtime.distributed import all_reduce_sum, local_windows

# Orders -----------------------------------------------------------------------------------------


def by_value(values: Array, present: Sequence[Head]) -> list[Head]:
    """Heads from the lowest value (layers, heads) to the highest."""
    return sorted(present, key=lambda head: (values[head], head))


def by_importance(
    model: BertForTokenClassification, split: Split, progress: ProgressBar = list
) -> list[Head]:
    """Heads from the least to the most important by `head_importance` (Michel et al. 2019)."""
    importance = np.abs(head_gradients(model, split, progress=progress)).mean(0)
    return by_value(importance, model.config.present_heads)


def head_gradients(
    model: BertForTokenClassification,
    split: Split,
    tokens: int = 1024,
    progress: ProgressBar = list,
) -> Array:
    """(N, layers, heads) derivative of each document's summed loss by the head mask, at no mask.

    One backward pass a batch gives them all: each window has a mask of its own.
    `head_importance` (Michel et al. 2019, eq. 5) is the mean over documents of the absolute value,
    never the absolute value of a batch's mean; empirical Fisher information is the mean square.
    """
    config = model.eval().config
    device = model.classifier.weight.device
    shape = (config.num_hidden_layers, config.num_attention_heads)
    out = np.zeros((len(split.documents), *shape))
    for windows in progress(make_batches(local_windows(split.windows), tokens)):
        batch = collate(windows, split.targets)
        mask = torch.ones(len(windows), *shape, device=device, requires_grad=True)
        ids, attention_mask, labels = (t.to(device) for t in batch[:3])
        logits = model(ids, attention_mask, head_mask=mask.to(model.classifier.weight.dtype)).logits
        (gradient,) = torch.autograd.grad(summed_loss(logits, labels), mask)
        np.add.at(out, [w.document for w in windows], gradient.double().cpu().numpy())
    return all_reduce_sum(out)


def attention_profile(
    model: BertForTokenClassification,
    split: Split,
    gold: Sequence[NDArray] | None = None,
    progress: ProgressBar = list,
) -> dict[str, Array]:
    """What each head looks at; every array is (layers, heads), meaningless for missing heads.

    "entropy": of a token's attention, in nats, mean over tokens. With `gold`, which says of each
    document's words whether they are in a keyphrase: "towards", attention received by such a word
    over that of another word; "AP", how well attention received, alone, tells them.

    A word receives the sum of what the tokens of other words send to its pieces; [CLS], [SEP] and
    punctuation neither send nor receive.
    """
    config = model.eval().config
    shape = (config.num_hidden_layers, config.num_attention_heads)
    entropy = np.zeros(shape)
    received = [np.zeros((len(target), *shape)) for target in split.targets]
    every = config.present_heads
    for window, layer, heads, probs in piece_links(model.bert, split.windows, every, progress):
        entropy[layer, heads] += torch.special.entr(probs).sum((1, 2)).double().cpu().numpy()
        place = np.ix_(window.words, [layer], heads)
        received[window.document][place] = received_by_word(probs, window).T[:, None]
    out = {"entropy": entropy / sum(len(w.input_ids) for w in split.windows if w.words)}
    if gold is not None:
        every, inside = np.concatenate(received), np.concatenate(gold)
        towards, elsewhere = every[inside].mean(0), every[~inside].mean(0)
        out["towards"] = np.divide(towards, elsewhere, out=np.ones(shape), where=elsewhere > 0)
        out["AP"] = np.zeros(shape)
        for layer, head in config.present_heads:
            ranking = metrics.PrecisionRecallCurve(gold, [r[:, layer, head] for r in received])
            out["AP"][layer, head] = ranking.average_precision()
    return out
