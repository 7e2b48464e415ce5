"""What the models of a run show: conclusions in sentences, and the closing table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from minibert.config import BertConfig
from minibert.evaluation import intervals
from minibert.evaluation.intervals import Change, Score
from minibert.evaluation.metrics import main_measure
from minibert.keyphrases.choice import NO_ATTENTION, UNIFORM
from minibert.model import BertForTokenClassification
from minibert.output.numbers import difference, percent
from minibert.report.results import (
    PrunedModel,
    RankedKeyphrases,
    Scores,
    read_keyphrases,
    read_prunings,
    read_scores,
)
from minibert.report.tables import Rows, score_rows

CONTROLS = (NO_ATTENTION, UNIFORM, "first candidates")  # of keyphrases, in the closing table
PAGERANK = "PageRank of all"  # among the controls of each model, though by its attention
SHOWN = ("F1@5", "F1@10", "F1@15", "AP")  # of keyphrases
SELECTIONS = {"gates": "chosen by gates", "order": "by an order", "random": "at random"}


@dataclass(frozen=True)
class RunModel:
    """The model of a run, or a smaller one that prune.py made from it."""

    title: str

    heads: int

    parameters: int

    score: Score
    """The main measure on test."""

    pruned: PrunedModel | None
    """None for the model of the run."""

    keyphrases: RankedKeyphrases | None
    """None before rank.py compare."""


def read_models(run: str | Path) -> list[RunModel]:
    """The model of a run, and those that prune.py made from it."""
    run = Path(run)
    scores = next(iter(read_scores(run).values()))
    measure = main_measure(scores)
    models = [_read_model(run, "dense", scores[measure], None)]

    prunings = read_prunings(run)
    pruned = {
        run / folder / name: model
        for folder, of_folder in prunings.items()
        for name, model in of_folder.items()
    }
    titles = [_title(model, [*pruned.values()], scores[measure]) for model in pruned.values()]
    for (folder, model), title in zip(pruned.items(), titles):
        if Counter(titles)[title] > 1:
            title += f" ({folder.parent.name})"
        models.append(_read_model(folder, title, model.test[measure], model))
    return models


def _title(pruned: PrunedModel, models: Sequence[PrunedModel], dense: Score) -> str:
    """With what tells the model from others with as many heads, and the number of documents where
    they are not those of the dense model's score."""
    title = f"{len(pruned.heads)} heads, {SELECTIONS[pruned.selection]}"

    as_large = [model for model in models if len(model.heads) == len(pruned.heads)]
    if pruned.weight_steps and any(not model.weight_steps for model in as_large):
        title += ", fine-tuning undone" if pruned.recovered is False else ", fine-tuned"
    if not _equal(pruned.dense[main_measure(pruned.dense)], dense):
        title += f" ({pruned.documents} documents)"
    return title


def _equal(one: Score, other: Score) -> bool:
    """Whether two scores of one model are of the same documents: another device rounds them
    otherwise."""
    return abs(one.value - other.value) < 1e-4


def _read_model(folder: Path, title: str, score: Score, pruned: PrunedModel | None) -> RunModel:
    config = BertConfig.load(folder / "config.json")
    with torch.device("meta"):  # shapes without values
        parameters = sum(p.numel() for p in BertForTokenClassification(config).parameters())
    heads = len(config.present_heads)
    return RunModel(title, heads, parameters, score, pruned, read_keyphrases(folder))


# Conclusions ------------------------------------------------------------------------------------


def tagger_answers(scores: Mapping[str, Scores]) -> list[str]:
    """Whether the tagger is better than the best baseline, if there is one."""
    (_, tagger), *baselines = scores.items()
    if not baselines:
        return []

    measure = main_measure(tagger)
    name, best = max(baselines, key=lambda named: named[1][measure].value)
    better = tagger[measure].low > best[measure].high
    verdict = (
        "The intervals do not overlap: the tagger is better"
        if better
        else "The tagger is not shown to be better: its interval is not above the other"
    )
    return [
        f"{measure} of the tagger on test: {percent(tagger[measure])} %. "
        f"The best baseline, {name}: {percent(best[measure])} %. {verdict}."
    ]


def pruning_answers(models: Sequence[RunModel], measure: str) -> list[str]:
    """What each smaller model loses, and whether its heads are better than random ones."""
    answers = []
    for model in models:
        if model.pruned:
            share = model.pruned.share
            answers.append(
                f"{model.title}: {measure} is {percent(share)} % of that of all {models[0].heads} "
                f"heads; {_beside_all(share)}."
            )

    for chosen, random in _control_pairs(models):
        assert chosen.pruned
        assert random.pruned
        change = _lead(chosen.pruned.resampled, random.pruned.resampled)
        answers.append(_control_answer(measure, chosen, random, change))
    return answers


def _beside_all(share: Score) -> str:
    if share.low <= 1 <= share.high:
        return "the interval contains 100 %"
    return f"the interval lies {'below' if share.high < 1 else 'above'} 100 %"


def _control_pairs(models: Sequence[RunModel]) -> list[tuple[RunModel, RunModel]]:
    """Pairs of a model whose heads were chosen, and its control: as many heads at random, after as
    many steps of training the weights, scored on the same documents."""
    chosen = [m for m in models if m.pruned and m.pruned.selection != "random"]
    random = [m for m in models if m.pruned and m.pruned.selection == "random"]
    return [(a, b) for a in chosen for b in random if _is_control(a.pruned, b.pruned)]


