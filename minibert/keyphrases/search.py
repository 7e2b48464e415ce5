"""Search with weighted words: BM25 over real-valued term frequencies, tuned, scored, compared.

Every word of a document may carry a weight, such as the attention it gets from one head; `impacts`
mixes the weights into the term frequencies. Shapes: N documents, Q queries, T terms, P postings.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import snowballstemmer
from numpy.typing import NDArray

from minibert.data.corpus import field, parse_object, read_lines
from minibert.data.documents import Document, is_stop_word, stop_words
from minibert.data.words import normal_form, word_spans
from minibert.errors import InputError
from minibert.evaluation import intervals
from minibert.evaluation.intervals import Score
from minibert.evaluation.metrics import Array

MEASURES = {"nDCG@10": "nDCG@10", "MAP": "AP", "R@100": "R@100"}  # as ir_measures calls them


QUERY_COLUMN = re.compile(
    "(q|query|topic)[-_ ]?id|query|topic", re.IGNORECASE
)  # its name in a header


GRADE = re.compile(r"(-?\d{1,9})(\.0*)?")  # 1, -1 or 1.0


HYPHEN = re.compile("[-\u2010\u2011]")


# Reading ----------------------------------------------------------------------------------------


class Collection(NamedTuple):
    """What to search, with the queries of which a relevant document is known."""

    documents: list[Document]
    queries: list[Document]
    qrels: dict[str, dict[str, int]]  # query -> document -> grade; above 0 is relevant
    note: str = ""  # what was left out, to be shown to the user


def collection_files(folder: str | Path) -> tuple[Path, Path, Path]:
    """corpus.jsonl, queries.jsonl and the judgements: qrels.tsv, or BEIR's qrels/test.tsv."""
    folder = Path(folder)
    qrels = folder / "qrels.tsv"
    if not qrels.exists() and (folder / "qrels").is_dir():
        qrels = folder / "qrels" / "test.tsv"
    return folder / "corpus.jsonl", folder / "queries.jsonl", qrels


def read_collection(corpus: str | Path, queries: str | Path, qrels: str | Path) -> Collection:
    """Read a collection as BEIR or TREC publish it: JSONL of {"id" or "_id", "title" (optional),
    "text"}, JSONL of {"id" or "_id", "text"}, and lines "query document grade" or "query 0 document
    grade", separated by tabs or white space, with or without a header.

    A document without words is allowed, and never found. A judged document that the corpus lacks
    stays in the qrels, so it counts as not found; judgements of queries that are not there, and
    queries without a relevant document, are left out. The note counts them. Raises InputError, with
    file and line, for anything wrong.
    """
    documents, asked = _read_texts(corpus), _read_texts(queries)
    if not any(any(terms(document)) for document in documents):
        raise InputError(f"{corpus}: no document has a word to search for")
    grades = _read_qrels(qrels)
    of_asked = {q.id: grades.pop(q.id, {}) for q in asked}
    known = {document.id for document in documents}
    judged = [q for q in asked if any(grade > 0 for grade in of_asked[q.id].values())]
    counts = {
        "judgements of unknown documents, which count as not found": sum(
            id not in known for judgements in of_asked.values() for id in judgements
        ),
        "judgements of unknown queries, passed over": sum(map(len, grades.values())),
        "queries without a relevant document, passed over": len(asked) - len(judged),
    }
    note = "; ".join(f"{what}: {count}" for what, count in counts.items() if count)

    relevant = (id for judgements in of_asked.values() for id, g in judgements.items() if g > 0)
    if known.isdisjoint(relevant):
        raise InputError(f"{qrels}: no query has a relevant document; {note}")
    return Collection(documents, judged, {q.id: of_asked[q.id] for q in judged}, note)


def _read_texts(path: Path) -> list[Document]:
    found: dict[str, Document] = {}
    for where, line in read_lines(path):
        raw = parse_object(line, where)
        id = str(field(raw, "_id" if "_id" in raw else "id", str | int, where))
        if id in found:
            raise InputError(f"{where}: the id {id!r} is there already; ids must differ")
        title = field({"title": None} | raw, "title", str | None, where)
        text = "\n".join(filter(None, [title, field(raw, "text", str, where)]))
        found[id] = Document(id, text, word_spans(text))
    if not found:
        raise InputError(f"{path}: no texts in it")
    return list(found.values())


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    grades: dict[str, dict[str, int]] = defaultdict(dict)
    for where, line in read_lines(path):
        fields = line.strip().split("\t")  # ids may hold spaces
        if len(fields) not in (3, 4):
            fields = line.split()
        grade = GRADE.fullmatch(fields[-1].strip())
        if not grade and QUERY_COLUMN.fullmatch(fields[0]):
            continue  # a header
        if not grade or len(fields) not in (3, 4):
            raise InputError(f"{where}: expected query, document, grade; found {line[:40]!r}")

        query, document, value = fields[0], fields[-2], int(grade[1])
        if grades[query].setdefault(document, value) != value:
            raise InputError(f"{where}: {document!r} has two grades for query {query!r}")
    return dict(grades)


# Terms ------------------------------------------------------------------------------------------

