"""A text in pieces, as a page shows it: words in shades, with marks."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from minibert.evaluation.metrics import Array
from minibert.text.words import Span

LEVELS = 9  # shades of a word


class Piece(NamedTuple):
    """A part of a text: a word, or the characters between two words."""

    text: str

    weight: str = ""

    level: int = 0
    """Of the shade: 1 to LEVELS, or 0 for none."""

    opens: bool = False
    """Whether a keyphrase begins here."""

    closes: bool = False

    gold: bool = False


def text_pieces(
    text: str,
    words: Sequence[Span],
    weights: Sequence[float] | Array,
    spans: Iterable[Span],
    gold: Sequence[bool] = (),
    largest: float = 0.0,
) -> list[Piece]:
    """The text cut at its words. Of two spans that overlap, the first is marked. `largest`: the
    weight of the darkest shade; 0 for the largest of this text."""
    marked: list[Span] = []
    for span in sorted(spans):
        if not marked or span[0] >= marked[-1][1]:
            marked.append(span)
    starts, ends = {start for start, _ in marked}, {end for _, end in marked}
    largest = largest or max(weights, default=0.0) or 1.0

    pieces, offset = [], 0
    for i, ((start, end), weight) in enumerate(zip(words, weights)):
        level = round(LEVELS * weight / largest)
        marks = (start in starts, end in ends, bool(gold) and gold[i])
        pieces.append(Piece(text[offset:start]))
        pieces.append(Piece(text[start:end], f"{weight:.3g}", level, *marks))
        offset = end

    return [*pieces, Piece(text[offset:])]
