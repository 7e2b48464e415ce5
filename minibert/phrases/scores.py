"""Scores of ranked keyphrases: F1 in three conventions, precision."""

from collections.abc import Iterable, Sequence

import numpy as np

from minibert.data.documents import Document
from minibert.errors import InputError
from minibert.evaluation import metrics
from minibert.evaluation.metrics import Array
from minibert.phrases.candidates import Stems, stems, stems_of_words
from minibert.text.language import Language


def distinct(phrases: Iterable[str], language: Language) -> list[Stems]:
    """The stems of phrases, in order, each once."""
    return [key for key in dict.fromkeys(stems(text, language) for text in phrases) if key]


def gold_stems(document: Document) -> list[Stems]:
    """The stems of the document's keyphrases, each once. Raises InputError if it has no list."""
    if document.keyphrases is None:
        raise InputError(f"document {document.id!r} has no keyphrases to score against")
    return distinct(document.keyphrases, document.language)


def present(document: Document, gold: Iterable[Stems]) -> list[Stems]:
    """The phrases whose stems follow one another in the text."""
    text = sum(stems_of_words(document), ())
    return [key for key in gold if any(text[i : i + len(key)] == key for i in range(len(text)))]


def phrase_counts(
    ranked: Sequence[Sequence[Stems]], gold: Sequence[Sequence[Stems]], k: int | None
) -> Array:
    """(N, 4) hits, false positives and misses among the first k phrases of each document, for
    `metrics.f1`. k None: as many as the document has gold phrases.

    Where fewer than k phrases were ranked, precision divides by their number, not by k, as in
    SAMRank's evaluation. A document without gold phrases counts nothing.
    """
    rows = []
    for phrases, expected in zip(ranked, gold, strict=True):
        first = phrases[: len(expected) if k is None else k]
        hits = len(set(first) & set(expected))
        row = [hits, len(first) - hits, len(expected) - hits, 0]
        rows.append(row if expected else [0, 0, 0, 0])
    return np.array(rows, dtype=np.float64)


def phrase_measures(
    documents: Sequence[Document], ranked: Sequence[Iterable[str]], draws: Array
) -> dict[str, Array]:
    """{measure: (1 + R,)} of phrases, best first, against the documents' keyphrases, under each row
    of `draws` (see `resamples`). Phrases are compared by their stems, each counted once.

    - F1@5, @10, @15: mean over documents of F1 of the first k; gold phrases that the text does not
      contain count as misses (most papers; convention B);
    - micro F1@k: from counts summed over the documents (SIFRank, MDERank, PromptRank; A);
    - present F1@k: as F1@k, against the gold phrases that the text contains (D);
    - F1@O: k is the document's number of gold phrases; P@10: mean precision of the first ten.
    """
    gold = [gold_stems(document) for document in documents]
    present_gold = [present(document, keys) for document, keys in zip(documents, gold)]
    phrases = [distinct(texts, d.language) for d, texts in zip(documents, ranked, strict=True)]

    measures = {}
    for k in (5, 10, 15):
        counts = phrase_counts(phrases, gold, k)
        measures[f"F1@{k}"] = _macro(metrics.f1(counts), counts, draws)
        measures[f"micro F1@{k}"] = metrics.f1(draws @ counts)
        counts = phrase_counts(phrases, present_gold, k)
        measures[f"present F1@{k}"] = _macro(metrics.f1(counts), counts, draws)

    counts = phrase_counts(phrases, gold, None)
    measures["F1@O"] = _macro(metrics.f1(counts), counts, draws)
    counts = phrase_counts(phrases, gold, 10)
    measures["P@10"] = _macro(metrics.precision(counts), counts, draws)
    return measures


def _macro(values: Array, counts: Array, draws: Array) -> Array:
    """The mean over documents with gold phrases; NaN without one."""
    known = draws * counts.any(axis=1)
    with np.errstate(invalid="ignore"):
        return known @ values / known.sum(axis=1)
