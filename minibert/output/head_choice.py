"""Whether the choice of heads helps to rank keyphrases: the table of a fit, and sentences."""

from collections.abc import Mapping, Sequence

import numpy as np

from minibert.evaluation import intervals
from minibert.evaluation.metrics import Array
from minibert.keyphrases.choice import ALL_HEADS, RANDOM, THESE, UNIFORM
from minibert.output.numbers import percent, points


def fit_rows(f1: float, controls: Mapping[str, float]) -> list[list[str]]:
    """F1@10 of the chosen heads and of their controls, in percent."""
    random = [value for name, value in controls.items() if name.startswith(RANDOM)]
    others = {name: value for name, value in controls.items() if not name.startswith(RANDOM)}
    rows = [[name, f"{100 * value:.1f}"] for name, value in {THESE: f1, **others}.items()]
    return [["", "F1@10"], *rows, [RANDOM, percent(intervals.band(random))]]


def f1_lines(
    ways: Mapping[str, Array], random: Sequence[float], alone: Mapping[str, float]
) -> list[str]:
    """By how much F1@10 of the first way, (1 + R,), is above the others'; whether these are better
    than all heads and than what needs no choice of heads; and F1@10 of single heads."""
    first, changes = next(iter(ways)), intervals.leads(ways)
    lines = [f"F1@10, {first} less {way}: {points(change)}" for way, change in changes.items()]

    if random and first == THESE and ALL_HEADS in changes:
        rivals = [way for way in (ALL_HEADS, UNIFORM) if changes[way].low <= 0]
        beaten = sum(ways[first][0] > value for value in random)
        lines.append(f"F1@10, {first}: above {beaten} of {len(random)} draws of random heads")
        rivals += [RANDOM] if beaten < len(random) else []
        lines.append(
            f"The choice of heads is not shown to matter here: not above {' and '.join(rivals)}"
            if rivals
            else "A purer subset beats all heads, uniform weights and every draw of random heads"
        )

    best = max(alone, key=alone.__getitem__)
    return [
        *lines,
        f"F1@10 of every head alone: mean {100 * np.mean([*alone.values()]):.1f}, highest "
        f"{100 * alone[best]:.1f} ({best}, chosen on this very set)",
    ]
