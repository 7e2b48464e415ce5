"""The fit against a slow loss and scikit-learn; the choice of heads against brute force."""

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from minibert.data.documents import Document, is_content_word
from minibert.keyphrases.choice import ALL_HEADS, BEST_HEAD, NO_ATTENTION, RANDOM
from minibert.keyphrases.fitting import (
    RIDGE,
    Choice,
    Fitter,
    Rows,
    Task,
    as_score,
    fit_controls,
    fit_weights,
    make_rows,
    make_task,
)
from minibert.phrases.candidates import content_runs, group
from minibert.phrases.features import BY_ATTENTION, COUNTED, FEATURES, PhraseScore, phrase_features
from minibert.phrases.scores import gold_stems, phrase_measures
from minibert.text.words import word_spans

TEXT = "quick sort of the large file; a merge sort, a quick sort. The file and its sort order"


def problem(seed, heads=4, gold=0.4):
    """A document with candidates, and attention (words, heads) that says something about gold."""
    draw = np.random.default_rng(seed)
    words = draw.choice(["red", "fox", "den", "bee", "owl", "of", "moor", "late"], 24)
    commas = draw.choice(["", "", ","], 24)
    text = " ".join(word + comma for word, comma in zip(words, commas))
    document = Document(str(seed), text, word_spans(text))
    candidates = group(document, content_runs(document, 3))
    chosen = [c for c in candidates if draw.random() < gold]
    names = [text[slice(document.words[c.runs[0][0]][0], document.words[c.runs[0][1] - 1][1])]
             for c in chosen]  # fmt: skip
    received = draw.random((len(document.words), heads)) ** 2
    for candidate in chosen:
        for first, last in candidate.runs:
            received[first:last, 0] += 0.5
            received[first:last, 1] += draw.random()
            received[first:last, 2] *= 0.2
    received *= is_content_word(document)[:, None]
    return document._replace(keyphrases=[*names, "absent"]), candidates, received


def tasks(*seeds, **settings):
    return [make_task(*problem(seed, **settings)) for seed in seeds]


# Tasks and rows ---------------------------------------------------------------------------------


def test_task_marks_the_gold_candidates():
    gold = ["quick sort", "sort orders", "index", "Quick sorts"]
    document = Document("d", TEXT, word_spans(TEXT), gold)
    candidates = group(document, content_runs(document, 5))
    task = make_task(document, candidates, np.ones((len(document.words), 2)))
    assert task.wanted == 3
    marked = [c.stems for c, flag in zip(candidates, task.is_gold) if flag]
    assert marked == [("quick", "sort"), ("sort", "order")]
    assert task.counted.shape == (len(candidates), len(COUNTED))


def test_rows_by_hand():
    """Two collections; in the first, two of three documents have a gold candidate."""

    def task(*is_gold):
        return Task(None, None, None, None, np.array(is_gold, dtype=float), 9)

    rows = make_rows([[task(0, 1), task(0, 0, 0), task(1, 1, 0)], [task(1)]])
    assert rows.tasks.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert rows.weights.tolist() == [1 / 4, 0, 1 / 4, 1 / 2]
    assert rows.targets.tolist() == [0, 1 / 4, 0, 0, 0, 1 / 8, 1 / 8, 0, 1 / 2]


# Weights ----------------------------------------------------------------------------------------


def slow_loss(weights, collections):
    """By loops. `collections`: lists of documents (features (candidates, F), is_gold)."""
    total = 0.0
    for documents in collections:
        losses = []
        for features, is_gold in documents:
            scores = [sum(x * w for x, w in zip(row, weights)) for row in features]
            normaliser = sum(math.exp(score) for score in scores)
            probabilities = [math.exp(score) / normaliser for score in scores]
            terms = [-math.log(p) for p, gold in zip(probabilities, is_gold) if gold]
            losses += [sum(terms) / len(terms)] if terms else []
        total += sum(losses) / len(losses) / len(collections)
    return total + RIDGE * sum(weight**2 for weight in weights)


def random_collections(seed, sizes=((5, 2, 9), (3, 4))):
    draw = np.random.default_rng(seed)
    collections = []
    for of_collection in sizes:
        documents = []
        for size in of_collection:
            is_gold = draw.random(size) < 0.4
            documents.append((draw.normal(size=(size, 3)), is_gold))
        documents[0][1][0] = True
        collections.append(documents)
    return collections


