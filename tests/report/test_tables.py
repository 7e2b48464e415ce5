"""The sentences about an ablation study, against a hand-worked example."""

from minibert.evaluation.intervals import Change, Score
from minibert.report.results import Ablation, HeadEffects
from minibert.report.tables import ablation_answers, head_rows, search_rows

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


def ablation() -> Ablation:
    precisions = dict(zip(NAMES, (0.1, 0.4, 0.3, 0.2)))
    return Ablation(
        single={
            "dev": effects((0.3, True), (0.2, False), (-0.1, True), (-0.2, False)),
            "test": effects((0.3, True), (0.2, True), (-0.1, True), (0.4, False)),
        },
        alone={
            "dev": effects((0.3, True), (0.2, True), (0.1, True), (0.4, True)),
            "test": effects((0.08, True), (0.04, True), (0.02, True), (0.4, True)),
        },
        attention={
            "dev": {name: {"AP": ap} for name, ap in precisions.items()},
            "test": {name: {"AP": 2 * ap} for name, ap in precisions.items()},
        },
        curves={},
    )


def test_answers_count_significant_changes():
    dev, test, agreement, layers, attention = ablation_answers(ablation())
    change = "masking one head raises the loss significantly for"
    assert dev == f"dev: {change} 1 of 4 heads, lowers it for 1, no significant change for 2"
    assert test == f"test: {change} 2 of 4 heads, lowers it for 1, no significant change for 1"
    assert agreement.endswith(": -0.20")  # ranks 4 3 2 1 and 3 2 1 4: 1 - 6 * 12 / 60
    assert layers.endswith("AP on test: L0H1 -5.0 %, L1H0 -2.5 %")
    assert "best in L0H1 by dev: AP on test 80.0 (median head 50.0)" in attention
    assert attention.endswith(": -0.60")  # ranks 1 4 3 2 and 3 2 1 4: 1 - 6 * 16 / 60


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
        "+0.4000 [+0.3900, +0.4100]",
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
