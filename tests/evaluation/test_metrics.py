"""Scores against scikit-learn and seqeval, intervals against their definition."""

import math

import numpy as np
import pytest
import seqeval.scheme
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, norm, spearmanr
from seqeval.metrics import f1_score as seqeval_f1
from seqeval.metrics import precision_score as seqeval_precision
from seqeval.metrics import recall_score as seqeval_recall
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import Entities
from sklearn import metrics as sklearn

from minibert.evaluation.intervals import (
    Change,
    Score,
    band,
    benjamini_hochberg,
    changes,
    interval,
    rank_correlation,
    resamples,
)
from minibert.evaluation.metrics import (
    PrecisionRecallCurve,
    accuracy,
    confusion,
    f1,
    mean_over_documents,
    precision,
    recall,
    span_counts,
    spans,
)

# Documents of (gold, score) words; five scores only, so that most are tied.
WORDS = st.lists(
    st.lists(st.tuples(st.booleans(), st.sampled_from([-2.5, -1.0, 0.0, 0.1, 3.0])), min_size=1),
    min_size=1,
    max_size=6,
)


def columns(documents):
    """An array of gold and one of scores per document."""
    gold = [np.array([g for g, _ in d], dtype=bool) for d in documents]
    return gold, [np.array([s for _, s in d], dtype=np.float64) for d in documents]


def random_words(seed=0, documents=12, ties=True):
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 40, documents)
    gold = [draw.random(n) < 0.3 for n in sizes]
    scores = [draw.normal(size=n) + g for n, g in zip(sizes, gold)]
    return gold, [s.round(1) if ties else s for s in scores]


def with_interval(counts, measure, draws):
    return interval(measure(draws @ counts))


# Precision and recall ----------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(WORDS)
def test_average_precision_matches_sklearn_with_ties(documents):
    gold, scores = columns(documents)
    assume(np.concatenate(gold).any())
    expected = sklearn.average_precision_score(np.concatenate(gold), np.concatenate(scores))
    assert PrecisionRecallCurve(gold, scores).average_precision() == pytest.approx(
        expected, abs=1e-12
    )


@settings(deadline=None, max_examples=50)
@given(WORDS, st.data())
def test_weights_count_documents_repeatedly(documents, drawn):
    times = drawn.draw(
        st.lists(st.integers(0, 3), min_size=len(documents), max_size=len(documents))
    )
    gold, scores = columns(documents)
    curve = PrecisionRecallCurve(gold, scores)
    value = curve.average_precision(np.array(times, dtype=np.float64))
    gold_words = np.concatenate([np.tile(g, n) for g, n in zip(gold, times)])
    if gold_words.any():
        words = np.concatenate([np.tile(s, n) for s, n in zip(scores, times)])
        expected = sklearn.average_precision_score(gold_words, words)
        assert value == pytest.approx(expected, abs=1e-12)
    else:
        assert math.isnan(value)


def test_average_precision_by_hand():
    """A positive word, a negative one, then a tie of one each: AP = (1 + 2/4) / 2."""
    gold = [np.array([True, False]), np.array([False, True])]
    scores = [np.array([3.0, 2.0]), np.array([1.0, 1.0])]
    assert PrecisionRecallCurve(gold, scores).average_precision() == 0.75
    assert PrecisionRecallCurve(gold, scores).average_precision(np.array([1.0, 0.0])) == 1.0
    assert PrecisionRecallCurve(gold, scores).average_precision(np.array([0.0, 1.0])) == 0.5


@pytest.mark.parametrize("weights", [None, [1.0, 0.0], [2.0, 1.0]])
def test_average_precision_without_positives_is_nan(weights):
    gold = [np.zeros(2, dtype=bool), np.zeros(1, dtype=bool)]
    curve = PrecisionRecallCurve(gold, [np.array([1.0, 2.0]), np.array([0.0])])
    with np.errstate(all="raise"):
        value = curve.average_precision(None if weights is None else np.array(weights))
    assert math.isnan(value)


@settings(deadline=None, max_examples=50)
@given(WORDS)
def test_best_threshold_has_the_highest_f1(documents):
    gold, scores = columns(documents)
    all_gold, all_scores = np.concatenate(gold), np.concatenate(scores)
    threshold = PrecisionRecallCurve(gold, scores).best_threshold()
    score = {
        t: 2 * (all_gold & (all_scores >= t)).sum() / (all_gold.sum() + (all_scores >= t).sum())
        for t in all_scores
    }
    assert score[threshold] == pytest.approx(max(score.values()), abs=1e-12)


