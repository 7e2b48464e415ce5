"""Texts as a page: every word shaded by its weight, keyphrases underlined."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from minibert.data import Document
from minibert.errors import InputError
from minibert.keyphrases import Keyphrase
from minibert.metrics import Array


class Piece(NamedTuple):
    """A stretch of text: a word, or what stands between two."""

    text: str
    weight: str
    shade: str  # how opaque its colour is, empty for none
    opens: bool  # a keyphrase begins here
    closes: bool


def require_pages() -> None:
    """Raises InputError where no page can be written: better before a long job than after."""
    if not find_spec("jinja2"):
        raise InputError("pages need Jinja2: pip install -e '.[report]'")


def texts_page(title: str, texts: Sequence[tuple[Document, Array, list[Keyphrase]]]) -> str:
    """One HTML page of texts with their word weights and keyphrases; needs nothing from outside.
    Everything that comes from a text is escaped."""
    from jinja2 import Environment, FileSystemLoader  # here: an extra

    folder = Path(__file__).parent / "templates"
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True)
    shown = [
        {"id": d.id, "pieces": _pieces(d, weights, phrases), "phrases": phrases}
        for d, weights, phrases in texts
    ]
    return environment.get_template("texts.html").render(title=title, texts=shown)


def _pieces(document: Document, weights: Array, phrases: Sequence[Keyphrase]) -> list[Piece]:
    spans: list[tuple[int, int]] = []
    for span in sorted(span for phrase in phrases for span in phrase.spans):
        if not spans or span[0] >= spans[-1][1]:  # the first of two that overlap
            spans.append(span)
    starts, ends = {start for start, _ in spans}, {end for _, end in spans}
    largest = max(weights, default=0.0) or 1.0
    pieces, at = [], 0
    for (start, end), weight in zip(document.words, weights):
        pieces.append(Piece(document.text[at:start], "", "", False, False))
        shade = f"{0.85 * weight / largest:.2f}" if weight > 0 else ""
        text = document.text[start:end]
        pieces.append(Piece(text, f"{weight:.3g}", shade, start in starts, end in ends))
        at = end
    return [*pieces, Piece(document.text[at:], "", "", False, False)]
