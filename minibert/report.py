"""Results to look at: tables and marked texts."""

from collections.abc import Mapping, Sequence

from minibert.metrics import Score
from minibert.tokenizer import Span


def score_table(rows: Mapping[str, Mapping[str, Score]]) -> str:
    """Systems down, scores across: each value with its 95 % interval, in percent but for loss."""
    columns = list(dict.fromkeys(name for scores in rows.values() for name in scores))
    cells = [["", *columns]]
    for system, scores in rows.items():
        cells.append([system, *(_cell(name, scores.get(name)) for name in columns)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _cell(name: str, score: Score | None) -> str:
    if score is None:
        return "-"
    if name == "loss":
        return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"
    return f"{100 * score.value:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def marked(text: str, spans: Sequence[Span], colour: bool) -> str:
    """The text with the spans, which must not overlap, in bold green or in [[brackets]]."""
    opening, closing = ("\033[1;32m", "\033[0m") if colour else ("[[", "]]")
    parts, at = [], 0
    for start, end in sorted(spans):
        parts += [text[at:start], opening, text[start:end], closing]
        at = end
    return "".join([*parts, text[at:]])
