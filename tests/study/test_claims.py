"""Sentences with evidence, against numbers worked out another way."""

import math

import numpy as np
import pytest
from scipy import stats

from minibert.evaluation.intervals import Change, Score
from study.claims import (
    FAILS,
    HOLDS,
    NOT_SIGNIFICANT,
    Claim,
    Evidence,
    above_draws,
    apart,
    change,
    correlation,
    difference,
)
from study.page import summarise


def claim(**cases: tuple[float, float]) -> Claim:
    """{case: (direction, p)}"""
    return Claim(
        "It is so", {case: Evidence(*values, f"at {case}") for case, values in cases.items()}
    )


def test_a_sentence_holds_fails_or_stays_open_in_each_case():
    verdicts = claim(a=(1, 0.001), b=(-1, 0.002), c=(1, 0.6), d=(-1, 0.9)).verdicts
    assert verdicts == {"a": HOLDS, "b": FAILS, "c": NOT_SIGNIFICANT, "d": NOT_SIGNIFICANT}


def test_significance_is_corrected_over_the_cases():
    assert claim(a=(1, 0.04)).verdict == HOLDS
    # Benjamini-Hochberg: the smallest of three p-values must be below .05 / 3, if it is alone.
    assert claim(a=(1, 0.04), b=(1, 0.5), c=(1, 0.6)).verdict == NOT_SIGNIFICANT
    assert (
        claim(a=(1, 0.016), b=(1, 0.5), c=(1, 0.6)).verdict
        == f"{HOLDS} in 1, {NOT_SIGNIFICANT} in 2"
    )
    assert claim(a=(1, 0.04), b=(1, 0.045), c=(1, 0.049)).verdict == HOLDS


def test_lines_name_every_case_with_its_numbers():
    lines = claim(a=(1, 0.001), b=(-1, 0.002), c=(1, 0.6), d=(2, 0.003)).lines()
    assert lines == ["holds: a at a; d at d", "not significant: c at c", "does not hold: b at b"]


def test_summary_has_each_sentence_once():
    holds, fails = claim(a=(1, 0.0), b=(1, 0.0)), claim(a=(-1, 0.0))
    mixed, undecided = claim(a=(1, 0.0), b=(-1, 0.0)), claim(a=(1, 0.9), b=(-1, 0.8))
    groups = summarise([holds, fails, mixed, undecided])
    assert groups == {
        HOLDS: [holds],
        "mixed": [mixed],
        NOT_SIGNIFICANT: [undecided],
        FAILS: [fails],
    }


@pytest.mark.parametrize("shift", [0.02, -0.02, 0.0004])
def test_a_difference_is_in_points_with_its_interval(shift):
    generator = np.random.default_rng(0)
    others = 0.9 + 0.01 * generator.standard_normal(301)
    values = others + shift + 0.003 * generator.standard_normal(301)
    evidence = difference({0: values}, {0: others, 1: others})

    differences = 100 * (values - others)
    error = np.std(differences[1:], ddof=1)
    low, high = stats.norm.interval(0.95, differences[0], error)
    assert evidence.text == f"{differences[0]:+.1f} [{low:+.1f}, {high:+.1f}]"
    assert np.sign(evidence.direction) == np.sign(values[0] - others[0])
    assert evidence.p == pytest.approx(2 * stats.norm.sf(abs(differences[0]) / error), rel=1e-9)
    assert difference({0: others}, {0: others}).p == 1
    assert difference({0: values}, 0.9).direction == pytest.approx(100 * (values[0] - 0.9))


def test_an_undefined_resample_is_left_out_of_a_difference():
    values = 0.5 + 0.01 * np.random.default_rng(0).standard_normal(301)
    broken = np.append(values, np.nan)
    assert difference({0: broken}, 0.49) == difference({0: values}, 0.49)


def test_the_error_of_a_difference_is_of_documents_and_of_seeds():
    generator = np.random.default_rng(0)
    values = {seed: 0.9 + 0.01 * generator.standard_normal(301) for seed in range(3)}
    others = {seed: 0.88 + 0.01 * generator.standard_normal(301) for seed in range(3)}
    evidence = difference(values, others)

    by_seed = np.array([100 * (values[seed] - others[seed]) for seed in range(3)])
    mean = by_seed[:, 0].mean()
    documents = np.var(by_seed.mean(0)[1:], ddof=1)
    seeds = np.var(by_seed[:, 0], ddof=1) / 3
    t = stats.t(df=(documents + seeds) ** 2 / (seeds**2 / 2), scale=math.sqrt(documents + seeds))
    assert evidence.p == pytest.approx(2 * t.sf(mean), rel=1e-9)
    assert evidence.text == f"{mean:+.1f} [{mean + t.ppf(0.025):+.1f}, {mean + t.ppf(0.975):+.1f}]"


