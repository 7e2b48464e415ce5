"""Run a tagger over documents; score its words, beside baselines that know no context."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minibert.data.batches import Split, Window, collate, make_batches
from minibert.data.documents import OUTSIDE, Document, is_content_word
from minibert.evaluation import intervals, metrics
from minibert.evaluation.intervals import Score
from minibert.evaluation.metrics import Array
from minibert.model import BertForTokenClassification
from minibert.runtime import distributed
from minibert.tokenizer import Span

# Without a type the letters but B are left to other tasks.
TYPED_BOUNDARIES = tuple(f"{tag}-" for tag in ("B", *metrics.CLOSES))


ProgressBar = Callable[[Sequence], Sequence]  # wraps a list of batches, e.g. in a progress bar


@torch.no_grad()
def predict(
    model: BertForTokenClassification,
    windows: Sequence[Window],
    documents: Sequence[Document],
    head_mask: Tensor | None = None,
    tokens: int = 4096,
    progress: ProgressBar = list,
) -> list[Array]:
    """The log-probability of every label for every word: one (words, labels) array a document.

    `windows`: of these `documents`. `tokens`: pieces that are computed at a time. Under torchrun
    each process computes its share, and all get everything.
    """
    device = next(model.parameters()).device
    labels = len(model.config.labels)
    out = [np.zeros((len(d.words), labels)) for d in documents]
    for group in progress(make_batches(distributed.local_windows(windows), tokens)):
        batch = collate(group)
        logits = model(
            batch.input_ids.to(device), batch.attention_mask.to(device), head_mask=head_mask
        )
        log_probs = logits.logits.log_softmax(-1).double().cpu().numpy()
        for row, window in enumerate(group):
            out[window.document][window.words] = log_probs[row, window.positions]
    return [distributed.all_reduce_sum(log_probs) for log_probs in out]


def log_odds(log_probs: Array, labels: Sequence[str]) -> Array:
    """(words, labels) -> (words,) the log-odds that a word is in a keyphrase: not O."""
    outside = log_probs[:, labels.index(OUTSIDE)]
    inside = np.delete(log_probs, labels.index(OUTSIDE), axis=1)
    return np.logaddexp.reduce(inside, axis=1) - outside


def has_span_labels(labels: Sequence[str]) -> bool:
    """Whether labels say where a phrase begins or ends: B, or a typed tag such as B-X or S-X."""
    return any(name == "B" or name.startswith(TYPED_BOUNDARIES) for name in labels)


def in_keyphrase(targets: Sequence[Sequence[int]], labels: Sequence[str]) -> list[NDArray]:
    """Per document a boolean array: which words are in a keyphrase."""
    return [np.array(t) != labels.index(OUTSIDE) for t in targets]


def evaluate(
    model: BertForTokenClassification,
    splits: Mapping[str, Split],
    tokens: int = 4096,
    progress: ProgressBar = list,
) -> dict:
    """Choose on dev, report on test.

    Returns {"threshold": of `log_odds`, or None where no label is O,
    "dev": {system: {measure: Score}}, "test": the same}; the systems are the tagger and baselines
    made from train.
    """
    names = model.config.labels
    log_probs = {
        name: predict(
            model, splits[name].windows, splits[name].documents, tokens=tokens, progress=progress
        )
        for name in ("dev", "test")
    }
    if OUTSIDE not in names:
        return {"threshold": None} | _of_labels(log_probs, splits, names)
    gold = {name: in_keyphrase(split.targets, names) for name, split in splits.items()}
    prior = word_prior(splits["train"].documents, gold["train"])
    systems = {
        "minibert": {name: [log_odds(p, names) for p in log_probs[name]] for name in log_probs},
        "word prior": {name: [prior(d) for d in splits[name].documents] for name in log_probs},
        "no stop words": {
            name: [is_content_word(d) for d in splits[name].documents] for name in log_probs
        },
    }
    out: dict = {"threshold": None, "dev": {}, "test": {}}
    for system, ranks in systems.items():
        threshold = metrics.PrecisionRecallCurve(gold["dev"], ranks["dev"]).best_threshold()
        for name in log_probs:
            out[name][system] = word_scores(gold[name], ranks[name], threshold)
        if system == "minibert":
            out["threshold"] = threshold
    for name, probs in log_probs.items():
        targets = splits[name].targets
        out[name]["minibert"] |= label_scores(probs, targets, names, out["threshold"])
    return out


def _of_labels(
    log_probs: Mapping[str, Sequence[Array]], splits: Mapping[str, Split], names: Sequence[str]
) -> dict:
    """The scores of a tagger whose labels have no O, beside each word's commonest label."""
    usual = commonest_label(splits["train"])
    out = {}
    for name, probs in log_probs.items():
        split = splits[name]
        right = [np.array(t) == usual(d) for t, d in zip(split.targets, split.documents)]
        out[name] = {
            "minibert": label_scores(probs, split.targets, names),
            "word's commonest label": {"accuracy": word_accuracy(right)},
        }
    return out


