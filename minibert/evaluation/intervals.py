"""Intervals and significance from resampled documents."""

from collections.abc import Callable
from dataclasses import dataclass
from math import erfc

import numpy as np
from numpy.typing import NDArray

from minibert.evaluation.metrics import (
    Array,
)


@dataclass(frozen=True)
class Score:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def resamples(documents: int, count: int = 1000, seed: int = 0) -> Array:
    """(1 + R, N) how often each document is drawn; the first row is the sample as it is."""
    draws = np.random.default_rng(seed).multinomial(
        documents, np.full(documents, 1 / documents), count
    )
    return np.vstack([np.ones(documents), draws])


def interval(values: Array) -> Score:
    """A statistic under each row of `resamples` -> its value with the percentile interval."""
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return Score(float(values[0]), float(low), float(high))


def with_interval(counts: Array, statistic: Callable[[Array], Array], draws: Array) -> Score:
    """A statistic of summed counts, e.g. `f1`, with its interval over documents."""
    return interval(statistic(draws @ counts))


# Comparisons ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A paired difference, its 95 % interval, the p-value of no difference, and whether it stays
    told from noise among all those tested together (Benjamini-Hochberg, 5 %)."""

    value: float
    low: float
    high: float
    p: float
    decided: bool


def changes(values: Array) -> list[Change]:
    """(1 + R, 1 + V) a statistic under each row of `resamples`, for a reference (column 0) and V
    alternatives on the same documents -> each alternative's change.

    The p-value is that of a normal deviate: the change over its bootstrap standard error (1 where
    that is zero, as it is with a single document).
    """
    differences = values[:, 1:] - values[:, :1]
    sound = differences[1:][np.isfinite(values[1:]).all(1)]  # AP needs a positive word in the draw
    error = sound.std(axis=0, ddof=1)
    size = np.abs(differences[0])
    p = np.array([erfc(s / e / 2**0.5) if e > 0 else 1.0 for s, e in zip(size, error)])
    low, high = np.percentile(sound, [2.5, 97.5], axis=0)
    rows = zip(differences[0], low, high, p, benjamini_hochberg(p))
    return [Change(*map(float, row[:4]), bool(row[4])) for row in rows]


def benjamini_hochberg(p: Array, level: float = 0.05) -> NDArray[np.bool_]:
    """Which of several hypotheses to reject, holding the share of false rejections at `level`
    (Benjamini and Hochberg 1995)."""
    order = np.argsort(p)
    passed = np.flatnonzero(p[order] <= level * np.arange(1, len(p) + 1) / len(p))
    rejected = np.zeros(len(p), dtype=bool)
    if len(passed):
        rejected[order[: passed[-1] + 1]] = True
    return rejected


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's: the correlation of the ranks, ties given their mean rank."""

    def ranks(x: Array) -> Array:
        _, place, count = np.unique(x, return_inverse=True, return_counts=True)
        return (np.cumsum(count) - (count - 1) / 2)[place]

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])
