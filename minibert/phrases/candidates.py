"""The phrases of a text that may be keyphrases.

Runs of words -> candidates (runs with equal stems). Runs come from the text alone, from
part-of-speech tags, from a tagger, or from the user's own list. A run is (first word, last word +
1); stems are of words in normal form, in the language of the document.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from minibert.data.documents import Document, find_phrases, is_content_word, is_stop_word
from minibert.errors import InputError
from minibert.evaluation import metrics
from minibert.text.language import Language
from minibert.text.words import normal_form

WordRun = tuple[int, int]  # words (first, last + 1)
Stems = tuple[str, ...]

# Between two words of a phrase: white space without tabs, page ends and other separators, and with
# one line break at most.
BLANK = r"[^\S\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]*"
SPACE = re.compile(rf"{BLANK}(?:(\r?\n){BLANK})?")

NARROW = 60  # characters; text is rarely wrapped at less, but titles are often shorter


# Stems ------------------------------------------------------------------------------------------


def stem(word: str, language: Language) -> str:
    """The stem of a word in normal form: without case and punctuation."""
    return language.stem(normal_form(word))


@lru_cache(maxsize=2**17)
def stems(text: str, language: Language) -> Stems:
    """The stem of each word of a text. Two phrases with equal stems count as the same phrase."""
    return tuple(stem(text[start:end], language) for start, end in language.word_spans(text))


def stems_of_words(document: Document) -> list[Stems]:
    """The stems of each word of a document. If the words are given by the user, punctuation has
    none and "client/server" has several."""
    return [stems(document.text[start:end], document.language) for start, end in document.words]


# Runs of words ----------------------------------------------------------------------------------


def unbroken_runs(document: Document, inside: ArrayLike) -> list[WordRun]:
    """The longest runs of words `inside` (a boolean each) with only white space between them. A
    blank line, a tab, the end of a page or of a title ends a run too."""
    check_length(document, inside)
    runs: list[WordRun] = []
    for i in np.flatnonzero(inside).tolist():
        if runs and runs[-1][1] == i and _is_joined(document, i):
            runs[-1] = (runs[-1][0], i + 1)
        else:
            runs.append((i, i + 1))
    return runs


def _is_joined(document: Document, i: int) -> bool:
    """Whether only white space separates word i from the word before."""
    (_, end), (start, _) = document.words[i - 1], document.words[i]
    space = SPACE.fullmatch(document.text, end, start)
    return bool(space and (space[1] is None or _is_wrapped(document, i, *space.span(1))))


def _is_wrapped(document: Document, i: int, end: int, start: int) -> bool:
    """Whether the line break from `end` to `start` before word i is inside a sentence: a small
    letter follows, or the line had no room for the word. A title or a list item leaves room."""
    text, (first, last) = document.text, document.words[i]
    if text[first].islower():
        return True

    line = text[text.rfind("\n", 0, end) + 1 : end].rstrip()
    next_line = text[start:].partition("\n")[0].rstrip()
    return len(line) + 1 + last - first > max(NARROW, len(next_line))


def content_runs(document: Document, max_words: int) -> list[WordRun]:
    """The runs between stop words, numbers and punctuation, cut into equal parts of at most
    `max_words` words.

    All n-grams inside the runs, as candidates, do not raise F1@10 on dev (docs/keyphrases.md).
    """
    runs = unbroken_runs(document, is_content_word(document) > 0)
    return [part for run in runs for part in _equal_parts(run, max_words)]


def _equal_parts(run: WordRun, max_words: int) -> list[WordRun]:
    """A run in equal parts of at most `max_words` words; the later ones may be a word longer."""
    first, last = run
    parts = -(-(last - first) // max_words)  # rounded up
    return list(pairwise(first + (last - first) * i // parts for i in range(parts + 1)))


def is_noun(tag: str) -> bool:
    """Whether a part-of-speech tag, of the Penn Treebank or of Universal Dependencies, is a
    noun's."""
    return tag.startswith(("NN", "NOUN", "PROPN"))


