"""The experiments of the study: each one computes a JSON object and writes it to a file of its own.

python -m study.experiments NAME --data DIR runs one of them, as study/study.py does for all.
"""

import json
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

import ablate
import prune
import rank
import train
from ablate import AblateSettings
from minibert.config import BertConfig, Head, head_name, parse_head
from minibert.data.documents import OUTSIDE
from minibert.errors import check
from minibert.evaluation import intervals, metrics
from minibert.evaluation.metrics import Array
from minibert.evaluation.tagger import Predictions, in_keyphrase, measures, predict
from minibert.files import read_object, to_json, write_json
from minibert.gates import HardConcreteGates
from minibert.heads import ablation
from minibert.heads.ablation import masks_without
from minibert.heads.importance import attention_profile, by_value, head_gradients
from minibert.model import Bert, BertForTokenClassification
from minibert.pruning import without_heads
from minibert.runtime import cli
from minibert.runtime.device import Precision, choose_device
from minibert.runtime.folder import only_writer
from minibert.text.tokenizer import Tokenizer
from minibert.training.settings import TrainSettings
from minibert.training.trained import TrainedTagger, load_run, load_tagger
from minibert.weights import save_pretrained
from prune import PruneSettings
from study.folder import Study
from study.plan import (
    PARENT,
    RECOVERED,
    SHARES,
    TASKS,
    Experiment,
    Settings,
    budgets,
    experiments,
)

RESAMPLES = 300  # of documents; the same ones in all experiments, for intervals of differences
DIGITS = 5
PRECISION: Precision = "float32"  # on a GPU too


# Taggers ----------------------------------------------------------------------------------------


def train_tagger(study: Study, experiment: Experiment) -> dict[str, Any]:
    """{"documents": {split: their number}, "scores": {system: {measure: Score}}, "best_epoch": ...}
    of the tagger."""
    return trained(study, experiment, study.encoder(experiment.encoder), study.tagger(experiment))


def train_from_scratch(study: Study, experiment: Experiment) -> dict[str, Any]:
    """{"models": {heads kept: {"test": (1 + R,) main score}}} of a tagger of the size that gates
    leave with a sixth of the heads. All of its weights are random at the start."""
    run = study.tagger(experiment)
    dense, keep = load_tagger(run), budgets(experiment.encoder)[SHARES.index(1 / 6)]
    order = order_by(study, experiment, "gates")
    config = without_heads(dense, order[:-keep]).config

    start, out = (run.with_name(f"{run.name}-{name}") for name in ("random-weights", "scratch"))
    torch.manual_seed(experiment.seed)
    save_pretrained(Bert(config), start)
    Tokenizer.load(run, config.vocab_size).save(start)
    trained(study, experiment, str(start), out)
    return {"models": {keep: {"test": scores_on_test(load(out))}}}


def trained(study: Study, experiment: Experiment, model: str, out: Path) -> dict[str, Any]:
    task = TASKS[experiment.subject]
    settings = TrainSettings(
        data=str(study.task_data(experiment.encoder, experiment.subject)),
        out=out,
        model=model,
        labels=task.labels,
        epochs=task.epochs,
        learning_rate=task.learning_rate,
        precision=PRECISION,
        seed=experiment.seed,
        show=0,
    )
    train.train(settings)
    results = read_object(out / "results.json")
    documents = {name: len(split.documents) for name, split in load_run(out).splits.items()}
    return {
        "documents": documents,
        "scores": results["test"],
        "best_epoch": results.get("best_epoch"),
    }


def load(run: Path) -> TrainedTagger:
    """A finished run, its model on the GPU if there is one."""
    tagger = load_run(run)
    tagger.model.to(choose_device("auto"))
    return tagger


# Which heads matter? ----------------------------------------------------------------------------


def measure_importance(study: Study, experiment: Experiment) -> dict[str, dict[str, float]]:
    """{"gradient": {head: importance on dev}, "attention": {head: AP on dev of the words in
    keyphrases, ranked by the attention they receive}}."""
    tagger = load(study.tagger(experiment))
    model, dev = tagger.model, tagger.splits["dev"]
    gradients = np.abs(head_gradients(model, dev, progress=tqdm)).mean(0)
    result = {"gradient": by_head(gradients, model.config.present_heads)}

    names = model.config.labels
    if OUTSIDE in names:
        profile = attention_profile(model, dev, in_keyphrase(dev.targets, names), tqdm)
        result["attention"] = by_head(profile["AP"], model.config.present_heads)
    return result


