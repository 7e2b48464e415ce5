"""Scores of predicted words and spans, with intervals from resampling documents.

Everything is a function of per-document values, so an interval is the same arithmetic under
other document weights, and costs no further run of a model. Shapes: N documents, R resamples.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def main_measure(scores: Mapping) -> str:
    """The measure that a tagger is judged by: AP, or accuracy where no label is O."""
    return "AP" if "AP" in scores else "accuracy"


def mean_over_documents(values: Array, draws: Array) -> Array:
    """(N,) a value of each document -> (1 + R,) its mean under each row of `draws`, without the
    documents where it is NaN; NaN where none is left."""
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


def _ratio(over: Array, under: Array) -> Array:
    return np.divide(over, under, out=np.zeros_like(over), where=under > 0)


def precision(counts: Array) -> Array:
    """(..., 4) counts -> (...). Zero where nothing was predicted."""
    return _ratio(counts[..., 0], counts[..., 0] + counts[..., 1])


def recall(counts: Array) -> Array:
    return _ratio(counts[..., 0], counts[..., 0] + counts[..., 2])


def f1(counts: Array) -> Array:
    return _ratio(2 * counts[..., 0], 2 * counts[..., 0] + counts[..., 1] + counts[..., 2])


def accuracy(counts: Array) -> Array:
    return _ratio(counts[..., 0] + counts[..., 3], counts.sum(-1))


class PrecisionRecallCurve:
    """All words of a split from the highest score down: what AP and the best threshold need.

    Average precision is the sum over distinct scores of (recall gained) x (precision there), ties
    taken together, as in scikit-learn.
    """

    def __init__(self, gold: Sequence[NDArray], scores: Sequence[NDArray]):
        every = np.concatenate(scores)
        order = np.argsort(-every, kind="stable")
        self.scores = every[order]
        self.gold = np.concatenate(gold).astype(np.float64)[order]
        self.documents = np.repeat(np.arange(len(gold)), [len(g) for g in gold])[order]
        self.last = np.flatnonzero(np.append(np.diff(self.scores) != 0, True))  # of each tied run

    def _counts(self, weights: Array | None = None) -> tuple[Array, Array]:
        """Words and positive words at or above each distinct score."""
        each = np.ones(len(self.gold)) if weights is None else weights[self.documents]
        return np.cumsum(each)[self.last], np.cumsum(each * self.gold)[self.last]

    def average_precision(self, weights: Array | None = None) -> float:
        """`weights` (N,) counts each document that often. NaN without a positive word."""
        taken, hits = self._counts(weights)
        if hits[-1] == 0:
            return float("nan")
        gained = np.diff(hits, prepend=0.0)
        return float((gained * _ratio(hits, taken)).sum() / hits[-1])

    def best_threshold(self) -> float:
        """The score at or above which a word is best called positive, by F1."""
        taken, hits = self._counts()
        return float(self.scores[self.last[np.argmax(2 * hits / (taken + hits[-1]))]])


# Tags of BIO, BIOES (IOBES), BILOU and BMEWO: B begins an entity, I and M are inside one, E and L
# are its last word, S, U and W its only word.
CONTINUES = ("I", "M", "E", "L")


CLOSES = ("E", "L", "S", "U", "W")


def spans(labels: Sequence[str]) -> set[tuple[int, int, str]]:
    """The entities (first word, last + 1, type) of labels such as B-X, I-X, O ("B" has type "").

    A tag that continues nothing of its type opens an entity, as conlleval and seqeval's default
    mode count it.
    """
    entities = set()
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
    """(N, 4) spans found, invented and missed of each document; the fourth column is unused."""
    rows = []
    for g, p in zip(gold, predicted):
        g_spans, p_spans = spans(g), spans(p)
        both = len(g_spans & p_spans)
        rows.append([both, len(p_spans) - both, len(g_spans) - both, 0])
    return np.array(rows, dtype=np.float64)