def as_rows(collections):
    """Features (rows, F), and rows of tasks that have nothing but gold."""
    bare = [
        [Task(None, None, None, None, is_gold.astype(float), 0) for _, is_gold in documents]
        for documents in collections
    ]
    features = np.concatenate([f for documents in collections for f, _ in documents])
    return features, make_rows(bare)


@pytest.mark.parametrize("seed", range(5))
def test_fit_is_the_minimum_of_the_slow_loss(seed):
    collections = random_collections(seed)
    weights, loss = fit_weights(*as_rows(collections))
    assert loss == pytest.approx(slow_loss(weights, collections), abs=1e-12)

    # Its slope by finite differences is zero, and another method gets no lower.
    for axis in np.eye(3) * 1e-5:
        rise = slow_loss(weights + axis, collections) - slow_loss(weights - axis, collections)
        assert rise / 2e-5 == pytest.approx(0, abs=2e-5)
    exact = minimize(slow_loss, np.zeros(3), collections, "Nelder-Mead", options={"xatol": 1e-9})
    assert loss == pytest.approx(exact.fun, abs=1e-7)


def captured_loss(monkeypatch, features, rows):
    """The function that `fit_weights` gives to the optimiser."""
    captured = []

    def capture(function, start, **settings):
        captured.append(function)
        return minimize(function, start, **settings)

    monkeypatch.setattr("minibert.keyphrases.fitting.minimize", capture)
    fit_weights(features, rows)
    return captured[0]


@pytest.mark.parametrize("seed", range(3))
def test_gradient_equals_finite_differences(seed, monkeypatch):
    collections = random_collections(seed)
    loss = captured_loss(monkeypatch, *as_rows(collections))
    point = np.random.default_rng(seed).normal(size=3)
    value, gradient = loss(point)
    assert value == pytest.approx(slow_loss(point, collections), abs=1e-12)
    slopes = [
        (slow_loss(point + axis, collections) - slow_loss(point - axis, collections)) / 2e-6
        for axis in np.eye(3) * 1e-6
    ]
    np.testing.assert_allclose(gradient, slopes, rtol=0, atol=1e-8)


def test_loss_of_large_scores_is_finite(monkeypatch):
    loss = captured_loss(monkeypatch, np.eye(3), Rows(np.zeros(3, int), np.ones(1), np.eye(3)[1]))
    with np.errstate(over="raise", invalid="raise"):
        value, gradient = loss(np.array([5000.0, 0.0, -5000.0]))
    assert value == pytest.approx(5000 + RIDGE * 2 * 5000**2)
    assert np.isfinite(gradient).all()


def test_two_candidates_are_logistic_regression():
    """One of two candidates is gold: the loss is that of a logistic regression on the difference of
    their features. C: scikit-learn's penalty is |w|^2 / 2, its loss the sum over documents."""
    draw = np.random.default_rng(0)
    count = 200
    features = draw.normal(size=(count, 2, 3))
    difference = features[:, 0] - features[:, 1]
    first_is_gold = draw.random(count) < 1 / (1 + np.exp(-difference @ [1.5, -0.7, 0.0]))
    is_gold = np.stack([first_is_gold, ~first_is_gold], axis=1)
    weights, _ = fit_weights(*as_rows([[*zip(features, is_gold)]]))

    expected = LogisticRegression(C=1 / (2 * RIDGE * count), fit_intercept=False, tol=1e-10)
    expected.fit(difference, first_is_gold)
    np.testing.assert_allclose(weights, expected.coef_[0], rtol=0, atol=5e-4)
    assert abs(weights[0]) > 1


def test_collections_have_equal_weight():
    """Twice the documents of one collection change nothing; twice the collection does."""
    one, other = random_collections(7)
    weights, loss = fit_weights(*as_rows([one, other]))
    again, same_loss = fit_weights(*as_rows([[*one, *one], other]))
    np.testing.assert_allclose(again, weights, rtol=0, atol=1e-6)
    assert same_loss == pytest.approx(loss, abs=1e-12)
    moved, _ = fit_weights(*as_rows([one, one, other]))
    assert abs(moved - weights).max() > 1e-3


def test_documents_without_a_gold_candidate_do_not_change_the_fit():
    one, other = random_collections(8)
    nothing = (np.full((4, 3), 7.0), np.zeros(4, dtype=bool))
    weights, loss = fit_weights(*as_rows([one, other]))
    again, same_loss = fit_weights(*as_rows([[nothing, *one], [*other, nothing]]))
    np.testing.assert_allclose(again, weights, rtol=0, atol=1e-6)
    assert same_loss == pytest.approx(loss, abs=1e-12)


