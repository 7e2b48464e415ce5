"""From a weight per word to ranked keyphrases, and their scores.

runs of words -> candidates (runs with equal stems) -> keyphrases, best first -> scores. Runs come
from the text alone, from part-of-speech tags, from a tagger, or from the user's own list. Words:
a run is (first word, last + 1); stems are Porter's, of words in normal form.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import fsum
from typing import Literal, NamedTuple

import numpy as np
import snowballstemmer
from numpy.typing import ArrayLike

from minibert.config import check_fields
from minibert.data.documents import Document, find_phrases, is_content_word, is_stop_word
from minibert.data.words import normal_form, word_spans
from minibert.errors import InputError
from minibert.evaluation import metrics
from minibert.tokenizer import Span

WordRun = tuple[int, int]  # words (first, last + 1)


Stems = tuple[str, ...]


Aggregate = Literal["sum", "mean", "often"]


PORTER = snowballstemmer.stemmer("porter")


# Between two words of a phrase: white space without tabs, page ends and other separators, and with
# one line break at most.
BLANK = r"[^\S\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]*"


SPACE = re.compile(rf"{BLANK}(?:(\r?\n){BLANK})?")


NARROW = 60  # characters; text is rarely wrapped at less, but titles are often shorter


@dataclass(frozen=True)
class PhraseSettings:
    """How phrases are made from words: a part of the command line and of the record."""

    max_words: int = 5
    """Longer runs of words are cut into equal parts."""
    aggregate: Aggregate = "sum"
    """sum: of a phrase's words, wherever it occurs; of a single word the mean (SAMRank).
    mean: over all these words; for a tagger's probabilities. often: the mean times how often the
    phrase occurs; where gold phrases are the recurrent ones, as in 500N-KPCrowd."""
    diversity: float = 0.0
    """0 ranks by score alone; towards 1, phrases with words of better ones come later."""
    top: int | None = None
    """Most phrases of a document; all of them by default, as scores need them."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.max_words < 1:
            raise InputError("--max-words must be at least 1")
        if not 0 <= self.diversity <= 1:
            raise InputError("--diversity must be in [0, 1]")
        if self.top is not None and self.top < 1:
            raise InputError("--top must be at least 1")


# Stems ------------------------------------------------------------------------------------------


@lru_cache(maxsize=2**17)
def stem(word: str) -> str:
    """Porter's stem (1980) of a word, which is first freed of case and punctuation."""
    return PORTER.stemWord(normal_form(word))


def stems(text: str) -> Stems:
    """The stem of each word of a text: what two phrases must share to be the same."""
    return tuple(stem(text[start:end]) for start, end in word_spans(text))


def _stems_of_words(document: Document) -> list[Stems]:
    """Of each word. None for punctuation, several for "client/server", where words are given."""
    return [stems(document.text[start:end]) for start, end in document.words]


# Runs of words ----------------------------------------------------------------------------------


def unbroken_runs(document: Document, inside: ArrayLike) -> list[WordRun]:
    """The longest runs of words `inside` (a boolean each) with only white space between them. A
    blank line, a tab, the end of a page or of a title ends a run too."""
    _check_length(document, inside)
    runs: list[WordRun] = []
    for i in np.flatnonzero(inside).tolist():
        if runs and runs[-1][1] == i and _joined(document, i):
            runs[-1] = (runs[-1][0], i + 1)
        else:
            runs.append((i, i + 1))
    return runs


def _joined(document: Document, i: int) -> bool:
    """Whether nothing but white space is between word i and the word before."""
    (_, end), (start, _) = document.words[i - 1], document.words[i]
    space = SPACE.fullmatch(document.text, end, start)
    return bool(space and (space[1] is None or _is_wrapped(document, i, *space.span(1))))


def _is_wrapped(document: Document, i: int, end: int, start: int) -> bool:
    """Whether the line break from `end` to `start` before word i is one inside a sentence: a small
    letter follows, or the word had no room in the line. A title or a list item leaves room."""
    text, (first, last) = document.text, document.words[i]
    if text[first].islower():
        return True
    line = text[text.rfind("\n", 0, end) + 1 : end].rstrip()
    following = text[start:].partition("\n")[0].rstrip()
    return len(line) + 1 + last - first > max(NARROW, len(following))


def content_runs(document: Document, max_words: int) -> list[WordRun]:
    """What stands between stop words, numbers and punctuation. Longer runs are cut into equal parts
    of at most `max_words` words.

    All n-grams inside the runs lose 0.7 of F1@10 on Inspec dev, by tf-idf as by attention.
    """
    runs = unbroken_runs(document, is_content_word(document) > 0)
    return [part for run in runs for part in _parts(run, max_words)]