def _is_control(a: PrunedModel | None, b: PrunedModel | None) -> bool:
    assert a
    assert b
    measure = main_measure(a.dense)
    numbers = [(len(x.heads), x.weight_steps, x.documents) for x in (a, b)]
    return numbers[0] == numbers[1] and _equal(a.dense[measure], b.dense[measure])


def _control_answer(measure: str, chosen: RunModel, random: RunModel, change: Change) -> str:
    return (
        f"Control (one random draw): {measure} of {chosen.title}, is {difference(change)} that of "
        f"{random.title}; {_significance(change)}."
    )


def keyphrase_answers(models: Sequence[RunModel]) -> list[str]:
    """Whether the attention of each model's heads ranks keyphrases better than what uses none, and
    whether that of a smaller model's heads does as well as that of the dense one's."""
    answers = []
    ranked = [(model, model.keyphrases) for model in models if model.keyphrases]
    dense = models[0].keyphrases
    for model, keyphrases in ranked:
        heads = "all heads" if model is models[0] else "the heads left"
        parts = [
            f"{difference(keyphrases.above[way])} that {words}, "
            f"{_significance(keyphrases.above[way])} after correction"
            for way, words in ((NO_ATTENTION, NO_ATTENTION), (UNIFORM, f"with {UNIFORM}"))
        ]
        if dense and model.pruned:
            change = _lead(keyphrases.resampled, dense.resampled)
            parts.append(f"{difference(change)} that of the dense model, {_significance(change)}")
        answers.append(f"Attention of {heads} ({model.title}): F1@10 is {'; '.join(parts)}.")

    higher = [f"{m.title} ({_significance(k.above[PAGERANK])})" for m, k in ranked if _ahead(k)]
    if higher:
        names = "; ".join(higher)
        answers.append(
            f"PageRank over the same attention has a higher F1@10 for: {names}, after correction."
        )

    for chosen, random in _control_pairs(models):
        if chosen.keyphrases and random.keyphrases:
            change = _lead(chosen.keyphrases.resampled, random.keyphrases.resampled)
            answers.append(_control_answer("F1@10", chosen, random, change))
            if change.value <= 0 or not change.significant:
                answers[-1] += " The choice of heads is not shown to matter for this."
    return answers


def _ahead(keyphrases: RankedKeyphrases) -> bool:
    """Whether PageRank ranks better than the attention received of the same model."""
    return PAGERANK in keyphrases.above and keyphrases.above[PAGERANK].value < 0


def _lead(first: Sequence[float], second: Sequence[float]) -> Change:
    (change,) = intervals.leads({"first": np.array(first), "second": np.array(second)}).values()
    return change


def _significance(change: Change) -> str:
    return "significant" if change.significant else "not significant"


# Tables -----------------------------------------------------------------------------------------


def keyphrase_rows(models: Sequence[RunModel]) -> Rows:
    """How well the attention of each model's heads ranks keyphrases, received and as PageRank, and
    how well the controls do. No rows before rank.py compare."""
    systems: dict[str, Scores] = {}
    for model in models:
        if model.keyphrases:
            systems[model.title] = model.keyphrases.scores
            systems[f"{model.title}, PageRank"] = model.keyphrases.controls[PAGERANK]
    systems |= _controls(models)
    rows = {way: {n: scores[n] for n in SHOWN if n in scores} for way, scores in systems.items()}
    return score_rows(rows) if rows else []


def _controls(models: Sequence[RunModel]) -> dict[str, Scores]:
    """The controls that use no attention, which are the same for all models."""
    controls = next((model.keyphrases.controls for model in models if model.keyphrases), {})
    return {name: scores for name, scores in controls.items() if name != PAGERANK}


def closing_rows(models: Sequence[RunModel], scores: Mapping[str, Scores]) -> Rows:
    """One row for each model, then one for each control: the baselines of `scores` (see
    `read_scores`) and ways to rank keyphrases. Columns without a value are left out. No rows where
    train.py alone was run: its scores are all."""
    if len(models) == 1 and not models[0].keyphrases:
        return []
    (_, tagger), *baselines = scores.items()
    measure = main_measure(tagger)
    header = ["heads", "parameters", "forward pass", f"{measure}, %", f"of dense {measure}, %"]
    rows = [["", *header, "F1@10 of keyphrases, %"]]

    for model in models:
        speed = model.pruned.costs["pruned"].speedup if model.pruned else 1.0
        size = [str(model.heads), f"{model.parameters / 1e6:.1f} M", f"{speed:.2f}x"]
        f1 = percent(model.keyphrases.scores["F1@10"]) if model.keyphrases else "-"
        share = percent(model.pruned.share) if model.pruned else "-"
        rows.append([model.title, *size, percent(model.score), share, f1])
    for name, of_system in baselines:
        rows.append([f"control: {name}", "-", "-", "-", percent(of_system[measure]), "-", "-"])
    for name, of_way in _controls(models).items():
        if name in CONTROLS:
            rows.append([f"control: {name}", *"-----", percent(of_way["F1@10"])])

    columns = [column for column in zip(*rows) if set(column[1:]) != {"-"}]
    return [list(row) for row in zip(*columns)]
