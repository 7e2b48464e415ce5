"""Head importance without masking: gradients, and the attention that words receive."""

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


def by_value(values: Array, heads: Sequence[Head]) -> list[Head]:
    """Heads from the lowest value to the highest; `values` is (layers, heads)."""
    return sorted(heads, key=lambda head: (values[head], head))


def by_importance(
    model: BertForTokenClassification, split: Split, progress: ProgressBar = list
) -> list[Head]:
    """Heads from the least to the most important: the mean over documents of the absolute value of
    `head_gradients` (Michel et al. 2019, eq. 5)."""
    importance = np.abs(head_gradients(model, split, progress=progress)).mean(0)
    return by_value(importance, model.config.present_heads)


def head_gradients(
    model: BertForTokenClassification,
    split: Split,
    tokens: int = 1024,
    progress: ProgressBar = list,
) -> Array:
    """(N, layers, heads) the derivative of each document's summed loss with respect to the head
    mask, where every head is kept.

    Importance is the mean over documents of the absolute value, never the absolute value of a
    batch's mean. One backward pass gives a whole batch, because each window has its own mask.
    """
    config = model.eval().config
    weight = model.classifier.weight
    shape = (config.num_hidden_layers, config.num_attention_heads)
    gradients = np.zeros((len(split.documents), *shape))

    for windows in progress(make_batches(local_windows(split.windows), tokens)):
        batch = collate(windows, split.targets)
        input_ids, attention_mask, labels = (
            tensor.to(weight.device)
            for tensor in (batch.input_ids, batch.attention_mask, batch.labels)
        )
        masks = torch.ones(len(windows), *shape, device=weight.device, requires_grad=True)
        logits = model(input_ids, attention_mask, head_mask=masks.to(weight.dtype)).logits
        (gradient,) = torch.autograd.grad(summed_loss(logits, labels), masks)

        # A document may have several windows in the batch: add.at sums all of them.
        documents = [window.document for window in windows]
        np.add.at(gradients, documents, gradient.double().cpu().numpy())

    return all_reduce_sum(gradients)


def attention_profile(
    model: BertForTokenClassification,
    split: Split,
    gold: Sequence[NDArray[np.bool_]] | None = None,
    progress: ProgressBar = list,
) -> dict[str, Array]:
    """Where each head attends. Every array is (layers, heads), meaningless for missing heads.

    "entropy": of a token's attention, in nats, mean over tokens. With `gold` (per document: which
    words are in a keyphrase) also "towards": attention received by a word in a keyphrase, over that
    received by another word; and "AP": average precision of "in a keyphrase" when words are ranked
    by the attention they receive from this head.

    A word receives the sum of what the tokens of other words send to its pieces. [CLS], [SEP] and
    punctuation neither send nor receive.
    """
    config = model.eval().config
    shape = (config.num_hidden_layers, config.num_attention_heads)
    entropy = np.zeros(shape)
    received = [np.zeros((len(target), *shape)) for target in split.targets]

    links = piece_links(model.bert, split.windows, config.present_heads, progress)
    for window, layer, heads, probs in links:
        entropy[layer, heads] += torch.special.entr(probs).sum((1, 2)).double().cpu().numpy()
        places = np.ix_(window.words, [layer], heads)
        received[window.document][places] = received_by_word(probs, window).T[:, None]

    pieces = sum(len(window.input_ids) for window in split.windows if window.words)
    profile = {"entropy": entropy / pieces}
    if gold is None:
        return profile

    of_words, inside = np.concatenate(received), np.concatenate(gold)
    towards, elsewhere = of_words[inside].mean(0), of_words[~inside].mean(0)
    profile["towards"] = np.divide(towards, elsewhere, out=np.ones(shape), where=elsewhere > 0)

    profile["AP"] = np.zeros(shape)
    for layer, head in config.present_heads:
        curve = metrics.PrecisionRecallCurve(gold, [words[:, layer, head] for words in received])
        profile["AP"][layer, head] = curve.average_precision()
    return profile