def decode(log_probs: Array, names: Sequence[str], threshold: float | None) -> NDArray:
    """(words, labels) -> (words,) label ids: O where `log_odds` is below the threshold, else
    the most probable of the other labels; without a threshold the most probable of all."""
    if threshold is None:
        return log_probs.argmax(1)
    outside = names.index(OUTSIDE)
    inside = np.where(np.arange(len(names)) == outside, -np.inf, log_probs).argmax(1)
    return np.where(log_odds(log_probs, names) >= threshold, inside, outside)


def label_scores(
    log_probs: Sequence[Array],
    targets: Sequence[Sequence[int]],
    names: Sequence[str],
    threshold: float | None = None,
) -> dict[str, Score]:
    """Loss per word; entity F1, as `decode` reads it, where labels mark spans; word accuracy
    where no label is O."""
    draws = intervals.resamples(len(targets))
    words = draws @ np.array([len(t) for t in targets], dtype=np.float64)
    losses = [
        -np.take_along_axis(p, np.array(t)[:, None], 1).sum() for p, t in zip(log_probs, targets)
    ]
    scores = {"loss": intervals.interval(draws @ np.array(losses) / words)}
    if OUTSIDE not in names:
        scores["accuracy"] = word_accuracy(
            [p.argmax(1) == np.array(t) for p, t in zip(log_probs, targets)]
        )
    if has_span_labels(names):
        gold = [[names[i] for i in t] for t in targets]
        predicted = [[names[i] for i in decode(p, names, threshold)] for p in log_probs]
        counts = metrics.span_counts(gold, predicted)
        scores["entity F1"] = intervals.with_interval(counts, metrics.f1, draws)
    return scores


def word_accuracy(right: Sequence[NDArray]) -> Score:
    """The share of words that are right, over all documents."""
    counts = metrics.confusion([np.ones_like(r) for r in right], right)
    return intervals.with_interval(counts, metrics.recall, intervals.resamples(len(right)))


def word_scores(
    gold: Sequence[NDArray], ranks: Sequence[Array], threshold: float
) -> dict[str, Score]:
    """AP, and precision, recall, F1 and accuracy at a threshold, of "in a keyphrase"."""
    values = word_measures(gold, ranks, threshold, intervals.resamples(len(gold)))
    return {name: intervals.interval(value) for name, value in values.items()}


def word_measures(
    gold: Sequence[NDArray], ranks: Sequence[Array], threshold: float, draws: Array
) -> dict[str, Array]:
    """What `word_scores` reports, under each row of `draws`: {measure: (1 + R,)}."""
    ranking = metrics.PrecisionRecallCurve(gold, ranks)
    counts = metrics.confusion(gold, [r >= threshold for r in ranks])
    measures = {
        "F1": metrics.f1,
        "precision": metrics.precision,
        "recall": metrics.recall,
        "accuracy": metrics.accuracy,
    }
    ap = np.array([ranking.average_precision(w) for w in draws])
    summed = draws @ counts
    return {"AP": ap} | {name: measure(summed) for name, measure in measures.items()}


def word_prior(train: Sequence[Document], gold: Sequence[NDArray]) -> Callable[[Document], Array]:
    """How often each word was in a keyphrase in train, drawn towards the mean by one more count."""
    seen, hits = Counter(), Counter()
    for document, inside in zip(train, gold):
        for word, hit in zip(document.forms(), inside):
            seen[word] += 1
            hits[word] += bool(hit)
    mean = hits.total() / seen.total()
    return lambda d: np.array([(hits[w] + mean) / (seen[w] + 1) for w in d.forms()])


def commonest_label(train: Split) -> Callable[[Document], NDArray]:
    """The label each word had most often in train; the commonest of all for an unseen word."""
    of_word, overall = defaultdict(Counter), Counter()
    for document, target in zip(train.documents, train.targets):
        overall.update(target)
        for word, label in zip(document.forms(), target):
            of_word[word][label] += 1
    usual = overall.most_common(1)[0][0]
    best = {word: labels.most_common(1)[0][0] for word, labels in of_word.items()}
    return lambda d: np.array([best.get(w, usual) for w in d.forms()])


# Keyphrases of a tagger -------------------------------------------------------------------------


def predicted_spans(document: Document, inside: NDArray) -> list[Span]:
    """Character spans of the phrases that the words `inside` form: neighbours with nothing but
    white space between them are one phrase."""
    found: list[Span] = []
    for (start, end), hit in zip(document.words, inside):
        if not hit:
            continue
        if found and not document.text[found[-1][1] : start].strip():
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def dev_score(model: BertForTokenClassification, dev: Split, tokens: int) -> float:
    """Average precision of "not O" on dev; word accuracy where no label is O."""
    labels = model.config.labels
    log_probs = predict(model, dev.windows, dev.documents, tokens=tokens)
    if "O" not in labels:
        right = [p.argmax(1) == np.array(t) for p, t in zip(log_probs, dev.targets)]
        return float(np.concatenate(right).mean())
    ranks = [log_odds(p, labels) for p in log_probs]
    return metrics.PrecisionRecallCurve(
        in_keyphrase(dev.targets, labels), ranks
    ).average_precision()