def test_best_threshold_by_hand():
    gold = [np.array([True, False, True, False, False])]
    scores = [np.array([0.9, 0.8, 0.7, 0.6, 0.5])]
    assert (
        PrecisionRecallCurve(gold, scores).best_threshold() == 0.7
    )  # F1 of 4/5 before 2/3, 1/2, 2/3, 4/7


# Counts -----------------------------------------------------------------------------------------


def test_confusion_by_hand():
    gold = [np.array([True, True, False, False, False, True]), np.array([False])]
    predicted = [np.array([True, False, True, True, False, True]), np.array([False])]
    assert confusion(gold, predicted).tolist() == [[2, 2, 1, 1], [0, 0, 0, 1]]


def test_measures_keep_leading_axes_and_are_zero_for_empty_denominators():
    counts = np.array([[[3, 1, 2, 4], [0, 0, 0, 5]], [[0, 2, 0, 0], [0, 0, 3, 0]]], dtype=float)
    assert precision(counts).tolist() == [[0.75, 0], [0, 0]]
    assert recall(counts).tolist() == [[0.6, 0], [0, 0]]
    assert f1(counts).tolist() == [[6 / 9, 0], [0, 0]]
    assert accuracy(counts).tolist() == [[0.7, 1], [0, 0]]


# Spans ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("", set()),
        ("O O", set()),
        ("B I I", {(0, 3, "")}),
        ("B B I O B", {(0, 1, ""), (1, 3, ""), (4, 5, "")}),
        ("I O I I", {(0, 1, ""), (2, 4, "")}),
        ("B-X I-X B-X", {(0, 2, "X"), (2, 3, "X")}),
        ("B-X I-Y I-Y", {(0, 1, "X"), (1, 3, "Y")}),
        ("O I-X I-Y B-Y I-Y", {(1, 2, "X"), (2, 3, "Y"), (3, 5, "Y")}),
        ("B-a-b I-a-b I-a", {(0, 2, "a-b"), (2, 3, "a")}),
        ("B E S S O S", {(0, 2, ""), (2, 3, ""), (3, 4, ""), (5, 6, "")}),
        ("B-X L-X U-X B-X I-X L-X", {(0, 2, "X"), (2, 3, "X"), (3, 6, "X")}),
        ("B-X M-X E-X W-X W-X O", {(0, 3, "X"), (3, 4, "X"), (4, 5, "X")}),
        ("B M E B E S", {(0, 3, ""), (3, 5, ""), (5, 6, "")}),
        ("I-X E-X E-X S-X I-X", {(0, 2, "X"), (2, 3, "X"), (3, 4, "X"), (4, 5, "X")}),
        ("B-X E-Y E-Y O", {(0, 1, "X"), (1, 2, "Y"), (2, 3, "Y")}),
    ],
)
def test_spans_by_hand(labels, expected):
    assert spans(labels.split()) == expected


# The tags of each scheme as IOBES has them, which is what seqeval's default mode reads.
IOBES = dict(zip("OBIES", "OBIES"))
SCHEMES = {
    "BIO": dict(zip("OBI", "OBI")),
    "BIOES": IOBES,
    "BILOU": dict(zip("OBILU", "OBIES")),
    "BMEWO": dict(zip("OBMEW", "OBIES")),
    "BMES": dict(zip("OBMES", "OBIES")),
}


@st.composite
def labels_of_a_scheme(draw, of=1):
    """(as_iobes, `of` label sequences of one length): any order of the tags, typed or not."""
    as_iobes = SCHEMES[draw(st.sampled_from([*SCHEMES]))]
    types = draw(st.sampled_from([[""], ["-X", "-Y", "-X-Y"]]))
    label = st.builds(
        lambda tag, kind: tag if tag == "O" else tag + kind,
        st.sampled_from([*as_iobes]),
        st.sampled_from(types),
    )
    rows = draw(st.lists(st.tuples(*[label] * of), max_size=12))
    return as_iobes, [[row[i] for row in rows] for i in range(of)]


def translated(labels, as_iobes):
    return [as_iobes[label[0]] + label[1:] for label in labels]


