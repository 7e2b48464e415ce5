"""Remove attention heads of a tagger for good, and compare the smaller model with the dense one.

Gates choose the heads by training, or an order of ablate.py, or chance. Each number of --keep, or
each weight of --l0, makes one smaller model in a folder of its own under --out. Each gate training
starts from the gates of the number before. With --joint or --recover, which change the weights, the
smaller model itself is pruned further. Give falling numbers for --keep and rising weights for --l0.
"""

import random
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from minibert.config import BertConfig, Head, head_name, parse_head
from minibert.data.batches import Split, Window
from minibert.errors import InputError
from minibert.evaluation import intervals, metrics
from minibert.evaluation.duration import GATE_STEP, STEP, describe_seconds, seconds_per_pass
from minibert.evaluation.metrics import Array
from minibert.evaluation.tagger import choose_threshold, dev_score, measures, predict
from minibert.export import to_onnx
from minibert.files import read_json, sha256, write_json, write_text
from minibert.gates import HardConcreteGates
from minibert.heads.ablation import ATTENTION, masks_without
from minibert.heads.costs import compare_costs
from minibert.heads.gate_training import Budget, GateProgress, Goal, Penalty, learn_gates
from minibert.model import BertForTokenClassification
from minibert.pruning import at_full_shape, prune
from minibert.report import figures, page, tables
from minibert.report.results import read_pruned
from minibert.runtime import cli
from minibert.runtime.device import autocast, choose_device, choose_precision, slow_precision
from minibert.runtime.folder import inherit, open_run
from minibert.runtime.peak import MIB
from minibert.text.tokenizer import Tokenizer
from minibert.training.loop import fine_tune
from minibert.training.memory import choose_plan, stepping_down
from minibert.training.settings import StepSettings
from minibert.training.trained import TrainedTagger, load_run, load_tagger
from minibert.weights import save_pretrained

Selection = Literal["gates", "order", "random"]

# `compare_costs` takes as long as so many forward passes of the dense model: of two models 8 rounds
# of all and of the attention alone, and two that count operations and memory.
COST = 2 * (8 * (1 + ATTENTION) + 2)
OVERHEAD = 4  # seconds, about: the figures, the page, and libraries that are loaded late


