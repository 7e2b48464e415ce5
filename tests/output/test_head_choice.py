"""The table of a fit and sentences about a choice of heads, against hand-worked examples."""

import numpy as np
import pytest

from minibert.keyphrases.choice import ALL_HEADS, BEST_HEAD, NO_ATTENTION, UNIFORM
from minibert.output.head_choice import f1_lines, fit_rows


def test_table_of_a_fit_has_one_row_of_all_random_draws():
    controls = {NO_ATTENTION: 0.25, ALL_HEADS: 0.375, BEST_HEAD: 0.3}
    controls |= {"random heads 1": 0.5, "random heads 2": 0.125, "random heads 3": 0.2}
    assert fit_rows(0.4, controls) == [
        ["", "F1@10"],
        ["these heads", "40.0"],
        ["without attention", "25.0"],
        ["all heads", "37.5"],
        ["best head on dev", "30.0"],
        ["random heads", "20.0 [12.5, 50.0]"],
    ]


NOISE = np.linspace(-1, 1, 1000)
ALONE = {"L0H0": 0.1, "L0H1": 0.3, "L1H0": 0.2}


def under_resamples(value, spread=0.0):
    """(1 + R,) a value and its resamples, evenly between value - spread and value + spread."""
    return np.array([value, *(value + spread * NOISE)])


def test_lines_of_f1_have_paired_differences():
    ways = {
        "these heads": under_resamples(0.5),
        "frequency": under_resamples(0.25, 0.1),
        "TextRank": under_resamples(0.625),
    }
    assert f1_lines(ways, [], ALONE) == [
        "F1@10, these heads less frequency: +25.0 [+15.5, +34.5]",
        "F1@10, these heads less TextRank: -12.5 [-12.5, -12.5]",
        "F1@10 of every head alone: mean 20.0, highest 30.0 (L0H1, chosen on this very set)",
    ]


PURER = "A purer subset beats all heads, uniform weights and every draw of random heads"
NOT_ABOVE = "The choice of heads is not shown to matter here: not above"


@pytest.mark.parametrize(
    ("all_heads", "uniform", "random", "above", "sentence"),
    [
        ((0.4, 0.05), (0.3, 0.1), [0.45, 0.2], "2 of 2", PURER),
        ((0.4, 0.2), (0.3, 0.1), [0.45, 0.2], "2 of 2", f"{NOT_ABOVE} all heads"),
        ((0.4, 0.05), (0.6, 0.05), [0.45, 0.2], "2 of 2", f"{NOT_ABOVE} uniform weights"),
        ((0.4, 0.05), (0.3, 0.1), [0.45, 0.5, 0.2], "2 of 3", f"{NOT_ABOVE} random heads"),
        ((0.5, 0.0), (0.3, 0.1), [0.6], "0 of 1", f"{NOT_ABOVE} all heads and random heads"),
        (
            (0.4, 0.2),
            (0.45, 0.3),
            [0.6],
            "0 of 1",
            f"{NOT_ABOVE} all heads and uniform weights and random heads",
        ),
    ],
)
def test_sentence_on_a_purer_subset_needs_every_control(
    all_heads, uniform, random, above, sentence
):
    """By the intervals of the differences, and by every single draw."""
    ways = {
        "these heads": under_resamples(0.5),
        UNIFORM: under_resamples(*uniform),
        ALL_HEADS: under_resamples(*all_heads),
    }
    lines = f1_lines(ways, random, ALONE)
    assert lines[2] == f"F1@10, these heads: above {above} draws of random heads"
    assert lines[3] == sentence
    assert len(lines) == 5


@pytest.mark.parametrize("random", [[], [0.1, 0.2]])
@pytest.mark.parametrize("names", [(ALL_HEADS, UNIFORM), ("these heads", UNIFORM)])
def test_no_sentence_without_its_controls(names, random):
    """Where these are all heads, and where no draw or no fit of all heads exists."""
    ways = {names[0]: under_resamples(0.5), names[1]: under_resamples(0.25)}
    assert len(f1_lines(ways, random, ALONE)) == 2
