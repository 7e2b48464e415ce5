"""The score of a candidate: a few features, weighted. The weights are fitted to keyphrases.

The features of a candidate are

- occurrences: ln of their number;
- position: ln(1 + p / 50), where p is its first word, counted from 0;
- words: ln of the number of its words;
- single word: 1 for one word, else 0;
- attention: ln of the attention that a word receives from the chosen heads, as a multiple of the
  mean over the content words of the text; the mean over the words, then over the occurrences;
- weakest word: the same of the word that receives least, the mean over the occurrences;
- contrast: as attention, from the contrast heads, which attend to words outside keyphrases.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minibert.config import Head
from minibert.data.documents import Document, is_content_word
from minibert.evaluation.metrics import Array
from minibert.phrases.candidates import Candidate

COUNTED = ("occurrences", "position", "words", "single word")  # without a model
BY_ATTENTION = ("attention", "weakest word")
FEATURES = (*COUNTED, *BY_ATTENTION, "contrast")

EARLY = 50  # words; within these the position says little
FLOOR = 0.05  # of the mean attention: keeps the logarithm of none finite


@dataclass(frozen=True)
class PhraseScore:
    """How the candidates of a text are scored."""

    heads: Mapping[Head, float]
    """Heads whose attention is summed, with their weights."""

    contrast: Mapping[Head, float] = field(default_factory=dict)
    """Heads whose attention is summed for the feature of this name."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """Of the features; a missing one weighs 0."""

    def of(self, features: Array) -> Array:
        """(candidates, FEATURES) -> (candidates,), higher is better."""
        return features @ [self.weights.get(name, 0.0) for name in FEATURES]


class Occurrences(NamedTuple):
    """All runs of the candidates of one text, run after run."""

    words: NDArray[np.int64]  # the words of the runs
    starts: NDArray[np.int64]  # (runs,) where each run begins in `words`
    owners: NDArray[np.int64]  # (runs,) the candidate of each run


def find_occurrences(candidates: Sequence[Candidate]) -> Occurrences:
    runs = [(i, run) for i, candidate in enumerate(candidates) for run in candidate.runs]
    lengths = [last - first for _, (first, last) in runs]
    return Occurrences(
        np.array([word for _, run in runs for word in range(*run)], dtype=int),
        np.cumsum([0, *lengths[:-1]]) if runs else np.zeros(0, dtype=int),
        np.array([i for i, _ in runs], dtype=int),
    )


def counted_features(candidates: Sequence[Candidate]) -> Array:
    """(candidates, COUNTED)"""
    occurrences = np.array([len(candidate.runs) for candidate in candidates])
    first = np.array([candidate.runs[0][0] for candidate in candidates])
    words = np.array([len(candidate.stems) for candidate in candidates])
    columns = [np.log(occurrences), np.log1p(first / EARLY), np.log(words), words == 1]
    return np.stack(columns, axis=1).astype(np.float64)


def log_attention(document: Document, received: Array) -> Array:
    """(words, ...) attention received -> ln of its multiple of the mean over content words."""
    is_content = is_content_word(document) > 0
    mean = received[is_content].mean(axis=0) if is_content.any() else np.ones(received.shape[1:])
    return np.log(received / np.where(mean > 0, mean, 1.0) + FLOOR)


def attention_features(occurrences: Occurrences, words: Array) -> tuple[Array, Array]:
    """(words, ...) logarithms -> (candidates, ...) their mean in a candidate, and the lowest."""
    of_runs = words[occurrences.words]
    lengths = np.diff([*occurrences.starts, len(of_runs)]).reshape(-1, *[1] * (words.ndim - 1))
    mean = np.add.reduceat(of_runs, occurrences.starts) / lengths
    lowest = np.minimum.reduceat(of_runs, occurrences.starts)

    # Runs stand candidate by candidate, so each candidate is a slice of them.
    first_runs = np.flatnonzero(np.diff(occurrences.owners, prepend=-1))
    counts = np.diff([*first_runs, len(occurrences.owners)]).reshape(lengths[first_runs].shape)
    sums = [np.add.reduceat(values, first_runs) for values in (mean, lowest)]
    return sums[0] / counts, sums[1] / counts


def phrase_features(
    document: Document, candidates: Sequence[Candidate], received: Array, contrast: Array
) -> Array:
    """(candidates, FEATURES) from the attention (words,) that the words of the document receive
    from the heads, and from the contrast heads. Uniform attention does not change the order of
    candidates of content words: its features are the same for all of them."""
    if not candidates:
        return np.zeros((0, len(FEATURES)))
    words = log_attention(document, np.stack([received, contrast], axis=1))
    mean, lowest = attention_features(find_occurrences(candidates), words)
    return np.column_stack([counted_features(candidates), mean[:, 0], lowest[:, 0], mean[:, 1]])
