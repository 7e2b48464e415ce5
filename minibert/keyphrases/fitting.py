"""Choose heads, and fit the weights of the score, on documents with keyphrases."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from minibert.config import Head
from minibert.data.documents import Document
from minibert.evaluation import metrics
from minibert.evaluation.metrics import Array
from minibert.keyphrases.choice import ALL_HEADS, BEST_HEAD, NO_ATTENTION, RANDOM
from minibert.phrases.candidates import Candidate
from minibert.phrases.features import (
    FEATURES,
    Occurrences,
    PhraseScore,
    attention_features,
    counted_features,
    find_occurrences,
    log_attention,
)
from minibert.phrases.scores import gold_stems

RIDGE = 1e-3  # penalty on squared weights

ATTENTION, WEAKEST, CONTRAST = map(FEATURES.index, ("attention", "weakest word", "contrast"))

Heads = tuple[int, ...]  # columns of `Task.received`
ProgressBar = Callable[[Sequence[int]], Iterable[int]]


class Task(NamedTuple):
    """The candidates of one document, at least one, to be ranked."""

    document: Document
    occurrences: Occurrences
    counted: Array  # (candidates, COUNTED)
    received: NDArray[np.float32]  # (words, heads) from each head alone; 0 for stop words
    is_gold: Array  # (candidates,) 1 where the candidate is a gold phrase
    wanted: int  # gold phrases of the document


def make_task(document: Document, candidates: Sequence[Candidate], received: Array) -> Task:
    """`received`: (words, heads), 0 for stop words."""
    gold = set(gold_stems(document))
    return Task(
        document,
        find_occurrences(candidates),
        counted_features(candidates),
        received.astype(np.float32),
        np.array([float(candidate.stems in gold) for candidate in candidates]),
        len(gold),
    )


# Weights ----------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """The candidates of all tasks, one row each."""

    tasks: NDArray[np.int64]  # (rows,) the number of the row's task
    weights: Array  # (tasks,) in the loss; they sum to 1
    targets: Array  # (rows,) weight of the task, shared by its gold candidates


def make_rows(collections: Sequence[Sequence[Task]]) -> Rows:
    """Each collection has the same weight, and in it each document with a gold candidate."""
    weights, targets = [], []
    for collection in collections:
        useful = sum(task.is_gold.any() for task in collection)
        for task in collection:
            gold = task.is_gold.sum()
            weights.append(1 / useful / len(collections) if gold else 0.0)
            targets.append(task.is_gold * weights[-1] / max(gold, 1))

    numbers = np.repeat(np.arange(len(targets)), [len(values) for values in targets])
    return Rows(numbers, np.array(weights), np.concatenate(targets))


def fit_weights(features: Array, rows: Rows, start: Array | None = None) -> tuple[Array, float]:
    """(rows, F) -> (F,) weights, and the loss. `start`: weights to begin with, for speed.

    Conditional logit (McFadden 1974): the softmax over the scores of a document's candidates is the
    probability of a candidate. The loss is -ln of it, the mean over the gold candidates of a
    document, then over documents by their weights, plus RIDGE times the squared weights. So a long
    document counts as much as a short one, which has fewer candidates.
    """
    first_rows = np.flatnonzero(np.diff(rows.tasks, prepend=-1))  # of each task

    def loss(weights: Array) -> tuple[float, Array]:
        scores = features @ weights
        highest = np.maximum.reduceat(scores, first_rows)
        exponentials = np.exp(scores - highest[rows.tasks])
        totals = np.bincount(rows.tasks, exponentials)

        log_totals = highest + np.log(totals)
        value = rows.weights @ log_totals - rows.targets @ scores + RIDGE * weights @ weights
        expected = exponentials * (rows.weights / totals)[rows.tasks]
        return value, (expected - rows.targets) @ features + 2 * RIDGE * weights

    initial = np.zeros(features.shape[1]) if start is None else start
    result = minimize(loss, initial, jac=True, method="L-BFGS-B", options={"ftol": 1e-9})
    return result.x, float(result.fun)


# Heads ------------------------------------------------------------------------------------------


class Choice(NamedTuple):
    """Heads, the weights of the score with them, and what they reach on the tasks."""

    heads: Heads
    contrast: Heads
    weights: Array  # (FEATURES,)
    loss: float
    f1: float  # at 10, the mean over documents, then over collections


class Fitter:
    """Fits the score to collections of tasks, with any heads."""

    def __init__(self, collections: Sequence[Sequence[Task]]):
        self.collections = collections
        self.tasks = [task for collection in collections for task in collection]
        self.rows = make_rows(collections)
        self.counted = np.concatenate([task.counted for task in self.tasks])
        self.heads = self.tasks[0].received.shape[1]

    def attention(self, heads: Heads, more: Sequence[int] = ()) -> tuple[Array, Array]:
        """The features "attention" and "weakest word", (rows, 1), of the sum over `heads`; or
        (rows, more), one column with each of `more` added to them."""
        columns = []
        for task in self.tasks:
            total = task.received[:, heads].sum(axis=1, keepdims=True)
            words = log_attention(task.document, total + task.received[:, more] if more else total)
            columns.append(attention_features(task.occurrences, words))
        means, lowest = zip(*columns)
        return np.concatenate(means), np.concatenate(lowest)

    def features(self, heads: Heads, contrast: Heads) -> Array:
        """(rows, FEATURES). Without heads their features are the same in all rows, and a fit gives
        them the weight 0."""
        mean_of_contrast, _ = self.attention(contrast)
        return np.hstack([self.counted, *self.attention(heads), mean_of_contrast])

    def fit(self, heads: Heads, contrast: Heads = (), start: Choice | None = None) -> Choice:
        """The score with these heads. `start`: where the search for its weights begins."""
        features = self.features(heads, contrast)
        fitted, loss = fit_weights(features, self.rows, start.weights if start else None)
        weights = fitted.round(4)  # as a file shows them
        return Choice(heads, contrast, weights, loss, self.f1(features @ weights))

    def choose(self, most: int, progress: ProgressBar = list) -> Choice:
        """Greedy forward selection of at most `most` heads: always add the head, to the heads or to
        the contrast heads, that gives the lowest loss. Heads after the highest F1@10 are left
        out."""
        last = self.fit(())
        choices = []
        for _ in progress(range(min(most, self.heads))):
            last = self.fit(*self.next_heads(last), start=last)
            choices.append(last)
        return max(choices, key=lambda choice: choice.f1)

    def next_heads(self, choice: Choice) -> tuple[Heads, Heads]:
        """The heads of a choice and its contrast heads, with the best of all others added."""
        heads, contrast = choice.heads, choice.contrast
        rest = [head for head in range(self.heads) if head not in heads + contrast]
        features = self.features(heads, contrast)
        trials = []

        trial = features.copy()
        for head, mean, lowest in zip(rest, *map(np.transpose, self.attention(heads, rest))):
            trial[:, ATTENTION], trial[:, WEAKEST] = mean, lowest
            _, loss = fit_weights(trial, self.rows, choice.weights)
            trials.append((loss, (*heads, head), contrast))

        # The first head is no contrast head: there is nothing to contrast it with.
        if heads:
            trial = features.copy()
            for head, mean in zip(rest, self.attention(contrast, rest)[0].T):
                trial[:, CONTRAST] = mean
                weights, loss = fit_weights(trial, self.rows, choice.weights)
                if weights[CONTRAST] < 0:  # otherwise it is no contrast
                    trials.append((loss, heads, (*contrast, head)))
        return min(trials)[1:]

    def f1(self, scores: Array, k: int = 10) -> float:
        """F1@k (macro, B) of the candidates by scores (rows,)."""
        ends = np.cumsum([len(task.is_gold) for task in self.tasks])
        of_tasks = iter(np.split(scores, ends[:-1]))
        means = []
        for collection in self.collections:
            counts = [_counts(task, next(of_tasks), k) for task in collection]
            means.append(metrics.f1(np.array(counts)).mean())
        return float(np.mean(means))


def _counts(task: Task, scores: Array, k: int) -> list[float]:
    """Hits, false positives, misses among the first k candidates, for `metrics.f1`."""
    first = np.argsort(-scores, kind="stable")[:k]
    hits = task.is_gold[first].sum()
    return [hits, len(first) - hits, task.wanted - hits, 0]


def fit_controls(
    fitter: Fitter,
    choice: Choice,
    draws: int = 20,
    seed: int = 0,
    progress: ProgressBar = list,
) -> dict[str, Choice]:
    """The score fitted with no heads, all heads, the best single head, and random heads, as many as
    the choice has: what the choice of heads must beat."""
    alone = [fitter.fit((head,)) for head in progress(range(fitter.heads))]
    controls = {
        NO_ATTENTION: fitter.fit(()),
        ALL_HEADS: fitter.fit(tuple(range(fitter.heads))),
        BEST_HEAD: max(alone, key=lambda single: single.f1),
    }

    generator = np.random.default_rng(seed)
    count = len(choice.heads)
    for draw in range(1, draws + 1):
        order = generator.permutation(fitter.heads).tolist()
        contrast = order[count : count + len(choice.contrast)]
        controls[f"{RANDOM} {draw}"] = fitter.fit(tuple(order[:count]), tuple(contrast))
    return controls


def as_score(choice: Choice, heads: Sequence[Head]) -> PhraseScore:
    """`heads`: of the columns."""
    return PhraseScore(
        {heads[column]: 1.0 for column in choice.heads},
        {heads[column]: 1.0 for column in choice.contrast},
        dict(zip(FEATURES, choice.weights.tolist())),
    )