def by_head(values: Array, heads: Sequence[Head]) -> dict[str, float]:
    return {head_name(head): float(values[head]) for head in heads}


def mask_single_heads(study: Study, experiment: Experiment) -> dict[str, Any]:
    """{split: {head: Change of the loss when it is masked}}; on test only for the heads that are
    significant on dev. `way`: zero or mean, which replaces the context of the head."""
    ablation: Literal["zero", "mean"] = "zero" if experiment.way == "zero" else "mean"
    masked = ablate.Study(AblateSettings(run=study.tagger(experiment), ablation=ablation))
    result = {}
    for split in ("dev", "test"):
        effects = masked.single(split, tqdm)
        masked.done[f"single-{split}"] = json.loads(to_json(effects))  # as ablate.py reads it
        result[split] = {head: changes["loss"] for head, changes in effects["heads"].items()}
    return result


def mask_pairs(study: Study, experiment: Experiment) -> dict[str, Any]:
    """Whether heads stand in for each other: the loss per word on dev of masking two of the least
    important heads, and the sum of the losses of masking each.

    {"heads": [...], "sum": Score of the mean over pairs, "both": the same when both are masked,
    "difference": Change from the one to the other, "pairs": {"L0H1 L3H7": Change from the sum}}.
    """
    tagger = load(study.tagger(experiment))
    dev, config = tagger.splits["dev"], tagger.model.config
    heads = order_by(study, experiment, "gradient")[: study.size.paired]
    pairs = list(combinations(range(len(heads)), 2))

    masked = [[head] for head in heads] + [[heads[a], heads[b]] for a, b in pairs]
    predictions = ablation.ablate(tagger.model, dev, masks_without(config, masked), progress=tqdm)
    draws = intervals.resamples(len(dev.documents), RESAMPLES)
    words = draws @ [len(target) for target in dev.targets]
    losses = draws @ predictions.loss.T / words[:, None]  # (1 + R, 1 + V)
    added = losses[:, 1:] - losses[:, :1]

    single, both = added[:, : len(heads)], added[:, len(heads) :]
    sums = np.stack([single[:, a] + single[:, b] for a, b in pairs], axis=1)
    interactions = np.hstack([np.zeros((len(draws), 1)), both - sums])
    names = [f"{head_name(heads[a])} {head_name(heads[b])}" for a, b in pairs]
    return {
        "heads": [head_name(head) for head in heads],
        "sum": intervals.interval(sums.mean(1)),
        "both": intervals.interval(both.mean(1)),
        "difference": intervals.changes(np.stack([sums.mean(1), both.mean(1)], axis=1))[0],
        "pairs": dict(zip(names, intervals.changes(interactions))),
    }


# Which heads can go? ----------------------------------------------------------------------------


def order_by(study: Study, experiment: Experiment, way: str) -> list[Head]:
    """Heads from the least to the most important for the tagger of an experiment: by gates, by
    gradients, or by masking each of them (zero, mean)."""
    if way == "gates":
        return [parse_head(name) for name in study.of("gates", experiment)["order"]]
    if way == "gradient":
        values = study.of("importance", experiment)["gradient"]
    else:
        effects = study.of("single", experiment, way)["dev"]
        values = {head: change["value"] for head, change in effects.items()}
    return sorted(map(parse_head, values), key=lambda head: (values[head_name(head)], head))


def random_order(config: BertConfig, draw: int) -> list[Head]:
    heads = list(config.present_heads)
    random.Random(f"draw {draw}").shuffle(heads)
    return heads


def draws_of(study: Study, experiment: Experiment) -> range:
    """The numbers of the random draws of an experiment: the seeds divide them among themselves."""
    return range(experiment.seed, study.size.draws, study.size.seeds[experiment.encoder])


def mask_in_order(study: Study, experiment: Experiment) -> dict[str, Any]:
    """The main score on test when only some heads are kept, weights unchanged. `way`: an order made
    on dev, by gradients or by masking each head (zero, mean); or random.

    {"dense": (1 + R,) under each resample, "models": {heads kept: {"test": (1 + R,)}}}; of random
    heads without resamples {"draws": {draw: {heads kept: value}}}.
    """
    tagger = load(study.tagger(experiment))
    keep = budgets(experiment.encoder)
    if experiment.way == "random":
        return {
            "draws": {
                draw: random_scores(tagger, draw, keep) for draw in draws_of(study, experiment)
            }
        }

    order = order_by(study, experiment, experiment.way)
    dense, *scores = masked_scores(tagger, order, keep, RESAMPLES)
    models = {number: {"test": rounded(values)} for number, values in zip(keep, scores)}
    return {"dense": rounded(dense), "models": models}


