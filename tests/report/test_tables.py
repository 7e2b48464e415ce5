"""Tables and sentences about a study, against hand-worked examples."""

from minibert.evaluation.intervals import Change, Score
from minibert.report.results import Ablation, HeadEffects, best_of_layers, significant_heads
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
    assert dev == f"On dev, masking one head {raises} 1 of 4 and lowers it for 1."
    # L0H1 is significant on test, and was not on dev: it does not count.
    chosen = "of the heads that are significant on dev"
    assert test == f"On test, {chosen}, masking one {raises} 1 of 2 and lowers it for 1."
    assert layers.startswith("With one head left in a layer, the best of it on dev, AP on test ")
    assert layers.endswith("points: L0H1 -4.0 [-5.0, -3.0], L1H0 -2.0 [-3.0, -1.0].")
    assert "from L0H1, the best head on dev, " in attention
    assert "an AP of 80.0 on test; that of the median head is 50.0." in attention
    # On dev the ranks are 1 4 3 2 and 4 3 2 1: 1 - 6 * 12 / 60.
    assert attention.endswith("loss is -0.20.")


def test_no_head_counts_on_test_where_none_is_significant_on_dev():
    """Also where every head was measured on test, as older versions did, and is significant."""
    study = ablation()
    study.single["dev"] = effects((0.3, False), (0.2, False), (-0.1, False), (-0.2, False))
    study.single["test"] = effects((0.3, True), (0.2, True), (-0.1, True), (-0.2, True))
    dev, test, *_ = ablation_answers(study)
    assert dev.endswith("for 0 of 4 and lowers it for 0.")
    assert test == "On dev no head is significant, so that none is counted on test."


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
