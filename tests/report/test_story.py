"""Conclusions and the closing table, against hand-worked examples."""

import numpy as np
import pytest

from minibert.evaluation.intervals import Change, Score
from minibert.heads.costs import Cost
from minibert.report.results import PrunedModel, RankedKeyphrases
from minibert.report.story import (
    Model,
    closing_rows,
    keyphrase_answers,
    keyphrase_rows,
    pruning_answers,
    tagger_answers,
)

NOISE = np.linspace(-1, 1, 201)


def score(value: float) -> Score:
    return Score(value, value - 0.05, value + 0.05)


def under_resamples(value: float, spread: float = 0.01) -> list[float]:
    return [value, *(value + spread * NOISE)]


def cost(speedup: float) -> Cost:
    return Cost([1], 1, 1, 1, 1, 1.0, 1.0, 1.0, speedup, 1.0, 1.0)


def keyphrases(f1: float, above: float, significant: bool) -> RankedKeyphrases:
    change = Change(above, above - 0.01, above + 0.01, 0.0, significant)
    return RankedKeyphrases(
        language="en",
        scores={"F1@10": score(f1), "P@10": score(0.1), "AP": score(0.75)},
        controls={
            "PageRank of all": {"F1@10": score(0.125)},
            "uniform weights": {"F1@10": score(0.25)},
            "without attention": {"F1@10": score(0.375)},
            "first candidates": {"F1@10": score(0.0625)},
        },
        above={"without attention": change, "uniform weights": change},
        resampled=under_resamples(f1),
        texts={},
    )


def smaller(
    selection: str, heads: int, ap: float, share: Score, ranked: RankedKeyphrases | None = None
) -> Model:
    pruned = PrunedModel(
        selection=selection,
        recovered=True,
        heads=["L0H0"] * heads,
        gates=[],
        test={"AP": score(ap)},
        dense={"AP": score(0.9)},
        share=share,
        resampled=under_resamples(ap),
        costs={"dense": cost(1.0), "pruned": cost(1.25)},
    )
    title = f"{heads} {selection}"
    return Model(title, heads, 20_000_000, score(ap), pruned, ranked)


def dense(ranked: RankedKeyphrases | None = None) -> Model:
    return Model("dense", 72, 22_570_000, score(0.9), None, ranked)


SCORES = {
    "minibert": {"AP": score(0.9), "loss": score(0.2)},
    "word prior": {"AP": score(0.6)},
    "no stop words": {"AP": score(0.4)},
}


@pytest.mark.parametrize(
    ("baseline", "better"), [(0.7, True), (0.799, True), (0.801, False), (0.95, False)]
)
def test_tagger_is_better_only_where_the_intervals_do_not_overlap(baseline, better):
    systems = SCORES | {"another": {"AP": score(baseline)}}
    (answer,) = tagger_answers(systems)
    assert "AP of the tagger on test: 90.0 [85.0, 95.0] %. The best baseline, another: " in answer
    assert answer.endswith("the tagger is better.") is better
    assert ("not shown to be better" in answer) is not better
    assert tagger_answers({"this model": {"AP": score(0.9)}}) == []


@pytest.mark.parametrize(
    ("share", "verdict"),
    [
        (Score(0.9, 0.8, 0.99), "a significant loss"),
        (Score(0.9, 0.8, 1.0), "no significant change"),
        (Score(1.1, 1.0, 1.2), "no significant change"),
        (Score(1.1, 1.01, 1.2), "a significant gain"),
    ],
)
def test_loss_of_a_smaller_model_is_judged_by_the_interval_of_its_share(share, verdict):
    (answer,) = pruning_answers([dense(), smaller("gates", 12, 0.8, share)], "AP")
    assert answer.startswith("12 gates: ")
    assert answer.endswith(f"% of the AP of all 72 heads, {verdict}.")