def random_scores(tagger: TrainedTagger, draw: int, keep: Sequence[int]) -> dict[int, float]:
    """{heads kept: main score on test} of random heads."""
    order = random_order(tagger.model.config, draw)
    _, *scores = masked_scores(tagger, order, keep, 0)
    return {number: round(float(values[0]), DIGITS) for number, values in zip(keep, scores)}


def masked_scores(
    tagger: TrainedTagger, order: Sequence[Head], keep: Sequence[int], count: int
) -> Array:
    """(1 + len(keep), 1 + count) the main score on test of the dense model, and with so many heads
    kept, under `count` resamples."""
    borders = [0, *(len(order) - k for k in keep)]
    steps = [order[start:end] for start, end in pairwise(borders)]
    test = tagger.splits["test"]
    predictions = ablation.cumulative(tagger.model, test, steps, progress=tqdm)
    return main_scores(predictions, tagger, count).T


def main_scores(predictions: Predictions, tagger: TrainedTagger, count: int) -> Array:
    """(1 + count, V) the main score on test."""
    test = tagger.splits["test"]
    draws = intervals.resamples(len(test.documents), RESAMPLES)[: 1 + count]
    values = measures(predictions, test, tagger.model.config.labels, tagger.threshold, draws)
    return values[metrics.main_measure(values)]


def rounded(values: Array) -> list[float]:
    return [round(float(value), DIGITS) for value in values]


def prune_settings(
    study: Study, experiment: Experiment, shares: tuple[float, ...], batch_size: int, **options: Any
) -> PruneSettings:
    """The settings of prune.py for the tagger of an experiment: keep these shares of its heads."""
    return PruneSettings(
        run=study.tagger(experiment),
        keep=tuple(budgets(experiment.encoder, shares)),
        batch_size=batch_size,
        precision=PRECISION,
        seed=experiment.seed,
        **options,
    )


def train_gates(study: Study, experiment: Experiment) -> dict[str, Any]:
    """{"models": {heads kept: see `scored`}, "order": all heads, those first that the fewest models
    keep, and of these the one with the lowest gate in the smallest model}."""
    batch_size = TASKS[experiment.subject].batch_size
    settings = prune_settings(study, experiment, SHARES, batch_size, steps=study.size.steps)
    dense = load(settings.run)
    gates = HardConcreteGates(dense.model.config).to(dense.model.classifier.weight.device)
    models = {}
    for keep in settings.keep:
        smaller, record = prune.make_smaller(dense.model, gates, dense, [], keep, settings)
        gates.warm_start(record.log_alpha)
        models[keep] = scored(smaller, record, dense)

    heads = dense.model.config.present_heads
    kept_by = Counter(head for model in models.values() for head in model["heads"])
    by_gate = by_value(np.array(record.log_alpha), heads)
    order = sorted(by_gate, key=lambda head: kept_by[head_name(head)])
    return {"models": models, "order": [head_name(head) for head in order]}


def fine_tune(study: Study, experiment: Experiment) -> dict[str, Any]:
    """{"models": {heads kept: see `scored`}}, each smaller model fine-tuned from the one before.
    `way`: what chose the heads of the dense tagger."""
    all_steps, learning_rate, batch_size = study.size.recover[experiment.subject]
    settings = prune_settings(study, experiment, RECOVERED, batch_size, learning_rate=learning_rate)
    dense = load(settings.run)
    if experiment.way == "random":
        order = random_order(dense.model.config, experiment.seed)
    else:
        order = order_by(study, experiment, experiment.way)

    model, models, steps_done = dense.model, {}, 0
    gates = HardConcreteGates(model.config)  # unused: there is an order
    for keep, steps in zip(settings.keep, all_steps, strict=True):
        left = [head for head in order if head in model.config.present_heads]
        with_steps = replace(settings, recover=steps)
        model, record = prune.make_smaller(model, gates, dense, left, keep, with_steps)
        steps_done += record.weight_steps
        models[keep] = scored(model, record, dense) | {"steps": steps_done}
    return {"models": models}


