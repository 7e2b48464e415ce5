"""BM25 tuned by cross-validation over queries, scored, and compared with other word weights."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import permutation_test

from minibert.data.documents import Document
from minibert.errors import check
from minibert.evaluation import intervals
from minibert.evaluation.intervals import Score
from minibert.evaluation.metrics import Array
from minibert.keyphrases.comparison import attended, name_of_heads
from minibert.keyphrases.ranker import Ranker
from minibert.search.bm25 import Index, best, impacts, mean_idf, uniform
from minibert.search.collection import Collection

MEASURES = {"nDCG@10": "nDCG@10", "MAP": "AP", "R@100": "R@100"}  # ours -> ir_measures'

FIXED, TUNED = "BM25, k1 1.5, b 0.75", "BM25, tuned"


class Setting(NamedTuple):
    """Parameters of BM25 and of `impacts`; the defaults are the fixed baseline's."""

    k1: float = 1.5
    b: float = 0.75
    mixing: float = 0.0


def grid(mixings: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)) -> list[Setting]:
    """Every setting to choose from; `[0.0]` for the tuned baseline."""
    k1s, bs = (0.6, 0.9, 1.2, 1.5, 2.0, 3.0), (0.3, 0.45, 0.6, 0.75, 0.9)
    return [Setting(*values) for values in product(k1s, bs, mixings)]


class Outcome(NamedTuple):
    """Scores of queries, each under a setting that was chosen on other queries."""

    values: dict[str, Array]  # measure -> (Q,)
    folds: NDArray[np.int64]  # (Q,) the fold that each query was held out in
    chosen: list[Setting]  # of each fold
    unmatched: int  # queries without a known term; they score 0


def cross_validate(
    collection: Collection,
    weights: Sequence[Array],
    settings: Sequence[Setting],
    folds: int = 5,
    seed: int = 0,
) -> Outcome:
    """Score each fold of queries under the setting that has the best nDCG@10 on all other folds.

    `weights`: (words,) of each document, see `impacts`. One setting alone is a fixed one. Raises
    InputError if there are fewer queries than folds.
    """
    documents, queries = collection.documents, collection.queries
    check(len(queries) >= folds, f"{len(queries)} judged queries are too few for {folds} folds")
    counts, weighted = (
        Index.build([impacts(d, w, mixing) for d, w in zip(documents, weights, strict=True)])
        for mixing in (0, 1)
    )
    weighted_queries = counts.weigh_queries(queries)

    def search(setting: Setting, top: int) -> list[NDArray[np.int64]]:
        index = counts.mixed(weighted, setting.mixing)
        return best(index.scores(weighted_queries, setting.k1, setting.b), top)

    # Choose each fold's setting on the queries of the other folds.
    goal = {"nDCG@10": MEASURES["nDCG@10"]}
    ndcg = np.stack([judge(collection, search(s, 10), goal)["nDCG@10"] for s in settings])
    fold_of = np.random.default_rng(seed).permutation(len(queries)) % folds
    chosen = [settings[ndcg[:, fold_of != fold].mean(1).argmax()] for fold in range(folds)]

    rankings = {setting: search(setting, 1000) for setting in set(chosen)}
    held_out = [rankings[chosen[fold]][row] for row, fold in enumerate(fold_of)]
    unmatched = int((np.diff(weighted_queries.indptr) == 0).sum())
    return Outcome(judge(collection, held_out), fold_of, chosen, unmatched)


def judge(
    collection: Collection,
    rankings: Sequence[NDArray[np.int64]],
    measures: Mapping[str, str] = MEASURES,
) -> dict[str, Array]:
    """Each measure's value for each query, (Q,), by ir_measures; 0 for an empty ranking."""
    import ir_measures  # here: an extra

    rows = {query.id: number for number, query in enumerate(collection.queries)}
    # Scores would let trec_eval order ties in its own way, so the run holds places.
    run = {
        query: {collection.documents[d].id: -place for place, d in enumerate(rankings[row])}
        for query, row in rows.items()
    }
    names = {ir_measures.parse_measure(theirs): name for name, theirs in measures.items()}
    values = {name: np.zeros(len(rows)) for name in measures}
    for metric in ir_measures.iter_calc(list(names), collection.qrels, run):
        values[names[metric.measure]][rows[metric.query_id]] = metric.value
    return values


def average(values: Array) -> Score:
    """The mean over queries, with its 95 % interval from resampling them."""
    return intervals.interval(intervals.resamples(len(values)) @ values / len(values))


def randomisation_test(a: Array, b: Array, draws: int = 10_000, seed: int = 0) -> float:
    """The two-sided p-value of no difference between the means of paired values: how often the
    difference is as large if the two of each pair are swapped at random (Smucker et al. 2007).
    Exact if `draws` would cover all swaps; otherwise never below 1 / (draws + 1)."""
    result = permutation_test(
        (a - b,),  # of a single sample, "samples" changes the signs
        lambda differences, axis: np.abs(differences.sum(axis=axis)),
        permutation_type="samples",
        alternative="greater",
        n_resamples=draws,
        batch=1000,
        rng=seed,
    )
    return float(result.pvalue)


# Comparison -------------------------------------------------------------------------------------


def search_weights(
    ranker: Ranker, collection: Collection, documents: Iterable[Document]
) -> dict[str, list[Array]]:
    """{way: (words,) weights of each document}. `documents`: those of the collection, one at a
    time."""
    index = Index.build([impacts(d, uniform(d), 0.0) for d in collection.documents])
    these = name_of_heads(ranker)
    ways: dict[str, list[Array]] = {}
    for document, links, by_head, _ in attended(ranker, documents):
        weights = {
            "IDF": mean_idf(document, index),
            "all heads": by_head.sum(1),
            f"{these} heads": links.sum(axis=0),
            f"PageRank of {these}": ranker.pagerank(links),
        }
        for way, of_words in weights.items():
            ways.setdefault(way, []).append(of_words)
    return ways


def tune(collection: Collection, ways: Iterable[tuple[str, list[Array]]]) -> dict[str, Outcome]:
    """{way: outcome} of BM25 fixed and tuned, and mixed with the word weights of each way."""
    counts = [uniform(document) for document in collection.documents]
    fixed = cross_validate(collection, counts, [Setting()])
    tuned = cross_validate(collection, counts, grid([0.0]))
    outcomes = {FIXED: fixed, TUNED: tuned}
    for way, weights in ways:
        outcomes[way] = cross_validate(collection, weights, grid())
    return outcomes


def summarise(outcomes: Mapping[str, Outcome]) -> dict[str, dict[str, Score | float]]:
    """{way: {measure: mean over queries, "p": of its nDCG@10 against tuned BM25}}."""
    baseline = outcomes[TUNED].values["nDCG@10"]
    table: dict[str, dict[str, Score | float]] = {}
    for way, outcome in outcomes.items():
        table[way] = {name: average(values) for name, values in outcome.values.items()}
        table[way]["p"] = randomisation_test(outcome.values["nDCG@10"], baseline)
    return table
