"""BM25 over real-valued term frequencies.

Every word of a document may carry a weight, such as the attention it receives from one head;
`impacts` mixes the weights into the term frequencies. Shapes: N documents, Q queries, T terms.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from minibert.data.documents import Document, is_stop_word
from minibert.evaluation.metrics import Array
from minibert.text.language import Language
from minibert.text.words import normal_form

HYPHEN = re.compile("[-\u2010\u2011]")


# Terms --------------------------------------------------------------------------------------------


@lru_cache(maxsize=2**17)
def _terms_of_word(word: str, language: Language) -> tuple[str, ...]:
    forms = map(normal_form, HYPHEN.split(word))
    kept_forms = (form for form in forms if form and not language.is_stop_word(form))
    return tuple(map(language.search_stem, kept_forms))


def terms(document: Document) -> list[tuple[str, ...]]:
    """The terms of each word: the stems of its parts between hyphens, stop words left out."""
    language = document.language
    words = (document.text[start:end] for start, end in document.words)
    return [
        # An abbreviation in capitals, such as U.S, is a term although "us" is a stop word.
        _terms_of_word(word, language)
        if is_stop or not language.is_stop_word(form)
        else (language.search_stem(form),)
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


# Controls: weights that word weights must beat ----------------------------------------------------


def uniform(document: Document) -> Array:
    """(words,) ones: plain BM25, whatever the mixing."""
    return np.ones(len(document.words))


def mean_idf(document: Document, index: "Index") -> Array:
    """(words,) the mean idf of each word's terms, 0 for a word without terms."""
    idf = index.idf()
    rows = [[idf[index.rows[term]] for term in word_terms] for word_terms in terms(document)]
    return np.array([float(np.mean(row)) if row else 0.0 for row in rows])


# Index --------------------------------------------------------------------------------------------


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
