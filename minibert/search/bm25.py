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
    _check_weights(weights)
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


def _check_weights(weights: Array) -> None:
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("a weight of a word is negative or not finite")


def whole_vector(document: Document, vector: Mapping[str, float]) -> dict[str, Any]:
    """A document for Anserini's JsonVectorCollection, which indexes whole numbers: hundredths of
    `impacts`, so its k1 is a hundred times ours. Terms under half a hundredth are left out."""
    hundredths = {term: round(100 * value) for term, value in vector.items()}
    nonzero = {term: value for term, value in hundredths.items() if value}
    return {"id": document.id, "contents": document.text, "vector": nonzero}


# Index --------------------------------------------------------------------------------------------


class Index(NamedTuple):
    """An inverted index. Its entries are the pairs of a term and a document that contains it, in
    the order of `counts.data`: by term, then by document."""

    rows: dict[str, int]  # term -> its row
    counts: csr_array  # (T, N)
    membership: csr_array  # (entries, all words of all documents) how often a word has the term

    @classmethod
    def build(cls, documents: Sequence[Document]) -> "Index":
        """Index how often each document contains each term."""
        of_documents = [terms(document) for document in documents]
        words = [word_terms for of_document in of_documents for word_terms in of_document]
        rows: dict[str, int] = {}
        row = [rows.setdefault(term, len(rows)) for word_terms in words for term in word_terms]
        word = np.repeat(np.arange(len(words)), [len(word_terms) for word_terms in words])
        column = np.repeat(np.arange(len(documents)), [len(d) for d in of_documents])[word]

        # A pair is one number, so that sorting gives the order of the CSR format.
        shape = (len(rows), len(documents))
        pairs = np.array(row, dtype=np.int64) * len(documents) + column
        entries, entry = np.unique(pairs, return_inverse=True)
        starts = np.searchsorted(entries, np.arange(len(rows) + 1) * len(documents))
        counts = np.bincount(entry, minlength=len(entries)).astype(float)
        return cls(
            rows,
            csr_array((counts, entries % len(documents), starts), shape=shape),
            csr_array((np.ones(len(word)), (entry, word)), shape=(len(entries), len(words))),
        )

    @property
    def lengths(self) -> Array:
        """(N,) the number of terms of each document."""
        return np.asarray(self.counts.sum(axis=0))

    def weigh_terms(self, weights: Array) -> csr_array:
        """(T, N) the `impacts` of each document with `mixing` 1, 0 where a term has no weight.
        `weights`: (all words of all documents,), not negative."""
        _check_weights(weights)
        sums = self.membership @ weights
        document = self.counts.indices
        totals = np.bincount(document, sums, minlength=self.counts.shape[1])
        scale = np.divide(self.lengths, totals, out=np.zeros_like(totals), where=totals > 0)
        values = np.where(totals[document] > 0, scale[document] * sums, self.counts.data)
        return with_values(self.counts, values)

    def idf(self) -> Array:
        """(T,) ln(1 + (N - n + 0.5) / (n + 0.5)) with n documents that contain the term, as in
        Lucene."""
        contain = np.diff(self.counts.indptr)
        return np.log1p((self.counts.shape[1] - contain + 0.5) / (contain + 0.5))

    def mean_idf(self) -> Array:
        """(all words of all documents,) the mean idf of a word's terms, 0 without terms."""
        of_entries = np.repeat(self.idf(), np.diff(self.counts.indptr))
        sums, count = self.membership.T @ of_entries, self.membership.sum(axis=0)
        return np.divide(sums, count, out=np.zeros_like(sums), where=count > 0)

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


# Scores -------------------------------------------------------------------------------------------


def with_values(entries: csr_array, values: Array) -> csr_array:
    """A matrix with these values in the places of the entries."""
    return csr_array((values, entries.indices, entries.indptr), shape=entries.shape)


def mix(counts: csr_array, weights: csr_array, mixing: float) -> csr_array:
    """(1 - mixing) * counts + mixing * weights, of the same entries."""
    return with_values(counts, (1 - mixing) * counts.data + mixing * weights.data)


def bm25(queries: csr_array, frequencies: csr_array, lengths: Array, k1: float, b: float) -> Array:
    """(Q, T) weighted queries, (T, N) term frequencies, (N,) lengths of documents -> (Q, N) BM25
    (Robertson et al. 1994), without its constant factor k1 + 1, as in Lucene 8: the sum over terms
    of idf * tf / (tf + k1 * (1 - b + b * length / mean length)). k1 > 0."""
    norms = k1 * (1 - b + b * lengths / lengths.mean())
    values = frequencies.data / (frequencies.data + norms[frequencies.indices])
    return (queries @ with_values(frequencies, values)).toarray()


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
