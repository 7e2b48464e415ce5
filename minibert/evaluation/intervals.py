"""Intervals and significance from resampled documents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import erfc

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, spearmanr

from minibert.evaluation.metrics import Array


@dataclass(frozen=True)
class Score:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def resamples(documents: int, count: int = 1000, seed: int = 0) -> Array:
    """(1 + R, N) how often each bootstrap resample holds each document. The first row is the sample
    itself: every document once."""
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(documents, np.full(documents, 1 / documents), count)
    return np.vstack([np.ones(documents), draws])


def interval(values: Array) -> Score:
    """(1 + R,) a statistic under each row of `resamples` -> its value and percentile interval. Rows
    where it is NaN are left out."""
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return Score(float(values[0]), float(low), float(high))


def band(values: Sequence[float]) -> Score:
    """The median of some values, the lowest and the highest."""
    return Score(float(np.median(values)), min(values), max(values))


# Comparisons ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A paired difference: estimate, 95 % bootstrap interval, p-value, and whether it is
    significant after Benjamini-Hochberg correction at 5 %."""

    value: float
    low: float
    high: float
    p: float
    significant: bool


def changes(values: Array) -> list[Change]:
    """(1 + R, 1 + V) a statistic under each row of `resamples`, for a reference (column 0) and V
    alternatives on the same documents -> the change of each alternative from the reference.

    The p-value is that of a normal deviate: the change over its bootstrap standard error; 1 where
    the standard error is zero, as it is for a single document.
    """
    # Average precision is NaN in a resample without a positive word: leave that resample out.
    usable = np.isfinite(values[1:]).all(axis=1)
    differences = values[:, 1:] - values[:, :1]
    estimates, resampled = differences[0], differences[1:][usable]

    errors = resampled.std(axis=0, ddof=1)
    p = np.array([erfc(abs(x) / e / 2**0.5) if e > 0 else 1.0 for x, e in zip(estimates, errors)])
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)

    rows = zip(estimates, low, high, p, benjamini_hochberg(p))
    return [
        Change(float(value), float(lowest), float(highest), float(chance), bool(rejected))
        for value, lowest, highest, chance, rejected in rows
    ]


def leads(values: Mapping[str, Array]) -> dict[str, Change]:
    """By how much a statistic of the first system, (1 + R,), is above that of each other one."""
    _, *others = values
    return dict(zip(others, changes(-np.stack([*values.values()], axis=1))))


def benjamini_hochberg(p: Array, level: float = 0.05) -> NDArray[np.bool_]:
    """Which null hypotheses to reject at a false discovery rate of `level` (Benjamini and Hochberg
    1995)."""
    return false_discovery_control(p) <= level


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's rank correlation; tied values share their mean rank."""
    return float(spearmanr(a, b).statistic)
