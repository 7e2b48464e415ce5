"""Figures of one kind: begin one, draw a measure by number of heads, save it."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minibert.evaluation.intervals import Score
from minibert.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "0.85"  # of the band of random orders or heads


def new_figure(width: float, height: float) -> tuple["Figure", "Axes"]:
    """A figure of this size, in inches, and its axes."""
    from matplotlib.figure import Figure  # here: an optional package that takes half a second

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def save_figure(figure: "Figure", path: str | Path) -> None:
    """As PNG."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def draw_kept(
    path: str | Path,
    lines: Mapping[str, Mapping[int, Score]],
    random: Mapping[int, Sequence[float]],
    full: float,
    label: str,
) -> None:
    """A measure by number of heads. `lines`: {name: {heads: score}}. `random`: {heads: the values
    of several random draws}, drawn as a band. `full`: the value of all heads."""
    figure, axes = new_figure(7.5, 4.5)
    for name, points in lines.items():
        numbers = sorted(points)
        values, low, high = np.array([astuple(points[number]) for number in numbers]).T
        # An interval from resampling need not contain the value. Error bars must not be negative.
        bars = np.maximum([values - low, high - values], 0)
        axes.errorbar(numbers, values, bars, label=name, capsize=2, marker="o")

    if random:
        numbers = sorted(random)
        lowest = [min(random[number]) for number in numbers]
        highest = [max(random[number]) for number in numbers]
        axes.fill_between(numbers, lowest, highest, color=GREY, label="random heads")
        axes.plot(numbers, highest, ".", color="0.6")  # a band of one number has no area
        axes.plot(numbers, lowest, ".", color="0.6")

    axes.axhline(full, color="0.5", linewidth=0.8, linestyle=":", label="all heads")
    axes.set(xlabel="heads kept", ylabel=label, title="Score by number of heads")
    axes.legend(frameon=False)
    save_figure(figure, path)
