"""The features of a candidate against loops over its runs and words, and the score by hand."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibert.data.corpus import parse_document
from minibert.data.documents import Document, is_content_word
from minibert.phrases.candidates import Candidate, content_runs, group
from minibert.phrases.features import (
    BY_ATTENTION,
    COUNTED,
    FEATURES,
    PhraseScore,
    attention_features,
    counted_features,
    find_occurrences,
    log_attention,
    phrase_features,
)
from minibert.text.words import word_spans


def doc(text):
    return Document("d", text, word_spans(text))


def by_loops(document, candidates, received, contrast):
    """(candidates, FEATURES) by the words of the module's docstring."""
    is_content = [value > 0 for value in is_content_word(document)]

    def multiples(attention):
        content = [value for value, flag in zip(attention, is_content) if flag]
        mean = sum(content) / len(content) if content else 1
        return [math.log(value / (mean or 1) + 0.05) for value in attention]

    logs, contrast_logs = multiples(received), multiples(contrast)
    rows = []
    for candidate in candidates:
        means, lowest, contrasts = [], [], []
        for first, last in candidate.runs:
            words = range(first, last)
            means.append(sum(logs[word] for word in words) / len(words))
            lowest.append(min(logs[word] for word in words))
            contrasts.append(sum(contrast_logs[word] for word in words) / len(words))

        occurrences, size = len(candidate.runs), len(candidate.stems)
        first_word = min(first for first, _ in candidate.runs)
        counted = [math.log(occurrences), math.log(1 + first_word / 50), math.log(size), size == 1]
        attention = [sum(column) / occurrences for column in (means, lowest, contrasts)]
        rows.append([*counted, *attention])
    return rows


WORDS = ["fox", "foxes", "red", "Den", "the", "of", "3", "multi-agent", "深", "bee", "."]


@st.composite
def problems(draw):
    """A document, candidates (some with stop words, numbers or points inside), and attention."""
    words = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30))
    given_words = draw(st.booleans())
    record = {"id": "d", "words": words, "labels": ["O"] * len(words)}
    document = parse_document(json.dumps(record), "x") if given_words else doc(" ".join(words))
    place = st.integers(0, len(document.words))
    pairs = draw(st.lists(st.tuples(place, place), max_size=8))
    runs = [(min(pair), max(pair)) for pair in pairs]
    size = len(document.words)
    values = st.lists(st.sampled_from([0.0, 0.001, 0.5, 1.0, 7.5]), min_size=size, max_size=size)
    attention = [np.array(draw(values)) for _ in range(2)]
    return document, group(document, runs + content_runs(document, 4)), *attention


@given(problems())
def test_features_equal_loops_over_runs_and_words(problem):
    document, candidates, received, contrast = problem
    features = phrase_features(document, candidates, received, contrast)
    assert features.shape == (len(candidates), len(FEATURES))
    if candidates:
        np.testing.assert_allclose(features, by_loops(*problem), rtol=0, atol=1e-12)


def test_features_by_hand():
    """Words 1 and 2 receive 3 and 1, twice the mean and two thirds of it; the last run 1 and 1."""
    document = doc("the red fox of red foxes; a den")
    received = np.array([0.0, 3.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.5])
    contrast = np.array([0.0, 1.0, 2.0, 0.0, 1.0, 1.0, 0.0, 5.0])
    candidates = group(document, content_runs(document, 5))
    assert [candidate.runs for candidate in candidates] == [[(1, 3), (4, 6)], [(7, 8)]]
    mean = 7.5 / 5

    def log(value):
        return math.log(value + 0.05)

    high, low = log(3 / mean), log(1 / mean)
    mean_contrast = (log(0.5) + log(1) + log(0.5) + log(0.5)) / 4
    expected = [
        [math.log(2), math.log(1.02), math.log(2), 0, (high + 3 * low) / 4, low, mean_contrast],
        [0, math.log(1 + 7 / 50), 0, 1, log(1), log(1), log(2.5)],
    ]
    np.testing.assert_allclose(
        phrase_features(document, candidates, received, contrast), expected, atol=1e-12
    )


