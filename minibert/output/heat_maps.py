"""Values of heads as colours: (layers, heads) in a page."""

from collections.abc import Mapping
from typing import NamedTuple

from minibert.config import BertConfig, Head, parse_head
from minibert.evaluation.intervals import Change
from minibert.output.numbers import signed

RED, BLUE, ORANGE = (178, 24, 43), (33, 102, 172), (194, 87, 26)


class Cell(NamedTuple):
    """A head in a heat map."""

    description: str

    colour: str

    mark: str = ""


class HeatMap(NamedTuple):
    title: str

    key: str

    rows: list[list[Cell | None]]
    """By layer; None for a head that the model has lost."""


def effects_map(changes: Mapping[str, Change], config: BertConfig) -> HeatMap:
    """{head: change of the loss on dev when it is masked} as colours."""
    limit = max(abs(change.value) for change in changes.values()) or 1.0
    cells = {parse_head(n): _effect_cell(n, change, limit) for n, change in changes.items()}
    key = (
        f"red: the loss rises; blue: it falls; the darkest colour is \u00b1{limit:.4f}; dot: the "
        "change is not significant"
    )
    return HeatMap("Effect of masking one head on the loss (dev)", key, _grid(cells, config))


def _effect_cell(name: str, change: Change, limit: float) -> Cell:
    colour = _tint(RED if change.value > 0 else BLUE, abs(change.value) / limit)
    verdict, mark = ("significant", "") if change.significant else ("not significant", "·")
    return Cell(f"{name}: loss {signed(change)}, {verdict}", colour, mark)


def attention_map(precisions: Mapping[str, float], config: BertConfig) -> HeatMap:
    """{head: how well the attention that words receive from it ranks keyphrase words first}, the
    average precision on test, as colours."""
    low, high = min(precisions.values()), max(precisions.values())
    width = (high - low) or 1.0
    cells = {
        parse_head(name): Cell(f"{name}: AP {100 * ap:.1f}", _tint(ORANGE, (ap - low) / width))
        for name, ap in precisions.items()
    }
    key = f"average precision, from {100 * low:.1f} (white) to {100 * high:.1f}"
    title = "Keyphrase words ranked by the attention they receive from one head (test)"
    return HeatMap(title, key, _grid(cells, config))


def _grid(cells: Mapping[Head, Cell], config: BertConfig) -> list[list[Cell | None]]:
    heads = range(config.num_attention_heads)
    return [[cells.get((layer, h)) for h in heads] for layer in range(config.num_hidden_layers)]


def _tint(colour: tuple[int, int, int], fraction: float) -> str:
    """The CSS colour between white (fraction 0) and `colour` (1)."""
    red, green, blue = (round(255 + fraction * (part - 255)) for part in colour)
    return f"rgb({red}, {green}, {blue})"
