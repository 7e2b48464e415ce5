"""Conclusions and the closing table, against hand-worked examples."""

from dataclasses import replace

import numpy as np
import pytest

from minibert.evaluation.intervals import Change, Score
from minibert.heads.costs import Cost
from minibert.report import story
from minibert.report.results import PrunedModel, RankedKeyphrases
from minibert.report.story import (
    RunModel,
    closing_rows,
    keyphrase_answers,
    keyphrase_rows,
    pruning_answers,
    read_models,
    tagger_answers,
)

NOISE = np.linspace(-1, 1, 201)


def score(value: float) -> Score:
    return Score(value, value - 0.05, value + 0.05)


def under_resamples(value: float, spread: float = 0.01) -> list[float]:
    return [value, *(value + spread * NOISE)]


def cost(speedup: float) -> Cost:
    return Cost([1], 1, 1, 1, 1, 1.0, 1.0, 1.0, speedup, 1.0, 1.0)


def keyphrases(
    f1: float, above: float, significant: bool, over_pagerank: float = 0.1
) -> RankedKeyphrases:
    change, pagerank = (
        Change(x, x - 0.01, x + 0.01, 0.0, significant) for x in (above, over_pagerank)
    )
    return RankedKeyphrases(
        language="en",
        inputs={},
        scores={"F1@10": score(f1), "P@10": score(0.1), "AP": score(0.75)},
        controls={
            "PageRank of all": {"F1@10": score(f1 - over_pagerank)},
            "uniform weights": {"F1@10": score(0.25)},
            "without attention": {"F1@10": score(0.375)},
            "first candidates": {"F1@10": score(0.0625)},
        },
        above={
            "PageRank of all": pagerank,
            "without attention": change,
            "uniform weights": change,
        },
        resampled=under_resamples(f1),
        texts={},
    )


def pruned(
    selection: str, heads: int, ap: float, share: Score, weight_steps: int = 30
) -> PrunedModel:
    return PrunedModel(
        selection=selection,
        recovered=True if weight_steps else None,
        weight_steps=weight_steps,
        documents=22,
        heads=["L0H0"] * heads,
        gates=[],
        test={"AP": score(ap)},
        dense={"AP": score(0.9)},
        share=share,
        resampled=under_resamples(ap),
        costs={"dense": cost(1.0), "pruned": cost(1.25)},
    )


def smaller(
    selection: str,
    heads: int,
    ap: float,
    share: Score,
    ranked: RankedKeyphrases | None = None,
    weight_steps: int = 30,
) -> RunModel:
    results = pruned(selection, heads, ap, share, weight_steps)
    return RunModel(f"{heads} {selection}", heads, 20_000_000, score(ap), results, ranked)


def dense(ranked: RankedKeyphrases | None = None) -> RunModel:
    return RunModel("dense", 72, 22_570_000, score(0.9), None, ranked)


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
        (Score(0.9, 0.8, 0.99), "the interval lies below 100 %"),
        (Score(0.9, 0.8, 1.0), "the interval contains 100 %"),
        (Score(1.1, 1.0, 1.2), "the interval contains 100 %"),
        (Score(1.1, 1.01, 1.2), "the interval lies above 100 %"),
    ],
)
def test_loss_of_a_smaller_model_is_judged_by_the_interval_of_its_share(share, verdict):
    (answer,) = pruning_answers([dense(), smaller("gates", 12, 0.8, share)], "AP")
    assert answer.startswith(f"12 gates: AP is {100 * share.value:.1f} [")
    assert answer.endswith(f"] % of that of all 72 heads; {verdict}.")


def test_control_is_a_pair_with_as_many_heads_and_the_same_dense_scores():
    share = Score(0.9, 0.8, 1.0)
    chosen, random = smaller("gates", 12, 0.8, share), smaller("random", 12, 0.75, share)
    others = [smaller("gates", 36, 0.9, share), smaller("random", 36, 0.88, share)]
    others[1].pruned.dense["AP"] = score(0.8)  # of other documents
    answers = pruning_answers([dense(), chosen, random, *others], "AP")
    assert len(answers) == 4 + 1
    # The resamples move together: the difference is the same in each.
    assert answers[-1] == (
        "Control (one random draw): AP of 12 gates, is 5.0 points [5.0, 5.0] above that of "
        "12 random; significant."
    )

    same = smaller("random", 12, 0.8, share)
    same.pruned.resampled[1:] = [0.8 + 0.01 * x for x in reversed(NOISE)]
    *_, answer = pruning_answers([dense(), chosen, same], "AP")
    assert answer.endswith("is 0.0 points [-1.9, 1.9] above that of 12 random; not significant.")


@pytest.mark.parametrize(
    ("steps_of_chosen", "steps_of_random", "documents", "pairs"),
    [(0, 0, 22, 1), (60, 60, 22, 1), (60, 0, 22, 0), (60, 30, 22, 0), (0, 0, 3, 0)],
)
def test_control_was_trained_as_long_on_as_many_documents(
    steps_of_chosen, steps_of_random, documents, pairs
):
    share = Score(0.9, 0.8, 1.0)
    chosen = smaller("order", 12, 0.8, share, weight_steps=steps_of_chosen)
    random = smaller("random", 12, 0.75, share, weight_steps=steps_of_random)
    other = replace(random, pruned=replace(random.pruned, documents=documents))
    answers = pruning_answers([dense(), chosen, other], "AP")
    assert sum(answer.startswith("Control") for answer in answers) == pairs