# Heads ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def collections():
    return [tasks(1, 2, 3), tasks(4, 5)]


@pytest.fixture(scope="module")
def fitter(collections):
    return Fitter(collections)


PROBLEMS = [[problem(seed) for seed in seeds] for seeds in ((1, 2, 3), (4, 5))]
COLUMNS = [(0, 0), (0, 1), (1, 0), (1, 1)]  # heads of the columns


def slow_features(heads, contrast):
    """[[(features (candidates, FEATURES), is_gold)]] as a ranker computes them."""
    return [
        [
            (
                phrase_features(
                    document,
                    candidates,
                    received[:, list(heads)].sum(1),
                    received[:, list(contrast)].sum(1),
                ),
                np.array([c.stems in gold_stems(document) for c in candidates]),
            )
            for document, candidates, received in documents
        ]
        for documents in PROBLEMS
    ]


def slow_f1(heads, contrast, weights):
    """By the measures of rank.py evaluate."""
    means = []
    for documents, of_collection in zip(PROBLEMS, slow_features(heads, contrast)):
        ranked = []
        for (document, candidates, _), (features, _) in zip(documents, of_collection):
            scores = features @ weights
            order = sorted(range(len(candidates)), key=lambda i: -scores[i])
            spans = [[document.words[i] for i in range(*candidates[k].runs[0])] for k in order]
            ranked.append([document.text[words[0][0] : words[-1][1]] for words in spans])
        once = np.ones((1, len(documents)))
        measures = phrase_measures([row[0] for row in documents], ranked, once)
        means.append(measures["F1@10"][0])
    return float(np.mean(means))


@pytest.mark.parametrize(
    ("heads", "contrast"), [((), ()), ((2,), ()), ((0, 3), (2,)), ((3, 1, 0), (2,)), ((), (1,))]
)
def test_fit_is_of_the_features_that_a_ranker_computes(fitter, heads, contrast):
    choice = fitter.fit(heads, contrast)
    assert (choice.heads, choice.contrast) == (heads, contrast)
    collections = slow_features(heads, contrast)
    assert choice.loss == pytest.approx(slow_loss(choice.weights, collections), abs=1e-5)
    for axis in np.eye(len(FEATURES)) * 1e-4:
        for step in (axis, -axis):
            higher = slow_loss(choice.weights + step, collections)
            assert higher >= choice.loss - 1e-6
    assert choice.f1 == pytest.approx(slow_f1(heads, contrast, choice.weights), abs=1e-12)
    unused = [] if heads else [*BY_ATTENTION]
    unused += [] if contrast else ["contrast"]
    assert [name for name, w in zip(FEATURES, choice.weights) if w == 0] == unused


def test_f1_counts_the_first_k(fitter):
    """The scores are gold itself: hits first. The text lacks one gold phrase of each document."""
    scores = np.concatenate([task.is_gold for task in fitter.tasks])
    for k in (1, 2, 10):
        means = []
        for collection in fitter.collections:
            values = []
            for task in collection:
                gold, first = int(task.is_gold.sum()), min(k, len(task.is_gold))
                values.append(2 * min(gold, first) / (first + gold + 1))
            means.append(np.mean(values))
        assert fitter.f1(scores, k) == pytest.approx(np.mean(means), abs=1e-12)
        assert fitter.f1(-scores, k) < fitter.f1(scores, k)


def trials(fitter, heads, contrast):
    """{(heads, contrast): loss} with each other head added, fitted from scratch."""
    rest = [head for head in range(4) if head not in heads + contrast]
    losses = {}
    for head in rest:
        choice = fitter.fit((*heads, head), contrast)
        losses[choice.heads, choice.contrast] = choice.loss
        choice = fitter.fit(heads, (*contrast, head))
        if heads and choice.weights[-1] < 0:
            losses[choice.heads, choice.contrast] = choice.loss
    return losses


@pytest.mark.parametrize(
    ("heads", "contrast"), [((), ()), ((0,), ()), ((1,), (2,)), ((0, 1), ()), ((0, 3), (2,))]
)
def test_next_head_has_the_lowest_loss(fitter, heads, contrast):
    losses = trials(fitter, heads, contrast)
    after = fitter.next_heads(fitter.fit(heads, contrast))
    assert losses[after] == pytest.approx(min(losses.values()), abs=1e-6)