def scores_on_test(tagger: TrainedTagger) -> list[float]:
    """(1 + R,) the main score on test."""
    predictions = predict(tagger.model.eval(), tagger.splits["test"])
    return rounded(main_scores(predictions, tagger, RESAMPLES)[:, 0])


def scored(
    model: BertForTokenClassification, record: prune.SelectionRecord, dense: TrainedTagger
) -> dict[str, Any]:
    """{"heads": [...], "recovered": whether fine-tuning raised the score on dev, "test": (1 + R,)
    main score}"""
    return {
        "heads": record.heads,
        "recovered": record.recovered,
        "test": scores_on_test(dense._replace(model=model)),
    }


# What are the heads good for? -------------------------------------------------------------------


def fit_score(study: Study, experiment: Experiment) -> dict[str, Any]:
    """The record of rank.py fit on dev of all collections of a kind of keyphrases."""
    names = [name for name, task in TASKS.items() if task.kind == experiment.subject]
    dev = [study.documents(experiment, "dev", name) for name in names]
    record = call_rank(study, experiment, "fit", *dev)
    counts = dict(zip(names, record["data"].values()))
    return record | {"data": counts, "model": experiment.encoder}  # without paths of this machine


def rank_keyphrases(study: Study, experiment: Experiment) -> dict[str, Any]:
    """The record of rank.py evaluate on test, with the score that `fit_score` fitted."""
    test = study.documents(experiment, "test")
    heads = rank_file(study, str(experiment.needs))
    return call_rank(study, experiment, "evaluate", test, "--heads", heads)


def rank_by_tagger(study: Study, experiment: Experiment) -> dict[str, Any]:
    """The same with the probabilities of the trained tagger."""
    candidates = TASKS[experiment.subject].candidates
    options = ["--weights", "tagger", "--candidates", candidates]
    test = study.documents(experiment, "test")
    model = str(study.tagger(experiment))
    return call_rank(study, experiment, "evaluate", test, *options, model=model)


def search(study: Study, experiment: Experiment) -> dict[str, Any]:
    """The record of rank.py search by the heads that `fit_score` chose."""
    heads = rank_file(study, str(experiment.needs))
    folder = study.collection(experiment.subject)
    return call_rank(study, experiment, "search", folder, "--heads", heads)


def call_rank(
    study: Study, experiment: Experiment, *words: object, model: str = ""
) -> dict[str, Any]:
    model = model or study.encoder(experiment.encoder)
    out = study.folder / "ranked" / f"{experiment.name}.json"
    options = [*words, "--model", model, "--out", out]
    if code := rank.main([str(option) for option in options]):
        sys.exit(code)  # rank.py has said what is wrong
    return read_object(out)


def rank_file(study: Study, name: str) -> Path:
    """A file for --heads of rank.py, of the result of `fit_score`."""
    file = study.folder / "ranked" / f"{name}.json"
    result = study.results(name)
    write_json(file, result | {"model": study.encoder(result["model"])})
    return file


KINDS: dict[str, Callable[[Study, Experiment], Any]] = {
    "tagger": train_tagger,
    "scratch": train_from_scratch,
    "importance": measure_importance,
    "single": mask_single_heads,
    "pairs": mask_pairs,
    "gates": train_gates,
    "recovered": fine_tune,
    "frozen": mask_in_order,
    "fit": fit_score,
    "ranked": rank_keyphrases,
    "marked": rank_by_tagger,
    "searched": search,
}


@dataclass(frozen=True)
class ExperimentSettings(Settings):
    """The command line of one experiment."""

    name: cli.Positional[str] = cli.MISSING
    """Of the experiment, such as gates-minilm-inspec-bio-0."""


def end_with(parent: int) -> None:
    """End this process when its parent has ended, however it did."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def run(settings: ExperimentSettings) -> None:
    if parent := os.environ.get(PARENT):
        threading.Thread(target=end_with, args=[int(parent)], daemon=True).start()
    study = Study(settings)
    planned = {e.name: e for e in experiments(study.size, study.encoders)}
    check(settings.name in planned, f"{settings.name}: no experiment; one of {', '.join(planned)}")
    experiment = planned[settings.name]
    with only_writer(study.file(experiment.name)):
        began = time.monotonic()
        result = KINDS[experiment.kind](study, experiment)
        # A tagger whose run folder is gone is trained again. Its record stays: other results came
        # from the first tagger.
        if not study.file(experiment.name).exists():
            study.write(experiment.name, (time.monotonic() - began) / 60, result)


main = partial(cli.run, run, ExperimentSettings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