def test_titles_tell_models_apart(monkeypatch, tmp_path):
    """By fine-tuning only where some with as many heads have none, by documents only where they
    are not those of the run."""
    share = Score(0.9, 0.8, 1.0)
    undone = replace(pruned("order", 12, 0.8, share), recovered=False)
    few = replace(pruned("gates", 6, 0.8, share), documents=3, dense={"AP": score(0.95)})
    prunings = {
        "a": {
            "keep-36": pruned("gates", 36, 0.8, share),
            "keep-12": pruned("gates", 12, 0.8, share),
            "keep-6": pruned("gates", 6, 0.8, share),
        },
        "b": {"keep-12": pruned("gates", 12, 0.8, share, weight_steps=0), "keep-6": few},
        "c": {"keep-12": undone},
        "d": {"keep-36": pruned("random", 36, 0.8, share)},
        "e": {"keep-36": pruned("random", 36, 0.8, share)},
    }
    monkeypatch.setattr(story, "read_scores", lambda run: SCORES)
    monkeypatch.setattr(story, "read_prunings", lambda run: prunings)
    monkeypatch.setattr(story, "_read_model", lambda folder, title, *_: title)
    assert read_models(tmp_path) == [
        "dense",
        "36 heads, chosen by gates",
        "12 heads, chosen by gates, fine-tuned",
        "6 heads, chosen by gates",
        "12 heads, chosen by gates",
        "6 heads, chosen by gates (3 documents)",
        "12 heads, by an order, fine-tuning undone",
        "36 heads, at random (d)",
        "36 heads, at random (e)",
    ]


def test_keyphrases_are_compared_with_controls_and_with_the_dense_model():
    models = [
        dense(keyphrases(0.5, 0.125, True)),
        smaller("gates", 36, 0.9, score(1)),  # without keyphrases
        smaller("gates", 12, 0.8, score(0.9), keyphrases(0.25, -0.03, False)),
    ]
    random = smaller("random", 12, 0.8, score(0.9), keyphrases(0.375, 0.1, True))
    one, two, three, control = keyphrase_answers([*models, random])
    assert one == (
        "Attention of all heads (dense): F1@10 is 12.5 points [11.5, 13.5] above that without "
        "attention, significant after correction; 12.5 points [11.5, 13.5] above that with uniform "
        "weights, significant after correction."
    )
    assert two == (
        "Attention of the heads left (12 gates): F1@10 is 3.0 points [2.0, 4.0] below that without "
        "attention, not significant after correction; 3.0 points [2.0, 4.0] below that with "
        "uniform weights, not significant after correction; 25.0 points [25.0, 25.0] below that of "
        "the dense model, significant."
    )
    assert three.startswith("Attention of the heads left (12 random): F1@10 is 10.0 points")
    assert control == (
        "Control (one random draw): F1@10 of 12 gates, is 12.5 points [12.5, 12.5] below that of "
        "12 random; significant. The choice of heads is not shown to matter for this."
    )
    assert keyphrase_answers(models) == [one, two]


@pytest.mark.parametrize(
    ("f1", "spread", "is_shown"), [(0.5, 0.02, True), (0.5, 0.2, False), (0.25, 0.02, False)]
)
def test_choice_of_heads_matters_only_where_it_is_significantly_better(f1, spread, is_shown):
    chosen = smaller("gates", 12, 0.8, score(0.9), keyphrases(f1, 0.1, True))
    chosen.keyphrases.resampled[:] = under_resamples(f1, spread)
    random = smaller("random", 12, 0.8, score(0.9), keyphrases(0.375, 0.1, True))
    random.keyphrases.resampled[:] = under_resamples(0.375, 0.0)
    *_, answer = keyphrase_answers([dense(), chosen, random])
    assert answer.startswith("Control")
    assert ("not shown to matter" not in answer) is is_shown


def test_pagerank_of_each_model_has_its_row_and_is_named_where_it_is_better():
    ranked = (
        keyphrases(0.5, 0.1, True),
        keyphrases(0.25, 0.1, False, -0.02),
        keyphrases(0.375, 0.1, True, -0.03),
    )
    models = [
        dense(ranked[0]),
        smaller("gates", 36, 0.9, score(1), ranked[1]),
        smaller("gates", 12, 0.9, score(1), ranked[2]),
    ]
    *_, answer = keyphrase_answers(models)
    assert answer == (
        "PageRank over the same attention has a higher F1@10 for: 36 gates (not significant); "
        "12 gates (significant), after correction."
    )

    header, *rows = keyphrase_rows(models)
    assert header == ["", "F1@10", "AP"]
    assert rows[:5] == [
        ["dense", "50.0 [45.0, 55.0]", "75.0 [70.0, 80.0]"],
        ["dense, PageRank", "40.0 [35.0, 45.0]", "-"],
        ["36 gates", "25.0 [20.0, 30.0]", "75.0 [70.0, 80.0]"],
        ["36 gates, PageRank", "27.0 [22.0, 32.0]", "-"],
        ["12 gates", "37.5 [32.5, 42.5]", "75.0 [70.0, 80.0]"],
    ]
    names = ["12 gates, PageRank", "uniform weights", "without attention", "first candidates"]
    assert [row[0] for row in rows[5:]] == names
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
