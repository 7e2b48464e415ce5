"""Keyphrases for a shell and for a reader: phrases alone, or the text with its phrases marked."""

import os
import re
from collections.abc import Iterable, Sequence

from minibert.data.documents import Document
from minibert.phrases.ranking import Keyphrase
from minibert.text.words import Span

# ECMA-48: bold and underlined; back to normal.
MARK, RESET = "\x1b[1;4m", "\x1b[0m"

# Characters that can move the cursor or start a command of the terminal, and those that change the
# direction of writing. The line ends \n and \r\n and the tab are kept.
CONTROLS = re.compile(r"(?!\r\n)[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def shows_styles() -> bool:
    """Whether the terminal shows bold, and the user wants it (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    """The text with each control character replaced by one U+FFFD."""
    return CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def phrase_lines(document: Document, phrases: Sequence[Keyphrase]) -> str:
    """A line for each phrase, best first."""
    return "".join(f"{_on_one_line(phrase.text)}\n" for phrase in phrases)


def marked_text(document: Document, phrases: Sequence[Keyphrase], styles: bool) -> str:
    """The id, the text with every occurrence of its phrases marked, and the ranked phrases with
    their scores. `styles`: marked by bold and underlining, otherwise by brackets."""
    before, after = (MARK, RESET) if styles else ("[", "]")
    text = printable(document.text)  # as long as the text, so that the spans fit
    spans = _union(span for phrase in phrases for span in phrase.spans)
    shown = insert_marks(text, spans, before, after).rstrip()

    ranked = "".join(
        f"{number:4}  {phrase.score:<10.4g} {_on_one_line(phrase.text)}\n"
        for number, phrase in enumerate(phrases, 1)
    )
    return f"==> {printable(document.id)} <==\n{shown}\n\n{ranked}"


def marked(text: str, spans: Sequence[Span], colour: bool) -> str:
    """The text with the spans, which must not overlap, in bold green or in [[brackets]]."""
    opening, closing = ("\033[1;32m", "\033[0m") if colour else ("[[", "]]")
    return insert_marks(text, sorted(spans), opening, closing)


def insert_marks(text: str, spans: Sequence[Span], opening: str, closing: str) -> str:
    """The text with marks around each span. `spans`: in order, without overlaps."""
    parts, offset = [], 0
    for start, end in spans:
        parts += [text[offset:start], opening, text[start:end], closing]
        offset = end
    return "".join([*parts, text[offset:]])


def _on_one_line(phrase: str) -> str:
    """A phrase that the text breaks across lines, with single spaces."""
    return printable(" ".join(phrase.split()))


def _union(spans: Iterable[Span]) -> list[Span]:
    """The spans in order; those that overlap as one."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            first, last = merged.pop()
            start, end = first, max(last, end)
        merged.append((start, end))
    return merged
