"""Documents, their words, and keyphrases turned into a label per word."""

import re
from collections.abc import Iterable
from itertools import accumulate, chain
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minibert.errors import InputError
from minibert.text.language import ENGLISH, Language
from minibert.text.words import Span, normal_form

Scheme = Literal["io", "bio", "given"]  # how keyphrases become a label per word

OUTSIDE = "O"  # the label of a word in no keyphrase


class Document(NamedTuple):
    """A text, its words as character spans (start, end), and its annotation, if it has any."""

    id: str
    text: str
    words: list[Span]
    keyphrases: list[str] | None = None
    spans: list[Span] | None = None  # characters of the keyphrases, if the collection gives them
    labels: list[str] | None = None  # one per word, for any other token task
    language: Language = ENGLISH  # of the text and the keyphrases

    def forms(self) -> list[str]:
        """The normal form of each word; a word without letters and digits keeps its own form."""
        words = (self.text[start:end] for start, end in self.words)
        return [normal_form(word) or word for word in words]


# Stop words -------------------------------------------------------------------------------------


def is_stop_word(document: Document) -> list[bool]:
    """One value per word. A word of two to four capitals is an abbreviation (IT, U.S, WHO) and not
    a stop word, unless a neighbour is in capitals too, as in a heading."""
    words = [document.text[start:end].replace(".", "") for start, end in document.words]
    in_capitals = [len(word) > 1 and word.isalpha() and word.isupper() for word in words]
    neighbours = zip([False, *in_capitals], [*in_capitals[1:], False])
    in_heading = [before or after for before, after in neighbours]

    return [
        document.language.is_stop_word(form) and not (capitals and len(word) <= 4 and not heading)
        for word, form, capitals, heading in zip(words, document.forms(), in_capitals, in_heading)
    ]


def is_content_word(document: Document) -> NDArray[np.float64]:
    """(words,) 1 for every word that has a letter and is not a stop word, 0 for the rest."""
    has_letter = (any(map(str.isalpha, form)) for form in document.forms())
    return np.array([float(a and not b) for a, b in zip(has_letter, is_stop_word(document))])


# Labels -----------------------------------------------------------------------------------------


def find_phrases(document: Document, phrases: Iterable[str]) -> list[list[tuple[int, int]]]:
    """For each phrase, every run of words (first, last + 1) that spells it.

    Case, spaces and punctuation are ignored on both sides: 500N-KPCrowd's keyphrases have lost
    their punctuation ("changeofcommand" for "change-of-command"). A run begins and ends at word
    boundaries. A phrase that is a stop word must agree in case: "IT" is not found in "it".
    """
    # All words without the spaces between them, and where in this string each word begins.
    forms = document.forms()
    letters = "".join(forms)
    offsets = accumulate(map(len, forms), initial=0)
    word_at = {offset: index for index, offset in enumerate(offsets)}

    runs_of_phrases = []
    for phrase in phrases:
        form = normal_form(phrase)
        # The lookahead finds overlapping matches too.
        matches = re.finditer(f"(?={re.escape(form)})", letters) if form else ()
        ends = [(match.start(), match.start() + len(form)) for match in matches]
        runs = [(word_at[a], word_at[b]) for a, b in ends if a in word_at and b in word_at]

        if document.language.is_stop_word(form):
            runs = [run for run in runs if _has_same_case(document, run, phrase)]
        runs_of_phrases.append(runs)
    return runs_of_phrases


def share_in_text(documents: Iterable[Document]) -> float | None:
    """The share of the keyphrases that `find_phrases` finds in their texts; None without any."""
    runs_of_phrases = [
        runs for document in documents for runs in find_phrases(document, document.keyphrases or [])
    ]
    if not runs_of_phrases:
        return None
    return sum(map(bool, runs_of_phrases)) / len(runs_of_phrases)


def _has_same_case(document: Document, run: tuple[int, int], phrase: str) -> bool:
    """Whether a run of words has the letters of a phrase in the same case. A capital at the
    beginning of a sentence may differ."""
    first, last = document.words[run[0]], document.words[run[1] - 1]
    words = "".join(filter(str.isalpha, document.text[first[0] : last[1]]))
    letters = "".join(filter(str.isalpha, phrase))
    return letters in (words, words[:1].lower() + words[1:])


def word_labels(document: Document, scheme: Scheme) -> list[str]:
    """One label per word: O or I (io); O, B or I (bio); or the document's own (given).

    The spans of a document decide alone, if it has them. Where runs overlap, bio labels the longer
    one, of equal ones the first. Raises InputError for a document without annotation.
    """
    if scheme == "given":
        if document.labels is None:
            raise InputError(f"document {document.id!r} has no labels; --labels given needs them")
        return document.labels

    if document.spans is not None:
        runs = [_words_of_span(document, span) for span in document.spans]
    elif document.keyphrases is not None:
        runs = list(chain.from_iterable(find_phrases(document, document.keyphrases)))
    else:
        raise InputError(
            f"document {document.id!r} has no keyphrases; for other labels: --labels given"
        )

    labels = [OUTSIDE] * len(document.words)
    longest_first = sorted(runs, key=lambda run: (run[0] - run[1], run))
    for first, last in longest_first:
        if scheme == "io":
            labels[first:last] = ["I"] * (last - first)
        elif first < last and set(labels[first:last]) == {OUTSIDE}:
            labels[first:last] = ["B"] + ["I"] * (last - first - 1)
    return labels


def _words_of_span(document: Document, span: Span) -> tuple[int, int]:
    """The run of words that a span of characters touches; (0, 0) for none."""
    touched = [i for i, (a, b) in enumerate(document.words) if a < span[1] and span[0] < b]
    return (touched[0], touched[-1] + 1) if touched else (0, 0)


def label_names(documents: Iterable[Document], scheme: Scheme) -> tuple[str, ...]:
    """The labels of a scheme, O first."""
    if scheme != "given":
        return (OUTSIDE, "B", "I") if scheme == "bio" else (OUTSIDE, "I")
    names = {label for document in documents for label in word_labels(document, scheme)}
    return tuple(sorted(names, key=lambda name: (name != OUTSIDE, name)))