_stemmer = snowballstemmer.stemmer("english")


@lru_cache(maxsize=2**17)
def stem(word: str) -> str:
    """The Snowball (Porter 2) stem of an English word in normal form."""
    return _stemmer.stemWord(word)


@lru_cache(maxsize=2**17)
def _word_terms(word: str) -> tuple[str, ...]:
    forms = map(normal_form, HYPHEN.split(word))
    return tuple(stem(form) for form in forms if form and form not in stop_words())


def terms(document: Document) -> list[tuple[str, ...]]:
    """The terms of each word: the stems of its parts between hyphens, less the stop words."""
    words = (document.text[start:end] for start, end in document.words)
    return [
        # An abbreviation in capitals, such as U.S, is a term although "us" is a stop word.
        _word_terms(word) if stop or form not in stop_words() else (stem(form),)
        for word, form, stop in zip(words, document.forms(), is_stop_word(document))
    ]


def impacts(document: Document, weights: Array, mixing: float) -> dict[str, float]:
    """{term: (1 - mixing) * how often it occurs + mixing * its weight}.

    `weights`: (words,), not negative. A term's weight is the sum over the words it stems from, on
    a scale on which all weights of a document sum to its number of terms: its length for BM25 does
    not depend on `mixing`. Where all are zero, counts take their place.
    """
    if not (np.isfinite(weights) & (np.asarray(weights) >= 0)).all():
        raise ValueError(f"document {document.id!r}: a weight is negative or not finite")
    counts, sums = Counter(), Counter()
    for found, weight in zip(terms(document), np.asarray(weights, float).tolist(), strict=True):
        for term in found:
            counts[term] += 1
            sums[term] += weight
    if not (total := sums.total()):
        return {term: float(count) for term, count in counts.items()}
    scale = counts.total() / total
    return {t: (1 - mixing) * n + mixing * scale * sums[t] for t, n in counts.items()}


def whole_vector(document: Document, vector: Mapping[str, float]) -> dict:
    """A document for Anserini's JsonVectorCollection, which indexes whole numbers: hundredths of
    `impacts`, so its k1 is a hundred times ours. Terms under half a hundredth are left out."""
    whole = {term: round(100 * value) for term, value in vector.items()}
    kept = {term: value for term, value in whole.items() if value}
    return {"id": document.id, "contents": document.text, "vector": kept}


# Controls: what word weights must beat ------------------------------------------------------------


def uniform(document: Document) -> Array:
    """(words,) ones: plain BM25, whatever the mixing."""
    return np.ones(len(document.words))


def rarity(document: Document, index: "Index") -> Array:
    """(words,) the mean idf of each word's terms, 0 for a word without."""
    idf = index.idf()
    rows = [[idf[index.numbers[term]] for term in found] for found in terms(document)]
    return np.array([float(np.mean(row)) if row else 0.0 for row in rows])


# Index ------------------------------------------------------------------------------------------


class Matches(NamedTuple):
    """Where the terms of Q queries meet postings, once for every score to come."""

    postings: NDArray[np.int64]  # (M,)
    cells: NDArray[np.int64]  # (M,) query * N + document
    gains: Array  # (M,) idf * how often the query has the term
    queries: int  # Q
    unmatched: int  # queries without a known term


@dataclass(frozen=True)
class Index:
    """Term frequencies, sorted by term and within a term by document.

    A frequency of 0 is a posting too, so idf counts the documents that hold a term whatever its
    weight there.
    """

    numbers: dict[str, int]  # of the terms
    starts: NDArray[np.int64]  # (T + 1,) where each term's postings begin
    documents: NDArray[np.int64]  # (P,)
    frequencies: Array  # (P,)
    size: int  # N

    @classmethod
    def build(cls, vectors: Sequence[Mapping[str, float]]) -> "Index":
        """Index each document's {term: frequency}."""
        numbers: dict[str, int] = {}
        of_term = [numbers.setdefault(term, len(numbers)) for vector in vectors for term in vector]
        order = np.argsort(of_term, kind="stable")
        starts = np.searchsorted(np.sort(of_term), np.arange(len(numbers) + 1))
        documents = np.repeat(np.arange(len(vectors)), [len(vector) for vector in vectors])
        values = np.array([value for vector in vectors for value in vector.values()], float)
        return cls(numbers, starts, documents[order], values[order], len(vectors))

    def mixed(self, other: "Index", mixing: float) -> "Index":
        """(1 - mixing) * these frequencies + mixing * those of `other`, an index of the same terms
        of the same documents."""
        frequencies = (1 - mixing) * self.frequencies + mixing * other.frequencies
        return replace(self, frequencies=frequencies)

    def idf(self) -> Array:
        """(T,) ln(1 + (N - n + 0.5) / (n + 0.5)) with n documents that hold the term, as Lucene."""
        held = np.diff(self.starts)
        return np.log1p((self.size - held + 0.5) / (held + 0.5))

    def match(self, queries: Sequence[Document]) -> Matches:
        idf = self.idf()
        postings, cells, gains, unmatched = [], [], [], 0
        for row, query in enumerate(queries):
            asked = Counter(
                term for found in terms(query) for term in found if term in self.numbers
            )
            unmatched += not asked
            for term, times in asked.items():
                number = self.numbers[term]
                run = np.arange(self.starts[number], self.starts[number + 1])
                postings.append(run)
                cells.append(row * self.size + self.documents[run])
                gains.append(np.full(len(run), times * idf[number]))
        empty = np.zeros(0, dtype=np.int64)
        joined = [np.concatenate([empty, *parts]) for parts in (postings, cells, gains)]
        return Matches(*joined, len(queries), unmatched)

    def scores(self, matches: Matches, k1: float, b: float) -> Array:
        """(Q, N) BM25 (Robertson et al. 1994) without its constant factor k1 + 1, as Lucene 8:
        the sum over terms of idf * tf / (tf + k1 * (1 - b + b * length / mean length)), where a
        document's length is the sum of its frequencies. k1 > 0."""
        lengths = np.bincount(self.documents, self.frequencies, self.size)
        norms = k1 * (1 - b + b * lengths / lengths.mean())
        impact = self.frequencies / (self.frequencies + norms[self.documents])
        gains = matches.gains * impact[matches.postings]
        flat = np.bincount(matches.cells, gains, matches.queries * self.size)
        return flat.reshape(matches.queries, self.size)