def _parts(run: WordRun, max_words: int) -> list[WordRun]:
    """A run in equal parts of at most `max_words` words; the later ones may be a word longer."""
    first, last = run
    count = -(-(last - first) // max_words)
    return list(pairwise(first + (last - first) * i // count for i in range(count + 1)))


def noun_runs(document: Document, max_words: int) -> list[WordRun]:
    """Adjectives and nouns that end in a noun, and no stop words: <NN.*|JJ>*<NN.*>, as SIFRank and
    SAMRank have it, in parts of at most `max_words` words; the document's labels must be Penn
    Treebank's tags."""
    if document.labels is None:
        raise InputError(f"document {document.id!r} has no labels; noun phrases need their tags")
    kinds = ["N" if t.startswith("NN") else "J" if t == "JJ" else " " for t in document.labels]
    runs = []
    for start, end in unbroken_runs(document, is_content_word(document) > 0):
        for match in re.finditer("[NJ]*N", "".join(kinds[start:end])):
            for first, last in _parts(match.span(), max_words):
                nouns = match.string[first:last].rstrip("J")
                runs += [(start + first, start + first + len(nouns))] if nouns else []
    return runs


def tagged_runs(document: Document, labels: Sequence[str]) -> list[WordRun]:
    """The entities of a tagger's labels, as `metrics.spans` reads them."""
    _check_length(document, labels)
    return sorted((first, last) for first, last, _ in metrics.spans(labels))


def listed_runs(document: Document, phrases: Sequence[str]) -> list[WordRun]:
    """Wherever one of the phrases stands: inflected, or spelled as `find_phrases` has it, which
    looks through punctuation and spaces ("client-server" stands for "client/server")."""
    spelled = [run for found in find_phrases(document, phrases) for run in found]
    return spelled + _matches(document, {stems(phrase) for phrase in phrases})


def _matches(document: Document, wanted: Collection[Stems]) -> list[WordRun]:
    """Every unbroken run with wanted stems, overlapping ones too. Not of stop words alone: "it" is
    no "IT"."""
    words = _stems_of_words(document)
    stop = is_stop_word(document)
    longest = max(map(len, wanted), default=0)
    found = []
    for first in range(len(words)):
        key: Stems = ()
        for last in range(first, len(words)):
            if not words[last] or (last > first and not _joined(document, last)):
                break
            key += words[last]
            if len(key) > longest:
                break
            if key in wanted and not all(stop[first : last + 1]):
                found.append((first, last + 1))
    return found


# Candidates -------------------------------------------------------------------------------------


class Candidate(NamedTuple):
    """A phrase that may be ranked: its stems, and every run of words that has them, in order."""

    stems: Stems
    runs: list[WordRun]


def group(document: Document, runs: Iterable[WordRun]) -> list[Candidate]:
    """Candidates from runs, in the order of their first occurrence. Runs of equal stems are one
    candidate, which also gets every other unbroken run of these stems.

    A candidate that occurs inside longer candidates only is left out: they say it in full. One that
    stands alone anywhere keeps all its occurrences. (N-grams lose 7 to 8 of F1@10 without it.)
    """
    words = _stems_of_words(document)
    found: dict[Stems, set[WordRun]] = defaultdict(set)
    for first, last in runs:
        said = [i for i in range(first, last) if words[i]]
        if said:  # without punctuation at either end
            found[sum(words[first:last], ())].add((said[0], said[-1] + 1))
    for first, last in _matches(document, found):
        found[sum(words[first:last], ())].add((first, last))
    outermost = set(_outermost(run for runs in found.values() for run in runs))
    candidates = [Candidate(key, sorted(at)) for key, at in found.items() if at & outermost]
    return sorted(candidates, key=lambda candidate: candidate.runs[0])


def _outermost(runs: Iterable[WordRun]) -> list[WordRun]:
    """The runs that lie inside no other."""
    kept: list[WordRun] = []
    for run in sorted(set(runs), key=lambda run: (run[0], -run[1])):
        if not kept or run[1] > kept[-1][1]:
            kept.append(run)
    return kept


# Ranking ----------------------------------------------------------------------------------------


class Keyphrase(NamedTuple):
    """A phrase as it is written first, its score, and where in the text it stands, each time."""

    text: str
    score: float
    spans: list[Span]


def rank_phrases(
    document: Document,
    candidates: Sequence[Candidate],
    weights: ArrayLike,
    settings: PhraseSettings,
) -> list[Keyphrase]:
    """Candidates by their score, best first, the earlier one where scores are equal.

    `weights`: (words,). The first n of the result are what `top` n gives.
    """
    weights = np.asarray(weights, dtype=np.float64)
    _check_length(document, weights)
    if (bad := np.flatnonzero(~np.isfinite(weights))).size:
        start, end = document.words[bad[0]]
        raise ValueError(
            f"document {document.id!r}: the weight of word {bad[0]}, "
            f"{document.text[start:end]!r}, is {weights[bad[0]]}"
        )
    values = weights.tolist()
    scored = [(phrase_score(c, values, settings.aggregate), c) for c in candidates]
    scored.sort(key=lambda pair: (-pair[0], pair[1].runs[0]))
    if settings.diversity:
        scored = _diversified(scored, settings.diversity, settings.top)
    return [_keyphrase(document, *pair) for pair in scored[: settings.top]]


def phrase_score(candidate: Candidate, weights: Sequence[float], aggregate: Aggregate) -> float:
    """What the weights of all words make of a candidate; `PhraseSettings` says how."""
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


def _diversified(
    scored: Sequence[tuple[float, Candidate]], diversity: float, top: int | None
) -> list[tuple[float, Candidate]]:
    """Maximal marginal relevance (Carbonell and Goldstein 1998): always next is the phrase with the
    largest (1 - diversity) * relevance - diversity * similarity to the nearest one chosen.

    Relevance is the score over the largest in size; similarity the share of stems in common
    (Jaccard).
    """
    scale = max((abs(score) for score, _ in scored), default=0.0) or 1.0
    words = [set(candidate.stems) for _, candidate in scored]
    nearest = [0.0] * len(scored)
    left = list(range(len(scored)))
    chosen = []
    while left and len(chosen) != top:
        gains = [(1 - diversity) * scored[i][0] / scale - diversity * nearest[i] for i in left]
        best = left.pop(gains.index(max(gains)))
        chosen.append(scored[best])
        for i in left:
            shared = len(words[i] & words[best]) / len(words[i] | words[best])
            nearest[i] = max(nearest[i], shared)
    return chosen


def _check_length(document: Document, values: ArrayLike) -> None:
    if np.shape(values) != (len(document.words),):
        raise ValueError(
            f"document {document.id!r}: expected one value for each of its "
            f"{len(document.words)} words, found shape {np.shape(values)}"
        )