@dataclass(frozen=True, kw_only=True)
class PruneSettings(StepSettings):
    """The command line of prune.py."""

    run: Path
    """Run folder of train.py, or a folder that prune.py made, to prune it further."""

    out: Path | None = None
    """Folder for the results; by default a folder in the run folder, named after these settings."""

    keep: tuple[int, ...] = ()
    """Exact numbers of heads to keep. Gates choose them, unless --order or --random is given."""

    l0: tuple[float, ...] = ()
    """Prices of an open head, in loss per word: gates choose how many heads to keep. Try 0.002 to
    0.02."""

    order: Path | None = None
    """order-*.json of ablate.py: the least important heads are removed first."""

    random: bool = False
    """Keep random heads: the control."""

    joint: bool = False
    """Train the weights together with the gates. Otherwise the weights stay fixed, which needs the
    least memory."""

    recover: int = 0
    """Optimizer steps of fine-tuning after pruning, on the labels and on the dense model's
    predictions and last hidden states. Undone where the score on dev does not rise."""

    steps: int = 200
    """Maximum number of optimizer steps of the gates."""

    batch_size: int = 4
    """Windows in one optimizer step."""

    learning_rate: float = 1e-4
    """For the weights, with --joint and --recover."""

    documents: int = 0
    """Measure on the first so many documents of dev and of test, to save time; 0: on all."""

    export: bool = False
    """Also write each model at full shape, removed heads as zeros, for transformers."""

    onnx: bool = False
    """Also write each model as model.onnx, without its removed heads, for ONNX Runtime."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.keep) == bool(self.l0):
            raise InputError("give either --keep or --l0")
        if (self.l0 and (self.order or self.random)) or (self.order and self.random):
            raise InputError("--order and --random are two ways for --keep; give one of them")
        if self.joint and (self.order or self.random):
            raise InputError("--joint trains weights with gates; --order and --random use no gates")
        if list(self.keep) != sorted(set(self.keep), reverse=True):
            raise InputError("--keep must fall from one number to the next")
        if list(self.l0) != sorted(set(self.l0)) or not all(0 < w < float("inf") for w in self.l0):
            raise InputError("--l0 must be above 0 and rise from one weight to the next")
        if self.steps < 1 or self.documents < 0 or self.recover < 0:
            raise InputError("--steps must be at least 1, --documents and --recover at least 0")

    @property
    def selection(self) -> Selection:
        if self.random:
            return "random"
        return "order" if self.order else "gates"

    @property
    def folder(self) -> Path:
        """The folder for the results."""
        if self.out:
            return self.out
        if self.order:
            name = f"prune-{self.order.stem}"
        elif self.random:
            name = f"prune-random-{self.seed}"
        else:
            name = "prune-keep" if self.keep else "prune-l0"
        if self.joint:
            name += "-joint"
        if self.recover:
            name += "-recover"
        return self.run / name

    @property
    def targets(self) -> dict[Path, float]:
        """{folder of a smaller model: its number of heads, or its price of a head}"""
        option = "keep" if self.keep else "l0"
        return {self.folder / f"{option}-{x:g}": x for x in self.keep or self.l0}


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, PruneSettings, __doc__, argv)


def run(settings: PruneSettings) -> None:
    cli.require("report")
    if settings.onnx:
        cli.require("onnx")
    dense = load_run(settings.run)
    device = choose_device(settings.device)
    dense.model.to(device)
    dense = dense.first_documents_only(settings.documents)
    print(dense.describe())

    order = removal_order(settings, dense.model.config)
    precision = choose_precision(settings.precision, device, settings.folder)
    settings = replace(settings, precision=precision)
    inputs = {"model.safetensors": sha256(settings.run / "model.safetensors")}
    if settings.order:
        inputs["order"] = sha256(settings.order)

    with open_run(settings.folder, settings, inputs, device=device):
        make_models(settings, dense, order)
        show(settings)
        page.update_report(settings.run, settings.folder)


def removal_order(settings: PruneSettings, config: BertConfig) -> list[Head]:
    """All heads of the model, in the order of their removal; empty if gates choose. Raises
    InputError if --order or --keep does not fit the model."""
    heads = config.present_heads
    if any(not 0 <= keep < len(heads) for keep in settings.keep):
        raise InputError(f"--keep: the model has {len(heads)} heads; keep 0 to {len(heads) - 1}")
    if settings.random:
        shuffled = list(heads)
        random.Random(settings.seed).shuffle(shuffled)
        return shuffled
    if not settings.order:
        return []

    try:
        order = [parse_head(name) for name in read_json(settings.order)]
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{settings.order}: not a list of heads, such as L3H7") from None
    if sorted(order) != heads:
        raise InputError(f"{settings.order}: does not rank the {len(heads)} heads of this model")
    return order


def make_models(settings: PruneSettings, dense: TrainedTagger, order: Sequence[Head]) -> None:
    """Make the smaller model of each target, unless its folder holds it already."""
    device = dense.model.classifier.weight.device
    settings = plan_memory(settings, dense)
    if line := announce(settings, dense):
        print(line, flush=True)
    model, gates = dense.model, HardConcreteGates(dense.model.config).to(device)
    dense_scores, weight_steps = None, 0

    for folder, target in settings.targets.items():
        results = folder / "results.json"
        if not results.exists():
            dense_scores = dense_scores or resampled_scores(dense.model, dense.splits)
            attempt = partial(make_smaller, model, gates, dense, order, target)
            smaller, record = stepping_down(settings, attempt)
            record = replace(record, weight_steps=weight_steps + record.weight_steps)
            save(smaller, settings, folder)
            write_json(results, asdict(record) | compare(dense, smaller, dense_scores))
        export(settings, folder)

        # The next target starts from the files, so that a run that was killed gives the same.
        weight_steps = read_pruned(results).weight_steps
        if settings.joint or settings.recover:
            model = load_tagger(folder).to(device)
            gates = HardConcreteGates(model.config).to(device)
        else:
            gates.warm_start(read_json(results)["log_alpha"])


def announce(settings: PruneSettings, dense: TrainedTagger) -> str:
    """How long the smaller models that are missing will take, at most; "" if none is."""
    left = [path for path in settings.targets if not (path / "results.json").exists()]
    if not left:
        return ""

    with autocast(settings.precision, dense.model.classifier.weight.device):
        train, dev, test = (
            seconds_per_pass(dense.model.eval(), dense.splits[name].windows, settings.tokens)
            for name in ("train", "dev", "test")
        )

    # Of each model: what it costs, beside the dense one, and its scores.
    windows = dense.splits["dev"].windows
    pieces = [sum(len(w.input_ids) for w in part) for part in (longest_windows(windows), windows)]
    scores = dev + test
    of_a_model = scores + COST * dev * pieces[0] / pieces[1]

    parts = [f"smaller models to make: {len(left)}"]
    passes = 0.0  # over the windows of one step
    recompute = settings.plan == "layerwise"  # one more pass
    if settings.selection == "gates":
        parts.append(f"at most {settings.steps} steps of gates each")
        passes += settings.steps * ((STEP if settings.joint else GATE_STEP) + recompute)
    if settings.recover:
        parts.append(f"{settings.recover} steps of fine-tuning each")
        passes += settings.recover * (STEP + recompute + 1)  # 1: the dense model, the teacher
        of_a_model += 2 * dev  # the score before and after

    of_a_step = train * settings.batch_size / len(dense.splits["train"].windows)
    seconds = OVERHEAD + scores + len(left) * (passes * of_a_step + of_a_model)
    return f"{', '.join(parts)}; {describe_seconds(seconds)}"


def plan_memory(settings: PruneSettings, dense: TrainedTagger) -> PruneSettings:
    """The settings with the memory plan that fits."""
    device = dense.model.classifier.weight.device
    trains = settings.joint or settings.recover > 0
    size = sum(parameter.nbytes for parameter in dense.model.parameters()) / MIB
    settings, reason = choose_plan(
        dense.model.config,
        settings,
        dense.splits["train"].windows,
        device,
        frozen=not trains,
        gates=settings.joint or not settings.recover,
        other_mib=size if trains else 0.0,  # the dense model, to compare with
    )
    print(f"plan {settings.plan}: {reason}")
    if warning := slow_precision(settings.precision, device):
        print(warning, file=sys.stderr)
    return settings


@dataclass(frozen=True)
class SelectionRecord:
    """How the heads of a smaller model were chosen: a part of its results.json."""

    selection: Selection

    seed: int

    heads: list[str]
    """The heads that the model has, by original index, such as L3H7."""

    gates: list[GateProgress]
    """After each step of gate training; empty for an order and for random heads."""

    log_alpha: list[list[float]]
    """(layers, heads) of the gates at the end."""

    recovered: bool | None
    """Whether fine-tuning raised the score on dev; None without --recover."""

    weight_steps: int
    """Optimizer steps on the weights, by --joint and --recover, up to this model: of the targets
    before it too."""


class Smaller(NamedTuple):
    model: BertForTokenClassification
    record: SelectionRecord


def make_smaller(
    model: BertForTokenClassification,
    gates: HardConcreteGates,
    dense: TrainedTagger,
    order: Sequence[Head],
    target: float,
    settings: PruneSettings,
) -> Smaller:
    """Choose heads, prune, fine-tune. `model` and `gates`, where this starts, stay as they are."""
    gates = deepcopy(gates)
    progress: list[GateProgress] = []
    if settings.joint:
        model = deepcopy(model)  # its weights are trained with the gates

    if order:
        removed = order[: len(order) - int(target)]
        head_mask = masks_without(model.config, [removed])[0]
    else:
        train = dense.splits["train"]
        head_mask, progress = learned_mask(model, gates, train, target, settings)

    smaller = prune(model.eval(), head_mask)
    recovered = recover(smaller, dense, settings) if settings.recover else None

    record = SelectionRecord(
        selection=settings.selection,
        seed=settings.seed,
        heads=[head_name(head) for head in smaller.config.present_heads],
        gates=progress,
        log_alpha=gates.log_alpha.tolist(),
        recovered=recovered,
        weight_steps=settings.recover + (len(progress) if settings.joint else 0),
    )
    return Smaller(smaller.eval(), record)


def learned_mask(
    model: BertForTokenClassification,
    gates: HardConcreteGates,
    train: Split,
    target: float,
    settings: PruneSettings,
) -> tuple[Tensor, list[GateProgress]]:
    """Train `gates` in place, and with --joint the weights too. Returns the final head mask
    (layers, heads) and the progress after each step."""
    goal: Goal = Penalty(target)
    if settings.keep:
        goal = Budget(int(target), gates.expected())
    model.requires_grad_(settings.joint).train(settings.joint)

    progress = []
    with tqdm(desc=f"gates for {target:g}", total=settings.steps, disable=None) as bar:
        for state in learn_gates(model, train, gates, goal, settings, settings.steps):
            progress.append(state)
            bar.set_postfix({name: f"{value:.4g}" for name, value in asdict(state).items()})
            bar.update()
    return goal.head_mask(gates), progress


def recover(
    model: BertForTokenClassification, dense: TrainedTagger, settings: PruneSettings
) -> bool:
    """Fine-tune `model` in place, with the dense model as teacher. Returns whether the score on dev
    rose; if not, the weights are restored."""
    train, dev = dense.splits["train"], dense.splits["dev"]
    weights = {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
    score = dev_score(model.eval(), dev, settings.tokens)

    steps = settings.recover
    model.requires_grad_(True)
    losses = fine_tune(model, train, settings, steps, teacher=dense.model.eval())
    for _ in tqdm(losses, "recover", steps, disable=None):
        pass

    better = dev_score(model.eval(), dev, settings.tokens) > score
    if not better:
        model.load_state_dict(weights)
    return better


def save(model: BertForTokenClassification, settings: PruneSettings, folder: Path) -> None:
    """Write the model as a run folder, with the record of the run that was pruned."""
    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        raise InputError("the weights are no longer finite: try a lower --learning-rate")
    inherit(settings.run, folder, settings)
    Tokenizer.load(settings.run, model.config.vocab_size).save(folder)
    save_pretrained(model, folder)


def export(settings: PruneSettings, folder: Path) -> None:
    """Write the further files of a finished model that the settings ask for, if missing."""
    full_shape, onnx = folder / "full-shape", folder / "model.onnx"
    if settings.export and not (full_shape / "model.safetensors").exists():
        model = load_tagger(folder)
        Tokenizer.load(folder, model.config.vocab_size).save(full_shape)
        save_pretrained(at_full_shape(model), full_shape)
    if settings.onnx and not onnx.exists():
        to_onnx(load_tagger(folder), onnx)


def show(settings: PruneSettings) -> None:
    """Print and write the table of all smaller models, and draw the training of their gates."""
    models = {path.name: read_pruned(path / "results.json") for path in settings.targets}
    table = tables.as_text(tables.pruning_rows(models))
    print(f"{table}\n\nThe models are in {settings.folder}")
    write_text(settings.folder / "table.txt", table + "\n")
    if settings.selection == "gates":
        figures.draw_gates(settings.folder / "gates.png", models)


class ResampledScores(NamedTuple):
    """Every measure of one model under every resample of the documents: arrays (1 + R,)."""

    threshold: float | None  # chosen on dev
    dev: dict[str, Array]
    test: dict[str, Array]


def resampled_scores(
    model: BertForTokenClassification, splits: dict[str, Split]
) -> ResampledScores:
    names = model.config.labels
    predictions = {name: predict(model.eval(), splits[name]) for name in ("dev", "test")}
    threshold = choose_threshold(predictions["dev"], splits["dev"], names)

    scores = {}
    for name in ("dev", "test"):
        split = splits[name]
        draws = intervals.resamples(len(split.documents))  # as many as train.py
        arrays = measures(predictions[name], split, names, threshold, draws)
        scores[name] = {measure: array[:, 0] for measure, array in arrays.items()}
    return ResampledScores(threshold, scores["dev"], scores["test"])


def compare(
    dense: TrainedTagger, smaller: BertForTokenClassification, dense_scores: ResampledScores
) -> dict[str, Any]:
    """The scores of the smaller model, their ratio to the dense model's, and the cost of both: the
    other part of results.json."""
    scores = resampled_scores(smaller, dense.splits)
    longest = longest_windows(dense.splits["dev"].windows)
    main = scores.test[metrics.main_measure(scores.test)]
    main_of_dense = dense_scores.test[metrics.main_measure(scores.test)]
    return {
        "documents": len(dense.splits["test"].documents),
        "threshold": scores.threshold,
        "dev": {name: intervals.interval(values) for name, values in scores.dev.items()},
        "test": {name: intervals.interval(values) for name, values in scores.test.items()},
        "dense": {name: intervals.interval(values) for name, values in dense_scores.test.items()},
        "share": intervals.interval(main / main_of_dense),
        "resampled": main.tolist(),
        "costs": compare_costs({"dense": dense.model, "pruned": smaller}, longest),
    }


def longest_windows(windows: Sequence[Window]) -> list[Window]:
    """Those that `compare` measures the cost of a forward pass on."""
    return sorted(windows, key=lambda window: -len(window.input_ids))[:8]


if __name__ == "__main__":
    sys.exit(main())
