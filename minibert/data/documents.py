"""Documents, their words, and keyphrases turned into a label per word."""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minibert.data.words import normal_form
from minibert.errors import InputError
from minibert.tokenizer import Span

Scheme = Literal["io", "bio", "given"]


OUTSIDE = "O"  # the label of a word in no keyphrase


class Document(NamedTuple):
    """A text, its words as character spans, and what is known of them."""

    id: str
    text: str
    words: list[Span]
    keyphrases: list[str] | None = None
    spans: list[Span] | None = None  # where the keyphrases stand, if the collection says so
    labels: list[str] | None = None  # one per word, for any other token task

    def forms(self) -> list[str]:
        """Each word without case and punctuation; a word of punctuation alone stays as it is."""
        words = (self.text[start:end] for start, end in self.words)
        return [normal_form(word) or word for word in words]


# Stop words -------------------------------------------------------------------------------------


@cache
def stop_words() -> frozenset[str]:
    """English function words, and a few verbs that carry no topic, in normal form."""
    text = (Path(__file__).parent / "stop_words.txt").read_text(encoding="utf-8")
    return frozenset(normal_form(word) for word in text.split())


def is_stop_word(document: Document) -> list[bool]:
    """One for each word. A word of two to four capitals is an abbreviation (IT, U.S, WHO) and no
    stop word, unless a word beside it is in capitals too, as in a heading."""
    words = [document.text[start:end].replace(".", "") for start, end in document.words]
    capitals = [len(word) > 1 and word.isalpha() and word.isupper() for word in words]
    beside = [a or b for a, b in zip([False, *capitals], [*capitals[1:], False])]
    return [
        form in stop_words() and not (upper and len(word) <= 4 and not heading)
        for word, form, upper, heading in zip(words, document.forms(), capitals, beside)
    ]


# Labels -----------------------------------------------------------------------------------------


def find_phrases(document: Document, phrases: Iterable[str]) -> list[list[tuple[int, int]]]:
    """For each phrase, every run of words (first, last + 1) that spells it.

    Compared without case, spaces and punctuation on both sides, on word boundaries: 500N-KPCrowd's
    gold has its punctuation stripped ("changeofcommand" stands for "change-of-command"). A phrase
    that is a stop word but for its case must have that case: "IT" is not found in "it".
    """
    forms = document.forms()
    at = {0: 0}  # where a word begins in the letters of the whole text -> its number
    letters = 0
    for number, form in enumerate(forms, 1):
        letters += len(form)
        at[letters] = number
    text = "".join(forms)
    found = []
    for phrase in phrases:
        form = normal_form(phrase)
        starts = [m.start() for m in re.finditer(f"(?={re.escape(form)})", text)] if form else []
        runs = [(at[s], at[s + len(form)]) for s in starts if s in at and s + len(form) in at]
        if form in stop_words():
            runs = [run for run in runs if _same_case(document, run, phrase)]
        found.append(runs)
    return found


def share_in_text(documents: Iterable[Document]) -> float | None:
    """The share of the keyphrases that `find_phrases` finds in their texts; None without any."""
    places = [runs for d in documents for runs in find_phrases(d, d.keyphrases or [])]
    return sum(map(bool, places)) / len(places) if places else None


def _same_case(document: Document, run: tuple[int, int], phrase: str) -> bool:
    """Whether the letters of words and phrase are the same, but for a capital that begins a
    sentence."""
    words = document.text[document.words[run[0]][0] : document.words[run[1] - 1][1]]
    spelled, wanted = ("".join(filter(str.isalpha, part)) for part in (words, phrase))
    return wanted in (spelled, spelled[:1].lower() + spelled[1:])


def word_labels(document: Document, scheme: Scheme) -> list[str]:
    """One label per word: O or I (io); O, B or I (bio); or the document's own (given)."""
    if scheme == "given":
        if document.labels is None:
            raise InputError(f"document {document.id!r} has no labels; --labels given needs them")
        return document.labels
    if document.spans is not None:
        runs = [_words_in(document, span) for span in document.spans]
    elif document.keyphrases is not None:
        runs = [run for found in find_phrases(document, document.keyphrases) for run in found]
    else:
        raise InputError(
            f"document {document.id!r} has no keyphrases; for other labels: --labels given"
        )
    labels = [OUTSIDE] * len(document.words)
    for first, last in sorted(runs, key=lambda run: (run[0] - run[1], run)):  # longest first
        if scheme == "io":
            labels[first:last] = ["I"] * (last - first)
        elif first < last and set(labels[first:last]) == {OUTSIDE}:
            labels[first:last] = ["B"] + ["I"] * (last - first - 1)
    return labels


def _words_in(document: Document, span: Span) -> tuple[int, int]:
    """The run of words that a span of characters touches."""
    touched = [i for i, (a, b) in enumerate(document.words) if a < span[1] and span[0] < b]
    return (touched[0], touched[-1] + 1) if touched else (0, 0)


def label_names(documents: Iterable[Document], scheme: Scheme) -> tuple[str, ...]:
    """The labels of a scheme, O first."""
    if scheme != "given":
        return (OUTSIDE, "B", "I") if scheme == "bio" else (OUTSIDE, "I")
    names = {label for document in documents for label in word_labels(document, scheme)}
    return tuple(sorted(names, key=lambda name: (name != OUTSIDE, name)))


# Baselines --------------------------------------------------------------------------------------


def is_content_word(document: Document) -> NDArray[np.float64]:
    """(words,) 1 for every word that has a letter and is no stop word, 0 for the rest."""
    has_letter = (any(map(str.isalpha, form)) for form in document.forms())
    return np.array([float(a and not b) for a, b in zip(has_letter, is_stop_word(document))])
