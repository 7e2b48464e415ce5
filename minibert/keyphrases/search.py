"""Search with weighted words: BM25 over real-valued term frequencies, tuned, scored, compared.

Every word of a document may carry a weight, such as the attention it receives from one head;
`impacts` mixes the weights into the term frequencies. Shapes: N documents, Q queries, T terms.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import snowballstemmer
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import permutation_test

from minibert.data.corpus import field, parse_object, read_lines
from minibert.data.documents import Document, is_stop_word, stop_words
from minibert.errors import InputError
from minibert.evaluation import intervals
from minibert.evaluation.intervals import Score
from minibert.evaluation.metrics import Array
from minibert.tokenizer import normal_form, word_spans

MEASURES = {"nDCG@10": "nDCG@10", "MAP": "AP", "R@100": "R@100"}  # ours -> ir_measures'

QUERY_COLUMN = re.compile("(q|query|topic)[-_ ]?id|query|topic", re.IGNORECASE)  # in a header
GRADE = re.compile(r"(-?\d{1,9})(\.0*)?")  # 1, -1 or 1.0
HYPHEN = re.compile("[-\u2010\u2011]")

STEMMER = snowballstemmer.stemmer("english")  # Porter 2, as search engines use it


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

    A document without words is allowed, and never retrieved. A judged document that the corpus
    lacks stays in the qrels, so it counts as not retrieved; judgements of unknown queries, and
    queries without a relevant document, are left out. The note counts them. Raises InputError, with
    file and line, for anything wrong.
    """
    documents, all_queries = _read_texts(corpus), _read_texts(queries)
    if not any(any(terms(document)) for document in documents):
        raise InputError(f"{corpus}: no document has a word to search for")
    all_grades = _read_qrels(qrels)
    grades = {query.id: all_grades.pop(query.id, {}) for query in all_queries}  # of known queries
    relevant = {
        query: {id for id, grade in judged.items() if grade > 0} for query, judged in grades.items()
    }

    known = {document.id for document in documents}
    kept_queries = [query for query in all_queries if relevant[query.id]]
    counts = {
        "judgements of unknown documents, which count as not retrieved": sum(
            id not in known for judged in grades.values() for id in judged
        ),
        "judgements of unknown queries, skipped": sum(map(len, all_grades.values())),
        "queries without a relevant document, skipped": len(all_queries) - len(kept_queries),
    }
    note = "; ".join(f"{what}: {count}" for what, count in counts.items() if count)

    if known.isdisjoint(set().union(*relevant.values())):
        raise InputError(f"{qrels}: no query has a relevant document; {note}")
    return Collection(documents, kept_queries, {q.id: grades[q.id] for q in kept_queries}, note)


def _read_texts(path: str | Path) -> list[Document]:
    documents: dict[str, Document] = {}
    for where, line in read_lines(path):
        raw = parse_object(line, where)
        id = str(field(raw, "_id" if "_id" in raw else "id", str | int, where))
        if id in documents:
            raise InputError(f"{where}: the id {id!r} occurs twice; ids must differ")
        title = field({"title": None} | raw, "title", str | None, where)
        text = "\n".join(filter(None, [title, field(raw, "text", str, where)]))
        documents[id] = Document(id, text, word_spans(text))

    if not documents:
        raise InputError(f"{path}: no texts in it")
    return list(documents.values())


def _read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
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


@lru_cache(maxsize=2**17)
def _stem(form: str) -> str:
    return STEMMER.stemWord(form)


@lru_cache(maxsize=2**17)
def _terms_of_word(word: str) -> tuple[str, ...]:
    forms = map(normal_form, HYPHEN.split(word))
    return tuple(_stem(form) for form in forms if form and form not in stop_words())


def terms(document: Document) -> list[tuple[str, ...]]:
    """The terms of each word: the stems of its parts between hyphens, stop words left out."""
    words = (document.text[start:end] for start, end in document.words)
    return [
        # An abbreviation in capitals, such as U.S, is a term although "us" is a stop word.
        _terms_of_word(word) if is_stop or form not in stop_words() else (_stem(form),)
        for word, form, is_stop in zip(words, document.forms(), is_stop_word(document))
    ]


def impacts(document: Document, weights: Array, mixing: float) -> dict[str, float]:
    """{term: (1 - mixing) * its count + mixing * its weight}.

    `weights`: (words,), not negative. A term's weight is the sum over the words it stems from,
    scaled so that all weights of a document sum to its number of terms: its length for BM25 does
    not depend on `mixing`. If all are zero, counts take their place.
    """
    weights = np.asarray(weights, float)
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"document {document.id!r}: a weight is negative or not finite")

    counts: Counter[str] = Counter()
    sums: dict[str, float] = defaultdict(float)
    for word_terms, weight in zip(terms(document), weights.tolist(), strict=True):
        for term in word_terms:
            counts[term] += 1
            sums[term] += weight

    total = sum(sums.values())
    if not total:
        return {term: float(count) for term, count in counts.items()}
    scale = counts.total() / total
    return {
        term: (1 - mixing) * count + mixing * scale * sums[term] for term, count in counts.items()
    }


