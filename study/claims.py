"""Sentences whose truth is computed from results, each for several cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, rankdata, spearmanr
from scipy.stats import t as student

from minibert.config import parse_head
from minibert.evaluation.intervals import Change, Score, benjamini_hochberg
from minibert.evaluation.metrics import Array

HOLDS, FAILS, NOT_SIGNIFICANT = "holds", "does not hold", "not significant"
LEVEL = 0.05


class Evidence(NamedTuple):
    """How a sentence does in one case."""

    direction: float
    """Above 0 if the sentence would hold, below 0 if its opposite would."""

    p: float
    """Two-sided: that a direction so far from 0 is chance."""

    text: str
    """The numbers, for a reader."""


@dataclass(frozen=True)
class Claim:
    """A sentence and its evidence. It holds in a case where the direction is right and significant
    after correction over the cases of the sentence (Benjamini-Hochberg, 5 %). It does not hold
    where the opposite is significant. Otherwise it is not significant there."""

    sentence: str

    cases: dict[str, Evidence] = field(default_factory=dict)

    def add(self, case: str, evidence: Evidence) -> None:
        self.cases[case] = evidence

    @property
    def verdicts(self) -> dict[str, str]:
        """{case: HOLDS, FAILS or NOT_SIGNIFICANT}"""
        if not self.cases:
            return {}
        p = np.array([evidence.p for evidence in self.cases.values()])
        return {
            case: (HOLDS if evidence.direction > 0 else FAILS) if significant else NOT_SIGNIFICANT
            for (case, evidence), significant in zip(
                self.cases.items(), benjamini_hochberg(p, LEVEL)
            )
        }

    @property
    def verdict(self) -> str:
        """That of all cases if they agree; otherwise how many there are of each."""
        verdicts = [*self.verdicts.values()]
        order = (HOLDS, NOT_SIGNIFICANT, FAILS)
        counts = {v: verdicts.count(v) for v in order if v in verdicts}
        if len(counts) == 1:
            return verdicts[0]
        return ", ".join(f"{verdict} in {count}" for verdict, count in counts.items())

    def lines(self) -> list[str]:
        """For each verdict that occurs, the cases that have it, with their numbers."""
        verdicts = self.verdicts
        return [
            f"{verdict}: "
            + "; ".join(f"{c} {self.cases[c].text}" for c in verdicts if verdicts[c] == verdict)
            for verdict in (HOLDS, NOT_SIGNIFICANT, FAILS)
            if verdict in verdicts.values()
        ]


def difference(values: Mapping[int, Array], others: Mapping[int, Array] | float) -> Evidence:
    """That a statistic is above another one, or above a number. {seed: (1 + R,) under each resample
    of the documents}; seeds that only one of them has are left out. In points of 100.

    The error is that of the documents (bootstrap, of the mean over seeds) and, with several seeds,
    that of the seeds. Interval and p are of the t distribution, with the degrees of freedom of
    Satterthwaite (1946): few seeds say little about the next one.
    """
    if not isinstance(others, Mapping):
        others = {seed: np.full_like(v, others) for seed, v in values.items()}
    seeds = values.keys() & others.keys()
    by_seed = 100 * np.array([values[seed] - others[seed] for seed in sorted(seeds)])  # (S, 1 + R)

    mean = by_seed.mean(0)
    of_seeds = by_seed[:, 0].var(ddof=1) / len(seeds) if len(seeds) > 1 else 0.0
    variance = np.nanvar(mean[1:], ddof=1) + of_seeds
    freedom = (len(seeds) - 1) * (variance / of_seeds) ** 2 if of_seeds > 0 else np.inf

    error = variance**0.5
    p = 2 * student.sf(abs(mean[0]) / error, freedom) if error > 0 else 1.0
    low, high = mean[0] + error * student.ppf([0.025, 0.975], freedom)
    return Evidence(float(mean[0]), float(p), signed(mean[0], low, high))


def signed(value: float, low: float, high: float) -> str:
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def change(value: Change, scale: float = 100) -> Evidence:
    """That a recorded difference is above zero."""
    text = signed(*(scale * x for x in (value.value, value.low, value.high)))
    return Evidence(value.value, value.p, text)


def apart(value: Score, other: Score) -> Evidence:
    """That a score is above another one, of which the intervals alone are known. Both errors are
    taken as independent: too large an error where both scores are of the same documents."""
    above = 100 * (value.value - other.value)
    half = 50 * float(np.hypot(value.high - value.low, other.high - other.low))
    error = half / norm.ppf(0.975)
    p = 2 * norm.sf(abs(above) / error) if error > 0 else 1.0
    return Evidence(above, float(p), signed(above, above - half, above + half))


def above_draws(values: Mapping[int, float], draws: Mapping[int, Sequence[float]]) -> Evidence:
    """That a value is above those of random draws. {seed: value} and {seed: values of its draws};
    seeds that only one of them has are left out.

    p: that one more draw lies as far from the mean of the draws of its seed, if the draws are
    normally distributed (t distribution). It says nothing about other documents. With several seeds
    it is too large, because their mean varies less than one draw.
    """
    seeds = sorted(values.keys() & draws.keys())
    means = {seed: float(np.mean(draws[seed])) for seed in seeds}
    above = float(np.mean([values[seed] - means[seed] for seed in seeds]))
    residuals = [draw - means[seed] for seed in seeds for draw in draws[seed]]

    freedom = len(residuals) - len(seeds)
    squares = sum(residual**2 for residual in residuals)
    error = (squares / freedom * (1 + 1 / len(residuals))) ** 0.5 if freedom > 0 else 0.0
    p = 2 * student.sf(abs(above) / error, freedom) if error > 0 else 1.0

    value, all_draws = np.mean([values[s] for s in seeds]), [d for s in seeds for d in draws[s]]
    below = sum(residual < above for residual in residuals)
    band = f"{100 * min(all_draws):.1f} to {100 * max(all_draws):.1f}"
    text = f"{100 * value:.1f}, draws {band} ({below} of {len(residuals)} below)"
    return Evidence(above, float(p), text)


def correlation(
    a: Mapping[str, float], b: Mapping[str, float], within_layers: bool = False
) -> Evidence:
    """That two rankings of the same heads are correlated (Spearman). `within_layers`: that the
    ranks of heads within their layer are, whichever layers matter. Heads count as independent."""
    if within_layers:
        a, b = ranks_in_layers(a), ranks_in_layers(b)
    result = spearmanr([a[head] for head in a], [b[head] for head in a])
    return Evidence(result.statistic, result.pvalue, f"{result.statistic:+.2f}")


def ranks_in_layers(values: Mapping[str, float]) -> dict[str, float]:
    """{head: its rank among the heads of its layer, 1 for the lowest value}"""
    ranks = {}
    for layer in {parse_head(head)[0] for head in values}:
        heads = [head for head in values if parse_head(head)[0] == layer]
        ranks |= dict(zip(heads, rankdata([values[head] for head in heads]).tolist()))
    return {head: ranks[head] for head in values}