def test_contrast_heads_need_a_negative_weight(fitter):
    """The attention of head 2 is low in gold phrases; that of head 0 is high."""
    assert fitter.fit((0,), (2,)).weights[-1] < 0
    assert fitter.next_heads(fitter.fit((0, 1))) == ((0, 1), (2,))
    assert fitter.fit((3,), (0,)).weights[-1] > 0
    assert fitter.next_heads(fitter.fit((3,)))[0] != (3,)  # a head is added, no contrast


@pytest.mark.parametrize("most", [1, 2, 3, 4, 9])
def test_choice_is_greedy_and_ends_at_its_best_f1(fitter, most):
    path, last = [], fitter.fit(())
    for _ in range(min(most, 4)):
        losses = trials(fitter, last.heads, last.contrast)
        last = fitter.fit(*min(losses, key=losses.__getitem__))
        path.append(last)
    sizes = [len(choice.heads + choice.contrast) for choice in path]
    assert sizes == [*range(1, min(most, 4) + 1)]

    steps = []
    choice = fitter.choose(most, progress=lambda rounds: (steps.append(i) or i for i in rounds))
    assert len(steps) == len(path)
    highest = max(step.f1 for step in path)
    first_best = next(step for step in path if step.f1 == highest)
    assert (choice.heads, choice.contrast) == (first_best.heads, first_best.contrast)
    assert choice.f1 == highest


def test_one_head_is_the_best_of_all_by_brute_force(fitter):
    losses = {heads: fitter.fit(heads).loss for heads in combinations(range(4), 1)}
    assert fitter.choose(1).heads == min(losses, key=losses.__getitem__)


def test_controls_are_fitted_to_the_same_tasks(fitter):
    choice = fitter.fit((0, 3), (2,))
    controls = fit_controls(fitter, choice, draws=6)
    draws = [name for name in controls if name.startswith(RANDOM)]
    assert [*controls] == [NO_ATTENTION, ALL_HEADS, BEST_HEAD, *draws]
    assert len(draws) == 6

    assert controls[NO_ATTENTION].heads == controls[NO_ATTENTION].contrast == ()
    assert controls[ALL_HEADS].heads == (0, 1, 2, 3)
    assert controls[BEST_HEAD].f1 == max(fitter.fit((head,)).f1 for head in range(4))
    for name, control in controls.items():
        again = fitter.fit(control.heads, control.contrast)
        assert control.f1 == again.f1, name
        np.testing.assert_array_equal(control.weights, again.weights)
    for name in draws:
        heads, contrast = controls[name].heads, controls[name].contrast
        assert (len(heads), len(contrast)) == (2, 1)
        assert len({*heads, *contrast}) == 3
    assert len({(controls[name].heads, controls[name].contrast) for name in draws}) > 1

    assert fit_controls(fitter, choice, 6)[draws[0]].heads == controls[draws[0]].heads
    other = fit_controls(fitter, choice, 6, seed=1)
    assert [other[name].heads for name in draws] != [controls[name].heads for name in draws]


def test_best_single_head_has_the_highest_f1(fitter, monkeypatch):
    """In these tasks F1@10 is the same for several heads, so it is given here."""
    f1 = {(0,): 0.2, (1,): 0.5, (2,): 0.3, (3,): 0.4}

    def fit(heads, contrast=()):
        return Choice(heads, contrast, np.zeros(len(FEATURES)), 0.0, f1.get(heads, 0.9))

    monkeypatch.setattr(fitter, "fit", fit)
    assert fit_controls(fitter, fit((0,)), draws=1)[BEST_HEAD].heads == (1,)


def test_choice_as_score():
    choice = Choice((3, 0), (1,), np.arange(7.0), 0.5, 0.25)
    assert as_score(choice, COLUMNS) == PhraseScore(
        {(1, 1): 1.0, (0, 0): 1.0},
        {(0, 1): 1.0},
        {name: float(i) for i, name in enumerate(FEATURES)},
    )


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.randoms())
def test_tasks_of_any_size_keep_their_rows(sizes, random):
    """The loss at weights of zero: ln of the number of candidates, of documents with gold."""
    collection = []
    for size in sizes:
        is_gold = np.array([random.random() < 0.5 for _ in range(size)])
        collection.append((np.zeros((size, 1)), is_gold))
    collection[0][1][0] = True
    _, loss = fit_weights(*as_rows([collection]))
    useful = [size for size, (_, is_gold) in zip(sizes, collection) if is_gold.any()]
    assert loss == pytest.approx(np.mean(np.log(useful)), abs=1e-12)
    assert all(a <= b for a, b in pairwise(as_rows([collection])[1].tasks))