@settings(deadline=None, max_examples=200)
@given(labels_of_a_scheme())
def test_spans_match_seqeval(case):
    as_iobes, [labels] = case
    entities = get_entities(translated(labels, as_iobes))
    assert spans(labels) == {(a, b + 1, "" if kind == "_" else kind) for kind, a, b in entities}


@pytest.mark.parametrize("scheme", ["IOBES", "BILOU"])
@settings(deadline=None, max_examples=50)
@given(entities=st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["X", "Y", "O"]))))
def test_spans_of_well_formed_labels_match_seqeval_schemes(scheme, entities):
    last, single = ("E", "S") if scheme == "IOBES" else ("L", "U")
    labels = []
    for size, kind in entities:
        tags = [single] if size == 1 else ["B", *["I"] * (size - 2), last]
        labels += ["O"] * size if kind == "O" else [f"{tag}-{kind}" for tag in tags]
    strict = Entities([labels], getattr(seqeval.scheme, scheme)).entities[0]
    assert spans(labels) == {(e.start, e.end, e.tag) for e in strict}


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(deadline=None, max_examples=100)
@given(labels_of_a_scheme(of=2), st.integers(0, 12))
def test_span_measures_match_seqeval(case, cut):
    as_iobes, sequences = case
    gold, predicted = ([labels[:cut], labels[cut:]] for labels in sequences)
    counts = span_counts(gold, predicted)
    assert counts.shape == (2, 4)
    gold, predicted = ([translated(d, as_iobes) for d in side] for side in (gold, predicted))
    for ours, theirs in [
        (precision, seqeval_precision),
        (recall, seqeval_recall),
        (f1, seqeval_f1),
    ]:
        expected = theirs(gold, predicted, zero_division=0)
        assert float(ours(counts.sum(0))) == pytest.approx(expected, abs=1e-12)


def test_span_counts_by_hand():
    """A span of another length or type is one false positive and one false negative."""
    gold = [["B-X", "I-X", "O", "B-Y"], ["O", "B-X"], ["O"]]
    predicted = [["B-X", "I-X", "O", "B-X"], ["B-X", "I-X"], ["B-Y"]]
    assert span_counts(gold, predicted)[:, :3].tolist() == [[1, 1, 1], [0, 1, 1], [0, 1, 0]]


@pytest.mark.parametrize("tags", ["BES", "BLU", "BEW"])
def test_entity_f1_by_scheme_by_hand(tags):
    """Gold: a phrase of two words and one of one; the second is missed: P 1, R 1/2, F1 2/3."""
    first, last, single = (f"{tag}-X" for tag in tags)
    counts = span_counts([[first, last, single, "O"]], [[first, last, "O", "O"]])
    assert float(f1(counts.sum(0))) == pytest.approx(2 / 3)


# Intervals --------------------------------------------------------------------------------------


def test_resamples_have_the_sample_size():
    draws = resamples(7, 500)
    assert draws.shape == (501, 7)
    assert (draws[0] == 1).all()
    assert (draws.sum(1) == 7).all()
    assert (draws == draws.round()).all()
    assert draws.min() == 0
    assert draws[1:].mean(0) == pytest.approx(np.ones(7), abs=0.2)
    assert draws[1:].var(0) == pytest.approx(np.full(7, 6 / 7), abs=0.25)  # multinomial


def test_resamples_are_deterministic():
    assert (resamples(9) == resamples(9)).all()
    assert (resamples(9) != resamples(9, seed=1)).any()
    assert resamples(1).tolist() == [[1.0]] * 1001


def test_interval_is_the_middle_95_percent():
    values = np.array([50.0, *np.random.default_rng(0).permutation(np.arange(1001.0))])
    score = interval(values)
    assert (score.value, score.low, score.high) == (50.0, 25.0, 975.0)


def test_interval_ignores_nan_resamples():
    values = np.array([0.5, np.nan, 0.0, 1.0, np.nan])
    score = interval(values)
    assert (score.value, score.low, score.high) == pytest.approx((0.5, 0.025, 0.975))