def test_many_documents_leave_the_t_test_of_the_seeds():
    """Where the documents have no error, p is that of the one-sample t-test over seeds."""
    values = {seed: np.full(301, value) for seed, value in enumerate((0.93, 0.95, 0.96))}
    expected = stats.ttest_1samp([0.93, 0.95, 0.96], 0.92).pvalue
    assert difference(values, 0.92).p == pytest.approx(expected, rel=1e-9)
    same = {seed: np.full(301, 0.93) for seed in range(2)}
    assert difference(same, 0.93).p == 1


def test_a_recorded_difference_keeps_its_p_value():
    evidence = change(Change(-0.012, -0.02, -0.004, 0.003, True))
    assert evidence == Evidence(-0.012, 0.003, "-1.2 [-2.0, -0.4]")
    assert change(Change(0.0012, 0.0, 0.002, 0.01, True), 1000).text == "+1.2 [+0.0, +2.0]"


def test_a_value_is_compared_with_one_more_random_draw():
    draws = [0.80, 0.84, 0.82, 0.86, 0.83]
    evidence = above_draws({0: 0.90}, {0: draws})
    # The prediction interval of a normal sample (Hahn 1969).
    t = (0.90 - np.mean(draws)) / (np.std(draws, ddof=1) * math.sqrt(1 + 1 / 5))
    assert evidence.p == pytest.approx(2 * (1 - stats.t.cdf(t, 4)), rel=1e-9)
    assert evidence.direction == pytest.approx(0.07)
    assert evidence.text == "90.0, draws 80.0 to 86.0 (5 of 5 below)"
    assert above_draws({0: 0.70}, {0: draws}).direction < 0
    middle = above_draws({0: 0.835}, {0: draws})
    assert middle.direction > 0
    assert middle.p > 0.5
    assert above_draws({0: 0.5}, {0: [0.4, 0.4]}).p == 1  # draws that do not differ say nothing
    assert above_draws({0: 0.5}, {0: [0.4]}).p == 1


def test_a_value_is_compared_with_the_draws_of_its_seed():
    # The second seed is better as a whole, which says nothing about the choice of heads.
    values = {0: 0.85, 1: 0.95, 2: 0.1}
    draws = {0: [0.80, 0.82], 1: [0.90, 0.92, 0.94], 3: [0.0]}
    evidence = above_draws(values, draws)
    assert evidence.direction == pytest.approx((0.04 + 0.03) / 2)
    residuals = np.array([-0.01, 0.01, -0.02, 0.0, 0.02])
    error = math.sqrt((residuals**2).sum() / 3 * (1 + 1 / 5))
    assert evidence.p == pytest.approx(2 * stats.t.sf(0.035 / error, 3), rel=1e-9)
    assert evidence.text == "90.0, draws 80.0 to 94.0 (5 of 5 below)"


def test_rankings_are_compared_by_head():
    a = {"L0H0": 1.0, "L0H1": 5.0, "L1H0": 3.0, "L1H1": 4.0}
    b = dict(reversed(a.items()))
    assert correlation(a, b).direction == pytest.approx(1)  # the same heads in another order
    c = {"L0H0": 4.0, "L0H1": 1.0, "L1H0": 3.0, "L1H1": 2.0}
    assert correlation(a, c).text == "-1.00"


def test_correlation_within_layers_ignores_which_layers_matter():
    draw = np.random.default_rng(3)
    heads = [f"L{layer}H{head}" for layer in range(6) for head in range(12)]
    layers = np.repeat(np.arange(6) * 10.0, 12)
    a, b = (layers + draw.random(72) for _ in range(2))
    whole = correlation(dict(zip(heads, a)), dict(zip(heads, b)))
    assert whole.direction > 0.9

    shuffled = draw.permutation(72)  # the order of the heads does not matter either
    pair = [dict(zip([heads[i] for i in shuffled], x[shuffled])) for x in (a, b)]
    ranks = [np.concatenate([stats.rankdata(part) for part in x.reshape(6, 12)]) for x in (a, b)]
    expected = stats.spearmanr(*ranks)
    within = correlation(*pair, within_layers=True)
    assert within.direction == pytest.approx(expected.statistic)
    assert within.p == pytest.approx(expected.pvalue)
    assert abs(within.direction) < 0.3


def test_scores_apart_by_their_intervals():
    """Against draws of both scores: normal, with the errors that the intervals stand for."""
    evidence = apart(Score(0.40, 0.36, 0.44), Score(0.45, 0.42, 0.48))
    draw = np.random.default_rng(0)
    difference = draw.normal(0.40, 0.04 / 1.96, 400_000) - draw.normal(0.45, 0.03 / 1.96, 400_000)
    assert evidence.p == pytest.approx(2 * (difference > 0).mean(), abs=2e-3)
    assert evidence.text == "-5.0 [-10.0, +0.0]"
    assert apart(Score(0.5, 0.5, 0.5), Score(0.4, 0.4, 0.4)).p == 1
