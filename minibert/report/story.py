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
from minibert.output.numbers import percent, points
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
SHOWN = ("F1@5", "F1@10", "F1@15", "AP")  # of keyphrases
SELECTIONS = {"gates": "chosen by gates", "order": "by an order", "random": "at random"}


@dataclass(frozen=True)
class Model:
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

    @property
    def share(self) -> Score:
        """The main measure, relative to that of the model of the run."""
        return self.pruned.share if self.pruned else Score(1.0, 1.0, 1.0)


def read_models(run: str | Path) -> list[Model]:
    """The model of a run, and those that prune.py made from it."""
    run = Path(run)
    scores = next(iter(read_scores(run).values()))
    measure = main_measure(scores)
    models = [_read_model(run, "dense", scores[measure], None)]

    prunings = read_prunings(run)
    paths = [(folder, name) for folder, of_folder in prunings.items() for name in of_folder]
    titles = [_title(prunings[folder][name]) for folder, name in paths]
    for (folder, name), title in zip(paths, titles):
        pruned = prunings[folder][name]
        if Counter(titles)[title] > 1:
            title += f" ({folder})"
        models.append(_read_model(run / folder / name, title, pruned.test[measure], pruned))
    return models


def _title(pruned: PrunedModel) -> str:
    return f"{len(pruned.heads)} heads, {SELECTIONS[pruned.selection]}"


def _read_model(folder: Path, title: str, score: Score, pruned: PrunedModel | None) -> Model:
    config = BertConfig.load(folder / "config.json")
    with torch.device("meta"):  # shapes without values
        parameters = sum(p.numel() for p in BertForTokenClassification(config).parameters())
    heads = len(config.present_heads)
    return Model(title, heads, parameters, score, pruned, read_keyphrases(folder))


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


def pruning_answers(models: Sequence[Model], measure: str) -> list[str]:
    """What each smaller model loses, and whether its heads are better than random ones."""
    answers = []
    for model in models[1:]:
        loss = model.share.high < 1 and "a significant loss"
        gain = model.share.low > 1 and "a significant gain"
        answers.append(
            f"{model.title}: {percent(model.share)} % of the {measure} of all {models[0].heads} "
            f"heads, {loss or gain or 'no significant change'}."
        )

    for chosen, random in _controlled(models):
        assert chosen.pruned
        assert random.pruned
        change = _lead(chosen.pruned.resampled, random.pruned.resampled)
        answers.append(f"Control: {measure} of {chosen.title}, less {random.title}: {change}.")
    return answers


def _controlled(models: Sequence[Model]) -> list[tuple[Model, Model]]:
    """Pairs of a model whose heads were chosen, and its control: as many heads at random, scored on
    the same documents."""
    return [
        (a, b)
        for a in models
        for b in models
        if a.pruned and b.pruned and a.pruned.selection != "random" == b.pruned.selection
        if a.heads == b.heads and a.pruned.dense == b.pruned.dense
    ]


def keyphrase_answers(models: Sequence[Model]) -> list[str]:
    """Whether the attention of each model's heads ranks keyphrases better than what uses none, and
    whether that of a smaller model's heads does as well as that of the dense one's."""
    answers = []
    dense = models[0].keyphrases
    for model in models:
        if keyphrases := model.keyphrases:
            changes = {name: _verdict(keyphrases.above[name]) for name in (NO_ATTENTION, UNIFORM)}
            if dense and model.pruned:
                changes["dense"] = _lead(keyphrases.resampled, dense.resampled)
            differences = "; ".join(f"less {name}: {change}" for name, change in changes.items())
            answers.append(f"{model.title}, {differences}.")

    for chosen, random in _controlled(models):
        if chosen.keyphrases and random.keyphrases:
            change = _lead(chosen.keyphrases.resampled, random.keyphrases.resampled)
            answers.append(f"Control: {chosen.title}, less {random.title}: {change}.")
    return answers


def _lead(first: Sequence[float], second: Sequence[float]) -> str:
    (change,) = intervals.leads({"first": np.array(first), "second": np.array(second)}).values()
    return _verdict(change)


def _verdict(change: Change) -> str:
    return f"{points(change)}, {'significant' if change.significant else 'not significant'}"


# Tables -----------------------------------------------------------------------------------------


def keyphrase_rows(models: Sequence[Model]) -> Rows:
    """How well the attention of each model's heads ranks keyphrases, and how well the controls
    do. No rows before rank.py compare."""
    systems = {m.title: m.keyphrases.scores for m in models if m.keyphrases} | _controls(models)
    rows = {way: {n: scores[n] for n in SHOWN if n in scores} for way, scores in systems.items()}
    return score_rows(rows) if rows else []


def _controls(models: Sequence[Model]) -> dict[str, Scores]:
    """The controls of the first model with keyphrases: they are nearly the same for all."""
    return next((model.keyphrases.controls for model in models if model.keyphrases), {})


def closing_rows(models: Sequence[Model], scores: Mapping[str, Scores]) -> Rows:
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
        share = percent(model.share) if model.pruned else "-"
        rows.append([model.title, *size, percent(model.score), share, f1])
    for name, of_system in baselines:
        rows.append([f"control: {name}", "-", "-", "-", percent(of_system[measure]), "-", "-"])
    for name, of_way in _controls(models).items():
        if name in CONTROLS:
            rows.append([f"control: {name}", *"-----", percent(of_way["F1@10"])])

    columns = [column for column in zip(*rows) if set(column[1:]) != {"-"}]
    return [list(row) for row in zip(*columns)]