def noun_runs(document: Document, max_words: int) -> list[WordRun]:
    """Adjectives and nouns that end in a noun, without stop words: <NN.*|JJ>*<NN.*>, as in SIFRank
    and SAMRank, in parts of at most `max_words` words. Raises InputError if the document's labels,
    which must be tags as for `is_noun`, are missing."""
    if document.labels is None:
        raise InputError(
            f"document {document.id!r} has no labels; noun phrases need a tag for each word, or "
            "--tagger"
        )
    adjectives = ("JJ", "ADJ")
    kinds = ["N" if is_noun(t) else "J" if t in adjectives else " " for t in document.labels]

    runs = []
    for start, end in unbroken_runs(document, is_content_word(document) > 0):
        for match in re.finditer("[NJ]*N", "".join(kinds[start:end])):
            for first, last in _equal_parts(match.span(), max_words):
                # A part cut off before its noun may end in adjectives, or hold nothing else.
                length = len(match.string[first:last].rstrip("J"))
                if length:
                    runs.append((start + first, start + first + length))
    return runs


def tagged_runs(document: Document, labels: Sequence[str]) -> list[WordRun]:
    """The entities of a tagger's labels, as `metrics.spans` reads them."""
    check_length(document, labels)
    return sorted((first, last) for first, last, _ in metrics.spans(labels))


def listed_runs(document: Document, phrases: Sequence[str]) -> list[WordRun]:
    """Every occurrence of the phrases: inflected, or spelled as `find_phrases` compares, which
    ignores punctuation and spaces ("client-server" matches "client/server")."""
    spelled = [run for runs in find_phrases(document, phrases) for run in runs]
    return spelled + _matches(document, {stems(phrase, document.language) for phrase in phrases})


def _matches(document: Document, wanted: Collection[Stems]) -> list[WordRun]:
    """Every unbroken run with wanted stems, overlapping runs too. A run of stop words alone does
    not match: "it" is not "IT"."""
    words = stems_of_words(document)
    is_stop = is_stop_word(document)
    longest = max(map(len, wanted), default=0)

    matches = []
    for first in range(len(words)):
        key: Stems = ()
        for last in range(first, len(words)):
            if not words[last] or (last > first and not _is_joined(document, last)):
                break
            key += words[last]
            if len(key) > longest:
                break
            if key in wanted and not all(is_stop[first : last + 1]):
                matches.append((first, last + 1))
    return matches


# Candidates -------------------------------------------------------------------------------------


class Candidate(NamedTuple):
    """A phrase that may be ranked: its stems, and every run of words that has them, in order."""

    stems: Stems
    runs: list[WordRun]


def group(document: Document, runs: Iterable[WordRun]) -> list[Candidate]:
    """Candidates from runs, in the order of their first occurrence. Runs of equal stems are one
    candidate, which also gets every other unbroken run of these stems.

    Drop a candidate that never occurs outside a longer one. Otherwise keep all its occurrences,
    nested ones included. (With n-grams, F1@10 is 7 to 8 lower if such candidates stay.)
    """
    words = stems_of_words(document)
    runs_by_stems: dict[Stems, set[WordRun]] = defaultdict(set)
    for first, last in runs:
        stemmed = [i for i in range(first, last) if words[i]]
        if stemmed:  # punctuation at either end is cut off
            runs_by_stems[sum(words[first:last], ())].add((stemmed[0], stemmed[-1] + 1))
    for first, last in _matches(document, runs_by_stems):
        runs_by_stems[sum(words[first:last], ())].add((first, last))

    outermost = set(_outermost(run for runs in runs_by_stems.values() for run in runs))
    candidates = [
        Candidate(key, sorted(runs)) for key, runs in runs_by_stems.items() if runs & outermost
    ]
    return sorted(candidates, key=lambda candidate: candidate.runs[0])


def _outermost(runs: Iterable[WordRun]) -> list[WordRun]:
    """The runs that lie inside no other."""
    outermost: list[WordRun] = []
    for run in sorted(set(runs), key=lambda run: (run[0], -run[1])):
        if not outermost or run[1] > outermost[-1][1]:
            outermost.append(run)
    return outermost


def check_length(document: Document, values: ArrayLike) -> None:
    if np.shape(values) != (len(document.words),):
        raise ValueError(
            f"document {document.id!r}: expected one value for each of its "
            f"{len(document.words)} words, found shape {np.shape(values)}"
        )
