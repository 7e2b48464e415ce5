"""Scores of predicted words and spans, under any weights of the documents.

Every score is a function of per-document values. Its interval is the same arithmetic under other
document weights, and needs no further run of a model. Shapes: N documents, R resamples.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def main_measure(scores: Mapping) -> str:
    """The name of the measure that a tagger is judged by: AP, or accuracy where no label is O."""
    return "AP" if "AP" in scores else "accuracy"


def mean_over_documents(values: Array, draws: Array) -> Array:
    """(N,) a value of each document -> (1 + R,) its mean under each row of `draws`. Documents where
    it is NaN are left out; the mean of none is NaN."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return draws[:, known] @ values[known] / draws[:, known].sum(axis=1)


def confusion(gold: Sequence[NDArray], predicted: Sequence[NDArray]) -> Array:
    """(N, 4) true positives, false positives, false negatives, true negatives of each document."""
    return np.array(
        [
            [(g & p).sum(), (~g & p).sum(), (g & ~p).sum(), (~g & ~p).sum()]
            for g, p in zip(gold, predicted)
        ],
        dtype=np.float64,
    )


def _ratio(numerator: Array, denominator: Array) -> Array:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def precision(counts: Array) -> Array:
    """(..., 4) counts of `confusion` -> (...). Zero where nothing was predicted."""
    return _ratio(counts[..., 0], counts[..., 0] + counts[..., 1])


def recall(counts: Array) -> Array:
    return _ratio(counts[..., 0], counts[..., 0] + counts[..., 2])


def f1(counts: Array) -> Array:
    return _ratio(2 * counts[..., 0], 2 * counts[..., 0] + counts[..., 1] + counts[..., 2])


def accuracy(counts: Array) -> Array:
    return _ratio(counts[..., 0] + counts[..., 3], counts.sum(-1))


class PrecisionRecallCurve:
    """The words of a split from the highest score down: precision and recall at every threshold.

    Average precision is the sum over distinct scores of (gain in recall) * (precision), as in
    scikit-learn: words of equal score enter together.
    """

    def __init__(self, gold: Sequence[NDArray], scores: Sequence[NDArray]):
        of_words = np.concatenate(scores)
        order = np.argsort(-of_words, kind="stable")
        self.scores = of_words[order]
        self.gold = np.concatenate(gold).astype(np.float64)[order]
        self.documents = np.repeat(np.arange(len(gold)), [len(g) for g in gold])[order]

        # The last word of each run of equal scores: a threshold lies behind it.
        self.last = np.flatnonzero(np.append(np.diff(self.scores) != 0, True))

    def _counts(self, weights: Array | None = None) -> tuple[Array, Array]:
        """The number of words and of positive words at or above each distinct score."""
        of_words = np.ones(len(self.gold)) if weights is None else weights[self.documents]
        return np.cumsum(of_words)[self.last], np.cumsum(of_words * self.gold)[self.last]

    def average_precision(self, weights: Array | None = None) -> float:
        """Each document counts `weights` (N,) times, once by default. NaN without a positive
        word."""
        predicted, hits = self._counts(weights)
        if hits[-1] == 0:
            return float("nan")
        gained = np.diff(hits, prepend=0.0)
        return float((gained * _ratio(hits, predicted)).sum() / hits[-1])

    def best_threshold(self) -> float:
        """The score with the highest F1 when words at or above it are called positive."""
        predicted, hits = self._counts()
        f1_at_thresholds = 2 * hits / (predicted + hits[-1])
        return float(self.scores[self.last[np.argmax(f1_at_thresholds)]])


# Tags of BIO, BIOES (IOBES), BILOU and BMEWO: B begins an entity, I and M are inside one, E and L
# are its last word, S, U and W its only word.
CONTINUES = ("I", "M", "E", "L")
CLOSES = ("E", "L", "S", "U", "W")


def spans(labels: Sequence[str]) -> set[tuple[int, int, str]]:
    """The entities (first word, last + 1, type) of labels such as B-X, I-X, O ("B" has type "").

    A continuing tag without an open entity of its type opens one, as in conlleval and in seqeval's
    default mode.
    """
    entities: set[tuple[int, int, str]] = set()
    start, kind, closed = 0, None, False  # of the open entity; kind is None where none is open

    for i, label in enumerate([*labels, "O"]):
        tag, _, this_kind = label.partition("-")
        if kind is not None and (closed or tag not in CONTINUES or this_kind != kind):
            entities.add((start, i, kind))
            kind = None
        if kind is None and tag != "O":
            start, kind = i, this_kind
        closed = tag in CLOSES

    return entities


def span_counts(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Array:
    """(N, 4) true positives, false positives and false negatives of each document's spans; the
    fourth column, true negatives, is 0."""
    rows = []
    for gold_labels, predicted_labels in zip(gold, predicted):
        gold_spans, predicted_spans = spans(gold_labels), spans(predicted_labels)
        both = len(gold_spans & predicted_spans)
        rows.append([both, len(predicted_spans) - both, len(gold_spans) - both, 0])
    return np.array(rows, dtype=np.float64)
