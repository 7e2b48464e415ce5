"""BM25 tuned by cross-validation over queries, scored, and compared with other word weights."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import permutation_test

from minibert.data.batches import chunks
from minibert.data.documents import Document
from minibert.errors import check
from minibert.evaluation import intervals
from minibert.evaluation.intervals import Score
from minibert.evaluation.metrics import Array
from minibert.evaluation.tagger import ProgressBar
from minibert.keyphrases.choice import RANDOM
from minibert.keyphrases.comparison import name_of_heads
from minibert.keyphrases.ranker import Ranker
from minibert.search.bm25 import Index, best, bm25, mix
from minibert.search.collection import Collection

MEASURES = {"nDCG@10": "nDCG@10", "MAP": "AP", "R@100": "R@100"}  # ours -> ir_measures'

FIXED, TUNED = "BM25, k1 1.5, b 0.75", "BM25, tuned"
CLS = "[CLS], last layer, x IDF"  # the weights of BM42 (Qdrant 2024)


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
    index: Index,
    weights: Array,
    settings: Sequence[Setting],
    folds: int = 5,
    seed: int = 0,
) -> Outcome:
    """Score each fold of queries under the setting that has the best nDCG@10 on all other folds.

    `index`: of the collection's documents. `weights`: (all words of all documents,), not negative.
    One setting alone is a fixed one. Raises InputError if there are fewer queries than folds.
    """
    queries = collection.queries
    check(len(queries) >= folds, f"{len(queries)} judged queries are too few for {folds} folds")
    weighted_queries = index.weigh_queries(queries)

    # Terms that no query contains matter for the lengths alone.
    terms = np.unique(weighted_queries.indices)
    query_terms, counts = weighted_queries[:, terms], index.counts[terms]
    weighted, lengths = index.weigh_terms(weights)[terms], index.lengths

    def search(setting: Setting, top: int) -> list[NDArray[np.int64]]:
        frequencies = mix(counts, weighted, setting.mixing)
        return best(bm25(query_terms, frequencies, lengths, setting.k1, setting.b), top)

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


class Ways(NamedTuple):
    """Weights of all words of all documents, (words,) each."""

    compared: dict[str, Array]  # by what they are
    random: list[Array]  # of random heads


def search_weights(
    ranker: Ranker, collection: Collection, index: Index, documents: Iterable[Document]
) -> Ways:
    """The weights that rank.py search compares. `index`: of the collection. `documents`: those of
    the collection, one at a time. Where the ranker's heads are all heads, no random ones exist."""
    these = name_of_heads(ranker)
    rows: dict[str, list[Array]] = {}
    random_rows: list[Array] = []
    picked = random_heads(ranker)
    for part in chunks(documents):
        for links, by_head, from_cls in zip(*ranker.attention(part)):
            of_document = {
                "all heads": by_head.sum(1),
                f"{these} heads": links.sum(axis=0),
                f"PageRank of {these}": ranker.pagerank(links),
                CLS: from_cls,
            }
            for way, weights in of_document.items():
                rows.setdefault(way, []).append(weights)
            random_rows.append(by_head @ picked)

    idf = index.mean_idf()
    compared = {"IDF": idf} | {way: np.concatenate(weights) for way, weights in rows.items()}
    compared[CLS] *= idf
    return Ways(compared, list(np.concatenate(random_rows).T))


def random_heads(ranker: Ranker, draws: int = 20, seed: int = 0) -> Array:
    """(heads of the model, draws) as many weights as the ranker's heads have, those of its heads,
    for heads drawn at random; no draws where its heads are all heads."""
    present = ranker.bert.config.present_heads
    weights = [ranker.heads[head] for head in present if head in ranker.heads]
    generator = np.random.default_rng(seed)
    picked = np.zeros((len(present), 0 if ranker.has_all_heads else draws))
    for draw in picked.T:
        draw[generator.choice(len(present), len(weights), replace=False)] = weights
    return picked


class Comparison(NamedTuple):
    """Outcomes of each way to search."""

    outcomes: dict[str, Outcome]  # of BM25, fixed and tuned, and of `Ways.compared`
    random: list[Outcome]

    @property
    def baseline(self) -> str:
        """The better of fixed and tuned BM25, by nDCG@10."""
        return max((FIXED, TUNED), key=lambda way: self.outcomes[way].values["nDCG@10"].mean())


def compare(collection: Collection, index: Index, ways: Ways, progress: ProgressBar) -> Comparison:
    """Tune BM25 whose term frequencies are mixed with each of the weights."""
    uniform = np.ones(index.membership.shape[1])  # plain BM25, whatever the mixing
    outcomes = {
        FIXED: cross_validate(collection, index, uniform, [Setting()]),
        TUNED: cross_validate(collection, index, uniform, grid([0.0])),
    }
    tuned = [
        cross_validate(collection, index, weights, grid())
        for weights in progress([*ways.compared.values(), *ways.random])
    ]
    outcomes |= zip(ways.compared, tuned)
    return Comparison(outcomes, tuned[len(ways.compared) :])


def summarise(comparison: Comparison) -> dict[str, dict[str, Score | float]]:
    """{way: {measure: mean over queries, "p MEASURE": against `baseline`}}, and for random heads
    the median, the lowest and the highest mean of a draw."""
    outcomes, random, baseline = *comparison, comparison.outcomes[comparison.baseline]
    table: dict[str, dict[str, Score | float]] = {}
    for way, outcome in outcomes.items():
        table[way] = {}
        for measure, values in outcome.values.items():
            table[way][measure] = average(values)
            table[way][f"p {measure}"] = randomisation_test(values, baseline.values[measure])

    if random:
        draws = means_of_draws(comparison)
        table[RANDOM] = {measure: intervals.band(means) for measure, means in draws.items()}
    return table


def means_of_draws(comparison: Comparison) -> dict[str, list[float]]:
    """{measure: its mean over queries for each draw of random heads}"""
    return {
        measure: [float(outcome.values[measure].mean()) for outcome in comparison.random]
        for measure in MEASURES
    }
