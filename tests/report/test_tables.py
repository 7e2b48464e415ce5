"""Tables and sentences about a study, against hand-worked examples."""

import numpy as np
import pytest

from minibert.evaluation.intervals import Change, Score
from minibert.keyphrases.choice import ALL_HEADS, BEST_HEAD, NO_ATTENTION, UNIFORM
from minibert.report.results import Ablation, HeadEffects, best_of_layers, significant_heads
from minibert.report.tables import ablation_answers, f1_lines, fit_rows, head_rows, search_rows

NAMES = ("L0H0", "L0H1", "L1H0", "L1H1")


def effects(*changes: tuple[float, bool]) -> HeadEffects:
    """Of the four heads: the change of the loss, and whether it is significant. The change of AP is
    its negative."""
    heads = {}
    for name, (x, significant) in zip(NAMES, changes):
        heads[name] = {
            "loss": Change(x, x - 0.01, x + 0.01, 0.0, significant),
            "AP": Change(-x, -x - 0.01, -x + 0.01, 0.0, significant),
        }
    return HeadEffects({"loss": Score(0.5, 0.4, 0.6), "AP": Score(0.8, 0.7, 0.9)}, heads)


def only(effects: HeadEffects, numbers: tuple[int, ...]) -> HeadEffects:
    return HeadEffects(effects.full, {NAMES[i]: effects.heads[NAMES[i]] for i in numbers})


def ablation() -> Ablation:
    precisions = dict(zip(NAMES, (0.1, 0.4, 0.3, 0.2)))
    return Ablation(
        single={
            "dev": effects((0.3, True), (0.2, False), (-0.1, True), (-0.2, False)),
            "test": only(effects((0.3, True), (0.2, True), (-0.1, True), (0.4, False)), (0, 1, 2)),
        },
        alone={
            "dev": effects((0.3, True), (0.2, True), (0.1, True), (0.4, True)),
            "test": only(effects((0.1, True), (0.04, True), (0.02, True), (0.4, True)), (1, 2)),
        },
        attention={
            "dev": {name: {"AP": ap} for name, ap in precisions.items()},
            "test": {name: {"AP": 2 * ap} for name, ap in precisions.items()},
        },
        curves={},
    )


def test_answers_count_significant_changes():
    dev, test, layers, attention = ablation_answers(ablation())
    raises = "raises the loss significantly for"
    assert dev == f"dev: masking one head {raises} 1 of 4 and lowers it for 1"
    assert (
        test == f"test, the heads that are significant on dev: {raises} 2 of 3 and lowers it for 1"
    )
    assert layers.endswith("AP on test: L0H1 -5.0 %, L1H0 -2.5 %")
    assert "best in L0H1 by dev: AP on test 80.0 (median head 50.0)" in attention
    # On dev the ranks are 1 4 3 2 and 4 3 2 1: 1 - 6 * 12 / 60.
    assert attention.endswith("loss, on dev: -0.20")


def test_heads_measured_on_test():
    assert significant_heads(ablation().single["dev"]) == ["L0H0", "L1H0"]
    none = effects((0.1, False), (0.2, False), (-0.3, False), (0.0, False))
    assert significant_heads(none) == ["L0H1"]
    # The smallest loss of AP is the best: L0H1 in layer 0, L1H0 in layer 1.
    assert best_of_layers(ablation().alone["dev"]) == ["L0H1", "L1H0"]


def test_table_of_heads_is_sorted_by_the_loss_on_dev_and_marks_significant_changes():
    header, *rows = head_rows(ablation())
    assert header == ["head", "loss, dev", "loss, test", "AP, dev"]
    assert [row[0] for row in rows] == ["L0H0", "L0H1", "L1H0", "L1H1"]
    assert rows[0][1:] == [
        "+0.3000 [+0.2900, +0.3100] *",
        "+0.3000 [+0.2900, +0.3100] *",
        "-0.3000 [-0.3100, -0.2900] *",
    ]
    assert rows[3][1:] == [
        "-0.2000 [-0.2100, -0.1900]",
        "-",
        "+0.2000 [+0.1900, +0.2100]",
    ]


def test_table_of_search_has_p_values_and_a_dash_without():
    ways = {
        "BM25": {"MAP": Score(0.25, 0.2, 0.3), "p MAP": 1.0},
        "heads": {"MAP": Score(0.5, 0.4, 0.6), "p MAP": 1 / 10_001},
        "random": {"MAP": Score(0.3, 0.1, 0.4)},
    }
    assert search_rows(ways) == [
        ["", "MAP", "p MAP"],
        ["BM25", "0.250 [0.200, 0.300]", "1.0000"],
        ["heads", "0.500 [0.400, 0.600]", "0.0001"],
        ["random", "0.300 [0.100, 0.400]", "-"],
    ]


# Keyphrases -------------------------------------------------------------------------------------


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