@given(problems(), st.integers(1, 4))
def test_columns_of_heads_are_computed_as_each_head_alone(problem, heads):
    document, candidates, received, contrast = problem
    if not candidates:
        return
    columns = np.stack([received, contrast, received + contrast, 2 * received], axis=1)[:, :heads]
    occurrences = find_occurrences(candidates)
    together = attention_features(occurrences, log_attention(document, columns))
    for column in range(heads):
        logs = log_attention(document, columns[:, column])
        for of_all, alone in zip(together, attention_features(occurrences, logs)):
            np.testing.assert_allclose(of_all[:, column], alone, rtol=0, atol=1e-12)


@given(problems(), st.sampled_from([1e-6, 0.3, 1e9]))
def test_features_do_not_depend_on_the_amount_of_attention(problem, factor):
    document, candidates, *attention = problem
    received, contrast = (values * is_content_word(document) for values in attention)
    scaled = phrase_features(document, candidates, factor * received, factor * contrast)
    expected = phrase_features(document, candidates, received, contrast)
    np.testing.assert_allclose(scaled, expected, rtol=0, atol=1e-9)


@given(problems())
def test_uniform_weights_change_no_order(problem):
    """Candidates of content words get one constant, whatever the weights of the features."""
    document, _, _, _ = problem
    candidates = group(document, content_runs(document, 3))
    is_content = is_content_word(document)
    features = phrase_features(document, candidates, is_content, is_content)
    constant = math.log(1.05)
    np.testing.assert_allclose(features[:, 4:], constant, rtol=0, atol=1e-12)

    weights = dict(zip(FEATURES, [0.6, -0.5, 0.4, -1.1, 0.9, 0.5, -0.4]))
    counted = PhraseScore({}, {}, {name: weights[name] for name in COUNTED})
    difference = PhraseScore({}, {}, weights).of(features) - counted.of(features)
    np.testing.assert_allclose(difference, constant * (0.9 + 0.5 - 0.4), rtol=0, atol=1e-12)


@pytest.mark.parametrize("text", ["", "the of", "3 . 4", "fox"])
def test_odd_texts_have_finite_features(text):
    """No attention at all, and no content word; a warning is an error here."""
    document = doc(text)
    nothing = np.zeros(len(document.words))
    runs = [(i, i + 1) for i in range(len(document.words))]
    candidates = [Candidate(("x",), [run]) for run in runs]
    with np.errstate(all="raise"):
        features = phrase_features(document, candidates, nothing, nothing)
    assert features.shape == (len(candidates), 7)
    assert features[:, 4:] == pytest.approx(np.full((len(candidates), 3), math.log(0.05)))


def test_score_weighs_features_by_name():
    features = np.eye(len(FEATURES))
    weights = {"contrast": -0.25, "occurrences": 2.0, "weakest word": 0.5}
    assert PhraseScore({}, {}, weights).of(features).tolist() == [2.0, 0, 0, 0, 0, 0.5, -0.25]
    assert PhraseScore({}).of(features).tolist() == [0.0] * len(FEATURES)
    assert PhraseScore({}, {}, weights).of(np.zeros((0, 7))).shape == (0,)
    assert (*COUNTED, *BY_ATTENTION, "contrast") == FEATURES


def test_occurrences_are_listed_run_after_run():
    candidates = [Candidate(("a", "b"), [(0, 2), (5, 8)]), Candidate(("c",), [(3, 4)])]
    words, starts, owners = find_occurrences(candidates)
    assert words.tolist() == [0, 1, 5, 6, 7, 3]
    assert starts.tolist() == [0, 2, 5]
    assert owners.tolist() == [0, 0, 1]
    assert counted_features(candidates)[:, 3].tolist() == [0, 1]
    assert [values.tolist() for values in find_occurrences([])] == [[], [], []]
