"""From a weight per word to ranked keyphrases."""

from collections.abc import Sequence
from math import fsum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from minibert.data.documents import Document
from minibert.phrases.candidates import Candidate, check_length
from minibert.text.words import Span

Aggregate = Literal["sum", "mean", "often"]


class Keyphrase(NamedTuple):
    """A phrase as its first occurrence is written, its score, and all occurrences (characters)."""

    text: str
    score: float
    spans: list[Span]


def rank_phrases(
    document: Document,
    candidates: Sequence[Candidate],
    weights: ArrayLike,
    aggregate: Aggregate = "sum",
    diversity: float = 0.0,
    top: int | None = None,
) -> list[Keyphrase]:
    """At most `top` candidates by score, best first; of equal scores the earlier one.

    `weights`: (words,), finite. `aggregate`, `diversity`: see `RankSettings`. The first n phrases
    do not depend on `top`.
    """
    weights = np.asarray(weights, dtype=np.float64)
    check_length(document, weights)
    if (bad := np.flatnonzero(~np.isfinite(weights))).size:
        start, end = document.words[bad[0]]
        raise ValueError(
            f"document {document.id!r}: the weight of word {bad[0]}, "
            f"{document.text[start:end]!r}, is {weights[bad[0]]}"
        )

    values = weights.tolist()
    scored = [(phrase_score(candidate, values, aggregate), candidate) for candidate in candidates]
    scored.sort(key=lambda pair: (-pair[0], pair[1].runs[0]))
    if diversity:
        scored = _diversify(scored, diversity, top)
    return [_keyphrase(document, *pair) for pair in scored[:top]]


def phrase_score(candidate: Candidate, weights: Sequence[float], aggregate: Aggregate) -> float:
    """The score of a candidate, from the weights of all words of the document."""
    total = fsum(weights[i] for first, last in candidate.runs for i in range(first, last))
    if aggregate != "sum":
        mean = total / sum(last - first for first, last in candidate.runs)
        return mean if aggregate == "mean" else mean * len(candidate.runs)

    # The sum of a frequent word would outweigh every phrase.
    return total / len(candidate.runs) if len(candidate.stems) == 1 else total


def _keyphrase(document: Document, score: float, candidate: Candidate) -> Keyphrase:
    words = document.words
    spans = [(words[first][0], words[last - 1][1]) for first, last in candidate.runs]
    return Keyphrase(document.text[slice(*spans[0])], score, spans)


def _diversify(
    scored: Sequence[tuple[float, Candidate]], diversity: float, top: int | None
) -> list[tuple[float, Candidate]]:
    """Maximal marginal relevance (Carbonell and Goldstein 1998): always next is the phrase with the
    largest (1 - diversity) * relevance - diversity * similarity to the nearest chosen phrase.

    Relevance is the score over the largest absolute score; similarity is the share of stems in
    common (Jaccard).
    """
    scale = max((abs(score) for score, _ in scored), default=0.0) or 1.0
    words = [set(candidate.stems) for _, candidate in scored]
    nearest = [0.0] * len(scored)  # the similarity to the nearest chosen phrase
    remaining = list(range(len(scored)))

    chosen: list[tuple[float, Candidate]] = []
    while remaining and len(chosen) != top:
        gains = [(1 - diversity) * scored[i][0] / scale - diversity * nearest[i] for i in remaining]
        best = remaining.pop(gains.index(max(gains)))
        chosen.append(scored[best])

        for i in remaining:
            shared = len(words[i] & words[best]) / len(words[i] | words[best])
            nearest[i] = max(nearest[i], shared)
    return chosen