def best(scores: Array, top: int = 1000) -> list[NDArray[np.int64]]:
    """(Q, N) -> for each query its at most `top` documents with a score above 0, the best first,
    ties in the order of the corpus."""
    rankings = []
    for row in scores:
        found = np.flatnonzero(row > 0)
        if len(found) > top:
            least = np.partition(row[found], -top)[-top]
            found = found[row[found] >= least]
        rankings.append(found[np.argsort(-row[found], kind="stable")[:top]])
    return rankings


# Tuning and scores ------------------------------------------------------------------------------


class Setting(NamedTuple):
    """One way to score; the defaults are the fixed baseline's."""

    k1: float = 1.5
    b: float = 0.75
    mixing: float = 0.0


def grid(mixings: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)) -> list[Setting]:
    """Every setting to choose from; `[0.0]` for the tuned baseline."""
    k1s, bs = (0.6, 0.9, 1.2, 1.5, 2.0, 3.0), (0.3, 0.45, 0.6, 0.75, 0.9)
    return [Setting(*each) for each in product(k1s, bs, mixings)]


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
    InputError where there are fewer queries than folds.
    """
    documents, queries = collection.documents, collection.queries
    if len(queries) < folds:
        raise InputError(f"{len(queries)} judged queries are too few for {folds} folds")
    counts, weighted = (
        Index.build([impacts(d, w, mixing) for d, w in zip(documents, weights, strict=True)])
        for mixing in (0, 1)
    )
    matches = counts.match(queries)

    def search(setting: Setting, top: int) -> list[NDArray]:
        index = counts.mixed(weighted, setting.mixing)
        return best(index.scores(matches, setting.k1, setting.b), top)

    goal = {"nDCG@10": MEASURES["nDCG@10"]}
    values = np.stack([judge(collection, search(s, 10), goal)["nDCG@10"] for s in settings])
    fold_of = np.random.default_rng(seed).permutation(len(queries)) % folds
    chosen = [settings[values[:, fold_of != f].mean(1).argmax()] for f in range(folds)]
    rankings = {setting: search(setting, 1000) for setting in set(chosen)}
    held_out = [rankings[chosen[fold]][row] for row, fold in enumerate(fold_of)]
    return Outcome(judge(collection, held_out), fold_of, chosen, matches.unmatched)


def judge(
    collection: Collection,
    rankings: Sequence[NDArray],
    measures: Mapping[str, str] = MEASURES,
) -> dict[str, Array]:
    """Each measure's value for each query, (Q,), by ir_measures; 0 for an empty ranking."""
    import ir_measures  # here: an extra

    row = {query.id: number for number, query in enumerate(collection.queries)}
    run = {  # places, not scores: trec_eval would order ties in its own way
        id: {collection.documents[d].id: -place for place, d in enumerate(rankings[number])}
        for id, number in row.items()
    }
    names = {ir_measures.parse_measure(m): name for name, m in measures.items()}
    values = {name: np.zeros(len(row)) for name in measures}
    for found in ir_measures.iter_calc(list(names), collection.qrels, run):
        values[names[found.measure]][row[found.query_id]] = found.value
    return values


def average(values: Array) -> Score:
    """The mean over queries, with its 95 % interval from resampling them."""
    return intervals.interval(intervals.resamples(len(values)) @ values / len(values))


def randomisation_test(a: Array, b: Array, draws: int = 10_000, seed: int = 0) -> float:
    """The two-sided p-value of paired values with no difference between their means: how often it
    is as large when the two of each pair change places at random (Smucker et al. 2007). The pairs
    as they are count as one draw more, so it is never 0."""
    differences = a - b
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (draws, len(differences)))
    as_large = abs(signs @ differences) >= abs(differences.sum()) - 1e-9
    return float((1 + as_large.sum()) / (1 + draws))
