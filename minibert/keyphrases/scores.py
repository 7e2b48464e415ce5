"""Scores of keyphrase lists."""

from collections.abc import Iterable, Sequence

import numpy as np

from minibert.data.documents import Document
from minibert.errors import InputError
from minibert.evaluation import intervals, metrics
from minibert.evaluation.intervals import Score
from minibert.evaluation.metrics import Array
from minibert.keyphrases.phrases import (
    Stems,
    _stems_of_words,
    stems,
)

# Scores -----------------------------------------------------------------------------------------


def distinct(phrases: Iterable[str]) -> list[Stems]:
    """The stems of phrases, in order, each once."""
    return [key for key in dict.fromkeys(map(stems, phrases)) if key]


def present(document: Document, gold: Iterable[Stems]) -> list[Stems]:
    """Those of the phrases whose stems follow one another in the text."""
    text = sum(_stems_of_words(document), ())
    return [key for key in gold if any(text[i : i + len(key)] == key for i in range(len(text)))]


def phrase_counts(
    ranked: Sequence[Sequence[Stems]], gold: Sequence[Sequence[Stems]], k: int | None
) -> Array:
    """(N, 4) phrases found, invented and missed among the first k of each document, as
    `metrics.f1` takes them; k None: as many as the document has gold phrases.

    Precision thus divides by the phrases there are, not by k, where fewer than k were ranked, as in
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
    """What `phrase_scores` reports, under each row of `draws`: {measure: (1 + R,)}."""
    if missing := [d.id for d in documents if d.keyphrases is None]:
        raise InputError(f"document {missing[0]!r} has no keyphrases to score against")
    phrases = [distinct(r) for r in ranked]
    gold = [distinct(d.keyphrases) for d in documents]
    there = [present(d, g) for d, g in zip(documents, gold)]
    measures = {}
    for k in (5, 10, 15):
        counts, found = phrase_counts(phrases, gold, k), phrase_counts(phrases, there, k)
        measures[f"F1@{k}"] = _macro(metrics.f1(counts), counts, draws)
        measures[f"micro F1@{k}"] = metrics.f1(draws @ counts)
        measures[f"present F1@{k}"] = _macro(metrics.f1(found), found, draws)
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


def phrase_scores(
    documents: Sequence[Document], ranked: Sequence[Iterable[str]]
) -> dict[str, Score]:
    """Scores of phrases, best first, against the documents' keyphrases. Compared by their stems,
    each counted once:

    - F1@5, @10, @15: mean over documents of F1 of the first k, also against gold phrases that the
      text does not have (most papers; convention B);
    - micro F1@k: of counts summed over the documents (SIFRank, MDERank, PromptRank; A);
    - present F1@k: as F1@k against the gold phrases that the text has (D);
    - F1@O: k is the document's number of gold phrases; P@10: mean precision of the first ten.
    """
    values = phrase_measures(documents, ranked, intervals.resamples(len(documents)))
    return {name: intervals.interval(value) for name, value in values.items()}
