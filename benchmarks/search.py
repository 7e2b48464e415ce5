"""BM25 of `minibert.keyphrases.search` and its controls, beside bm25s: nDCG@10, MAP, R@100.

python -m benchmarks.search --data FOLDER   # with corpus.jsonl, queries.jsonl and qrels.tsv
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bm25s
import numpy as np
import snowballstemmer

from minibert.evaluation.metrics import Array
from minibert.keyphrases.search import (
    Collection,
    Index,
    Setting,
    average,
    best,
    cross_validate,
    grid,
    impacts,
    judge,
    randomisation_test,
    rarity,
    read_collection,
    terms,
    uniform,
)
from minibert.runtime import cli


@dataclass(frozen=True)
class Options:
    data: Path  # a folder with corpus.jsonl, queries.jsonl and the judgements
    qrels: str = "qrels.tsv"  # the judgements


def peer(corpus: list[list[str]], queries: list[list[str]]) -> Array:
    """(Q, N) scores by bm25s, as Lucene does it."""
    bm25 = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
    bm25.index(corpus, show_progress=False)
    known = [[term for term in query if term in bm25.vocab_dict] for query in queries]
    return np.stack(
        [bm25.get_scores(query) if query else np.zeros(len(corpus)) for query in known]
    ).astype(float)


def peer_terms(texts: list[str]) -> list[list[str]]:
    """Terms as bm25s makes them itself."""
    stem = snowballstemmer.stemmer("english").stemWords
    return bm25s.tokenize(
        texts, stopwords="en", stemmer=stem, return_ids=False, show_progress=False
    )


def our_terms(texts) -> list[list[str]]:
    return [[term for found in terms(text) for term in found] for text in texts]


def row(name: str, values: dict[str, Array], baseline: dict[str, Array], note: str = "") -> None:
    cells = []
    for measure, found in values.items():
        score = average(found)
        p = randomisation_test(found, baseline[measure])
        cells.append(f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}] p {p:.3f}")
    print(f"{name:26} {'  '.join(cells)}  {note}", flush=True)


def rows(collection: Collection) -> None:
    documents, queries = collection.documents, collection.queries
    ones = [uniform(document) for document in documents]
    tuned = cross_validate(collection, ones, grid([0.0]))
    theirs = {
        "bm25s, its own terms": peer(
            peer_terms([d.text for d in documents]), peer_terms([q.text for q in queries])
        ),
        "bm25s, our terms": peer(our_terms(documents), our_terms(queries)),
    }
    for name, scores in theirs.items():
        row(name, judge(collection, best(scores)), tuned.values)
    fixed = cross_validate(collection, ones, [Setting()])
    row("ours, k1 1.5, b 0.75", fixed.values, tuned.values, f"{fixed.unmatched} without a term")
    row("ours, tuned", tuned.values, tuned.values, settings(tuned.chosen))
    index = Index.build([impacts(d, w, 0) for d, w in zip(documents, ones)])
    rare = [rarity(document, index) for document in documents]
    for name, weights in {"uniform": ones, "idf": rare}.items():
        began = time.perf_counter()
        found = cross_validate(collection, weights, grid())
        note = f"{settings(found.chosen)}, {time.perf_counter() - began:.0f} s"
        row(f"weights: {name}, tuned", found.values, tuned.values, note)


def settings(chosen: list[Setting]) -> str:
    return " ".join(f"{s.k1:g}/{s.b:g}/{s.mixing:g}" for s in chosen)


def run(options: Options) -> None:
    folder = options.data
    collection = read_collection(
        folder / "corpus.jsonl", folder / "queries.jsonl", folder / options.qrels
    )
    print(
        f"{len(collection.documents)} documents, {len(collection.queries)} queries; p: two-sided,"
    )
    print("beside ours tuned; then k1/b/mixing of each fold")
    print(f"{'':26} {'nDCG@10':30} {'MAP':30} R@100")
    rows(collection)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, Options, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