@pytest.mark.parametrize("measure", [precision, recall, f1, accuracy])
def test_interval_contains_value_and_narrows_with_more_documents(measure):
    widths = []
    for documents in (20, 500):
        gold, scores = random_words(1, documents)
        counts = confusion(gold, [s >= 0.5 for s in scores])
        score = with_interval(counts, measure, resamples(documents))
        assert score.value == pytest.approx(float(measure(counts.sum(0))), abs=1e-12)
        assert score.low < score.value < score.high
        widths.append(score.high - score.low)
    assert 0 < widths[1] < widths[0] / 2
    assert score == with_interval(counts, measure, resamples(documents))


def test_interval_matches_a_naive_bootstrap():
    """A bootstrap spelled out: draw documents, pool their words, score, take percentiles."""
    gold, scores = random_words(2, 30)
    predicted = [s >= 0.5 for s in scores]
    draw = np.random.default_rng(5)
    values = []
    for _ in range(2000):
        chosen = draw.integers(0, 30, 30)
        pooled = [np.concatenate([x[i] for i in chosen]) for x in (gold, predicted)]
        hits = (pooled[0] & pooled[1]).sum()
        values.append(2 * hits / (pooled[0].sum() + pooled[1].sum()))
    score = with_interval(confusion(gold, predicted), f1, resamples(30))
    low, high = np.percentile(values, [2.5, 97.5])
    assert (score.low, score.high) == pytest.approx((low, high), abs=0.02)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5], (0.5, 0.5, 0.5)),
        ([4.0, 1.0, 2.0], (2.0, 1.0, 4.0)),
        ([0.25, -1.0, 3.0, 0.75], (0.5, -1.0, 3.0)),
    ],
)
def test_band_is_median_lowest_and_highest(values, expected):
    assert band(values) == Score(*expected)
    assert band(np.array(values)) == Score(*expected)


# Comparisons ------------------------------------------------------------------------------------


def test_changes_are_paired_differences():
    """Column 1 is always 0.5 above the reference; column 2 differs from it by noise."""
    draw = np.random.default_rng(0)
    reference = draw.normal(size=1001)
    noise = draw.normal(size=1001)
    noise[0] = 0.3
    steady, loose = changes(np.stack([reference, reference + 0.5, reference + noise], axis=1))
    assert (steady.value, steady.low, steady.high) == pytest.approx((0.5, 0.5, 0.5))
    assert steady.p == 0
    assert steady.significant
    assert loose.value == pytest.approx(0.3)
    assert (loose.low, loose.high) == pytest.approx(np.percentile(noise[1:], [2.5, 97.5]))
    assert loose.p == pytest.approx(2 * norm.sf(0.3 / noise[1:].std(ddof=1)))
    assert not loose.significant


def test_no_change_is_not_significant():
    [change] = changes(np.repeat(np.arange(4.0)[:, None], 2, axis=1))
    assert change == Change(value=0, low=0, high=0, p=1, significant=False)


@pytest.mark.parametrize(
    ("p", "rejected"),
    [
        ([], []),
        ([0.05], [True]),
        ([0.051], [False]),
        ([0.5, 0.02, 0.9], [False, False, False]),  # 0.02 > 0.05 / 3
        ([0.5, 0.016, 0.9], [False, True, False]),
        ([0.05, 0.04, 0.03], [True, True, True]),  # the largest passes, so the others pass too
        ([0.04, 0.9, 0.01, 0.025], [False, False, True, True]),
    ],
)
def test_benjamini_hochberg_by_hand(p, rejected):
    assert benjamini_hochberg(np.array(p)).tolist() == rejected


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_benjamini_hochberg_matches_scipy(p):
    adjusted = false_discovery_control(p)
    assume(not np.isclose(adjusted, 0.05).any())
    assert benjamini_hochberg(np.array(p)).tolist() == (adjusted <= 0.05).tolist()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(*[st.integers(-3, 3)] * 2), min_size=2, max_size=20))
def test_rank_correlation_is_spearman(pairs):
    a, b = np.array(pairs, dtype=np.float64).T
    assume(len(set(a)) > 1 and len(set(b)) > 1)
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_mean_over_documents_ignores_nan():
    """Each document once; the first twice and the last once; only the one without a value."""
    values = np.array([1.0, math.nan, 0.25])
    draws = np.array([[1.0, 1, 1], [2, 0, 1], [0, 3, 0]])
    expected = [0.625, 0.75, math.nan]
    np.testing.assert_allclose(mean_over_documents(values, draws), expected)