def test_control_is_a_pair_with_as_many_heads_and_the_same_dense_scores():
    share = Score(0.9, 0.8, 1.0)
    chosen, random = smaller("gates", 12, 0.8, share), smaller("random", 12, 0.75, share)
    others = [smaller("gates", 36, 0.9, share), smaller("random", 36, 0.88, share)]
    others[1].pruned.dense["AP"] = score(0.8)  # of other documents
    answers = pruning_answers([dense(), chosen, random, *others], "AP")
    assert len(answers) == 4 + 1
    # The resamples move together: the difference is the same in each.
    assert answers[-1] == (
        "Control: AP of 12 gates, less 12 random: +5.0 [+5.0, +5.0], significant."
    )

    same = smaller("random", 12, 0.8, share)
    same.pruned.resampled[1:] = [0.8 + 0.01 * x for x in reversed(NOISE)]
    *_, answer = pruning_answers([dense(), chosen, same], "AP")
    assert answer.endswith("less 12 random: +0.0 [-1.9, +1.9], not significant.")


def test_keyphrases_are_compared_with_controls_and_with_the_dense_model():
    models = [
        dense(keyphrases(0.5, 0.125, True)),
        smaller("gates", 36, 0.9, score(1)),  # without keyphrases
        smaller("gates", 12, 0.8, score(0.9), keyphrases(0.25, -0.03, False)),
    ]
    random = smaller("random", 12, 0.8, score(0.9), keyphrases(0.375, 0.1, True))
    one, two, three, control = keyphrase_answers([*models, random])
    assert one == (
        "dense, less without attention: +12.5 [+11.5, +13.5], significant; "
        "less uniform weights: +12.5 [+11.5, +13.5], significant."
    )
    assert two == (
        "12 gates, less without attention: -3.0 [-4.0, -2.0], not significant; "
        "less uniform weights: -3.0 [-4.0, -2.0], not significant; "
        "less dense: -25.0 [-25.0, -25.0], significant."
    )
    assert three.startswith("12 random, less without attention: +10.0")
    assert control == "Control: 12 gates, less 12 random: -12.5 [-12.5, -12.5], significant."
    assert keyphrase_answers(models) == [one, two]
    header, *rows = keyphrase_rows(models)
    assert header == ["", "F1@10", "AP"]
    assert rows[:3] == [
        ["dense", "50.0 [45.0, 55.0]", "75.0 [70.0, 80.0]"],
        ["12 gates", "25.0 [20.0, 30.0]", "75.0 [70.0, 80.0]"],
        ["PageRank of all", "12.5 [7.5, 17.5]", "-"],
    ]
    assert len(rows) == 6
    assert keyphrase_rows([dense()]) == []


def test_closing_table():
    models = [
        dense(keyphrases(0.5, 0.1, True)),
        smaller("gates", 12, 0.8, Score(0.875, 0.85, 0.9)),
    ]
    header = ["", "heads", "parameters", "forward pass", "AP, %", "of dense AP, %"]
    assert closing_rows(models, SCORES) == [
        [*header, "F1@10 of keyphrases, %"],
        ["dense", "72", "22.6 M", "1.00x", "90.0 [85.0, 95.0]", "-", "50.0 [45.0, 55.0]"],
        ["12 gates", "12", "20.0 M", "1.25x", "80.0 [75.0, 85.0]", "87.5 [85.0, 90.0]", "-"],
        ["control: word prior", "-", "-", "-", "60.0 [55.0, 65.0]", "-", "-"],
        ["control: no stop words", "-", "-", "-", "40.0 [35.0, 45.0]", "-", "-"],
        ["control: uniform weights", *"-----", "25.0 [20.0, 30.0]"],
        ["control: without attention", *"-----", "37.5 [32.5, 42.5]"],
        ["control: first candidates", *"-----", "6.2 [1.2, 11.2]"],
    ]

    # Columns of results that do not exist.
    without = [dense(), models[1]]
    assert closing_rows(without, SCORES)[0] == header
    assert closing_rows(models[:1], SCORES)[0] == [*header[:5], "F1@10 of keyphrases, %"]
    assert closing_rows([dense()], SCORES) == []