def whole_vector(document: Document, vector: Mapping[str, float]) -> dict[str, Any]:
    """A document for Anserini's JsonVectorCollection, which indexes whole numbers: hundredths of
    `impacts`, so its k1 is a hundred times ours. Terms under half a hundredth are left out."""
    hundredths = {term: round(100 * value) for term, value in vector.items()}
    nonzero = {term: value for term, value in hundredths.items() if value}
    return {"id": document.id, "contents": document.text, "vector": nonzero}


# Controls: weights that word weights must beat --------------------------------------------------


def uniform(document: Document) -> Array:
    """(words,) ones: plain BM25, whatever the mixing."""
    return np.ones(len(document.words))


def mean_idf(document: Document, index: "Index") -> Array:
    """(words,) the mean idf of each word's terms, 0 for a word without terms."""
    idf = index.idf()
    rows = [[idf[index.rows[term]] for term in word_terms] for word_terms in terms(document)]
    return np.array([float(np.mean(row)) if row else 0.0 for row in rows])


# Index ------------------------------------------------------------------------------------------


class Index(NamedTuple):
    """An inverted index of term frequencies. Where a document contains a term without weight, 0 is
    stored: idf counts the documents that contain a term, whatever its weight."""

    rows: dict[str, int]  # term -> its row
    frequencies: csr_array  # (T, N)

    @classmethod
    def build(cls, vectors: Sequence[Mapping[str, float]]) -> "Index":
        """Index each document's {term: frequency}."""
        rows: dict[str, int] = {}
        terms = [rows.setdefault(term, len(rows)) for vector in vectors for term in vector]
        documents = np.repeat(np.arange(len(vectors)), [len(vector) for vector in vectors])
        values = np.array([value for vector in vectors for value in vector.values()], float)
        shape = (len(rows), len(vectors))
        return cls(rows, csr_array((values, (terms, documents)), shape=shape))

    def mixed(self, other: "Index", mixing: float) -> "Index":
        """(1 - mixing) * these frequencies + mixing * those of `other`, an index of the same terms
        of the same documents."""
        frequencies = self.frequencies.copy()
        frequencies.data = (1 - mixing) * frequencies.data + mixing * other.frequencies.data
        return self._replace(frequencies=frequencies)

    def idf(self) -> Array:
        """(T,) ln(1 + (N - n + 0.5) / (n + 0.5)) with n documents that contain the term, as in
        Lucene."""
        contain = np.diff(self.frequencies.indptr)
        return np.log1p((self.frequencies.shape[1] - contain + 0.5) / (contain + 0.5))

    def weigh_queries(self, queries: Sequence[Document]) -> csr_array:
        """(Q, T) the number of times that the query contains the term, times its idf. A query
        without a known term has an empty row."""
        idf = self.idf()
        columns: list[int] = []
        values: list[float] = []
        ends = [0]
        for query in queries:
            known = (term for word_terms in terms(query) for term in word_terms)
            counts = Counter(self.rows[term] for term in known if term in self.rows)
            columns += counts.keys()
            values += [count * idf[row] for row, count in counts.items()]
            ends.append(len(columns))
        return csr_array((values, columns, ends), shape=(len(queries), len(self.rows)), dtype=float)

    def scores(self, queries: csr_array, k1: float, b: float) -> Array:
        """(Q, N) BM25 (Robertson et al. 1994) of weighted queries, without its constant factor
        k1 + 1, as in Lucene 8: the sum over terms of idf * tf / (tf + k1 * (1 - b + b * length /
        mean length)), where a document's length is the sum of its frequencies. k1 > 0."""
        lengths = self.frequencies.sum(axis=0)
        norms = k1 * (1 - b + b * lengths / lengths.mean())
        saturated = self.frequencies.copy()
        saturated.data /= saturated.data + norms[saturated.indices]
        return (queries @ saturated).toarray()


def best(scores: Array, top: int = 1000) -> list[NDArray[np.int64]]:
    """(Q, N) -> for each query its at most `top` documents with a score above 0, the best first,
    ties in the order of the corpus."""
    rankings = []
    for row in scores:
        documents = np.flatnonzero(row > 0)
        if len(documents) > top:  # sorting a few is faster
            lowest = np.partition(row[documents], -top)[-top]
            documents = documents[row[documents] >= lowest]
        rankings.append(documents[np.argsort(-row[documents], kind="stable")[:top]])
    return rankings


# Tuning and scores ------------------------------------------------------------------------------


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
    if len(queries) < folds:
        raise InputError(f"{len(queries)} judged queries are too few for {folds} folds")
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
        id: {collection.documents[d].id: -place for place, d in enumerate(rankings[row])}
        for id, row in rows.items()
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
