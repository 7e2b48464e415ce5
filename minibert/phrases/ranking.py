"""From scores of candidates to ranked keyphrases."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from minibert.data.documents import Document
from minibert.evaluation.metrics import Array
from minibert.phrases.candidates import Candidate
from minibert.text.words import Span


class Keyphrase(NamedTuple):
    """A phrase as its first occurrence is written, its score, and all occurrences (characters)."""

    text: str
    score: float
    spans: list[Span]


def rank_phrases(
    document: Document,
    candidates: Sequence[Candidate],
    scores: Array,
    diversity: float = 0.0,
    top: int | None = None,
) -> list[Keyphrase]:
    """At most `top` candidates by `scores` (candidates,), best first; of equal scores the earlier
    one. Their score is the softmax over all candidates: the shares of a text sum to 1.

    `diversity`: see `RankSettings`. The first n phrases do not depend on `top`. Raises ValueError
    if a score is missing or not finite.
    """
    if np.shape(scores) != (len(candidates),):
        raise ValueError(f"document {document.id!r}: expected one score for each candidate")
    if (bad := np.flatnonzero(~np.isfinite(scores))).size:
        raise ValueError(f"document {document.id!r}: the score of candidate {bad[0]} is not finite")

    shares = softmax(scores).tolist() if candidates else []
    order = sorted(range(len(candidates)), key=lambda i: (-scores[i], candidates[i].runs[0]))
    scored = [(shares[i], candidates[i]) for i in order]
    if diversity:
        scored = _diversify(scored, diversity, top)
    return [_keyphrase(document, *pair) for pair in scored[:top]]


def _keyphrase(document: Document, score: float, candidate: Candidate) -> Keyphrase:
    words = document.words
    spans = [(words[first][0], words[last - 1][1]) for first, last in candidate.runs]
    return Keyphrase(document.text[slice(*spans[0])], score, spans)


def _diversify(
    scored: Sequence[tuple[float, Candidate]], diversity: float, top: int | None
) -> list[tuple[float, Candidate]]:
    """Maximal marginal relevance (Carbonell and Goldstein 1998): always next is the phrase with the
    largest (1 - diversity) * relevance - diversity * similarity to the nearest chosen phrase.

    Relevance is the score over the largest; similarity is the share of stems in common (Jaccard).
    """
    scale = max((score for score, _ in scored), default=1.0)
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
