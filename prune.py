"""Remove heads of a tagger for good: learned, by a ranking, or at random; check, fine-tune, report.

Each number of --keep, or each weight of --l0, makes one smaller model, in a folder of its own under
--out. Gates go on from where the one before left them; with --joint or --recover, which change the
weights, the smaller model itself is pruned further. Give them falling (--keep) or rising (--l0).
"""

import random
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from minibert.config import BertConfig, Head, head_name, parse_head
from minibert.data.batches import Split
from minibert.errors import InputError
from minibert.evaluation import intervals, metrics
from minibert.evaluation.metrics import Array
from minibert.evaluation.tagger import choose_threshold, dev_score, measures, predict
from minibert.files import read_json, sha256, write_json, write_text
from minibert.gates import HardConcreteGates
from minibert.heads.ablation import masks_without
from minibert.heads.costs import compare_costs
from minibert.heads.gate_training import Budget, Penalty, learn_gates
from minibert.model import BertForTokenClassification
from minibert.pruning import at_full_shape, prune
from minibert.report import figures, page, tables
from minibert.runtime import cli
from minibert.runtime.device import choose_device, choose_precision, slow_precision
from minibert.runtime.folder import inherit, open_run
from minibert.tokenizer import Tokenizer
from minibert.training.loop import fine_tune
from minibert.training.memory import MIB, choose_plan, stepping_down
from minibert.training.settings import StepSettings
from minibert.training.trained import TrainedTagger, load_run
from minibert.weights import load_pretrained, save_pretrained


@dataclass(frozen=True, kw_only=True)
class PruneSettings(StepSettings):
    """The command line of prune.py."""

    run: Path
    """Run folder of train.py, or a folder that prune.py made: it is pruned further."""
    out: Path | None = None
    """Folder for the results; by default one in the run folder, named after the way."""
    keep: tuple[int, ...] = ()
    """How many heads to keep, exactly: learned with gates, unless --order or --random says how."""
    l0: tuple[float, ...] = ()
    """What an open head costs, in loss per word: gates learn how many stay. Try 0.002 to 0.02."""
    order: Path | None = None
    """order-*.json of ablate.py: the least important go first."""
    random: bool = False
    """Keep random heads: the control."""
    joint: bool = False
    """Train the weights together with the gates. Otherwise they stay as they are, which takes the
    least memory."""
    recover: int = 0
    """Optimizer steps that fine-tune what is left, on the labels and on what the dense model
    answers; undone where dev is better without."""
    steps: int = 200
    """Most optimizer steps of the gates."""
    batch_size: int = 4
    """Windows in one optimizer step."""
    learning_rate: float = 1e-4
    """Of the weights, with --joint and --recover."""
    documents: int = 0
    """Measure on the first so many documents of dev and of test, to save time; 0: on all."""
    export: bool = False
    """Also write each model at full shape, lost heads as zeros, for transformers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.keep) == bool(self.l0):
            raise InputError("give either --keep or --l0")
        if (self.l0 and (self.order or self.random)) or (self.order and self.random):
            raise InputError("--order and --random are two ways for --keep; give one of them")
        if self.joint and (self.order or self.random):
            raise InputError(
                "--joint trains weights with the gates; --order and --random have none"
            )
        if list(self.keep) != sorted(set(self.keep), reverse=True):
            raise InputError("--keep must fall from one number to the next")
        if list(self.l0) != sorted(set(self.l0)) or not all(0 < w < float("inf") for w in self.l0):
            raise InputError("--l0 must be above 0 and rise from one weight to the next")
        if self.steps < 1 or self.documents < 0 or self.recover < 0:
            raise InputError("--steps must be at least 1, --documents and --recover at least 0")

    @property
    def way(self) -> str:
        """What the default folder is called after."""
        if self.order:
            name = self.order.stem
        else:
            name = f"random-{self.seed}" if self.random else "keep" if self.keep else "l0"
        for option, chosen in {"joint": self.joint, "recover": self.recover > 0}.items():
            if chosen:
                name += f"-{option}"
        return name


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, PruneSettings, __doc__, argv)


def run(settings: PruneSettings) -> None:
    cli.require("report")
    dense = load_run(settings.run)
    device = choose_device(settings.device)
    dense.model.to(device)
    dense = dense.first_documents_only(settings.documents)
    print(dense.describe())
    ranking = ranked_heads(settings, dense.model.config)
    out = settings.out or settings.run / f"prune-{settings.way}"
    precision = choose_precision(settings.precision, device, out)
    settings = replace(settings, precision=precision)
    inputs = {"model.safetensors": sha256(settings.run / "model.safetensors")}
    if settings.order:
        inputs["order"] = sha256(settings.order)
    targets = settings.keep or settings.l0
    folders = [out / f"{'keep' if settings.keep else 'l0'}-{target:g}" for target in targets]
    with open_run(out, settings, inputs, device=device):
        make_models(settings, dense, ranking, dict(zip(folders, targets)))
        show({folder.name: read_json(folder / "results.json") for folder in folders}, out)
        page.update_report(settings.run, out)


def make_models(
    settings: PruneSettings,
    dense: TrainedTagger,
    ranking: Sequence[Head],
    targets: Mapping[Path, float],
) -> None:
    """The model for each target in its folder, if it is not there yet, from the one before it."""
    device = dense.model.classifier.weight.device
    training = planned(settings, dense)
    model, reference = dense.model, None
    gates = HardConcreteGates(model.config).to(device)
    for folder, target in targets.items():
        if not (folder / "results.json").exists():
            reference = reference or measured(dense.model, dense.splits)
            attempt = partial(make_smaller, model, dense, gates, target, ranking, settings)
            smaller, told = stepping_down(training, attempt)
            save(smaller, settings, folder)
            told |= compare(dense, smaller, reference)
            write_json(folder / "results.json", told)
        if settings.joint or settings.recover:
            model = load_pretrained(folder).to(device)
            gates = HardConcreteGates(model.config).to(device)
        else:
            gates.warm_start(read_json(folder / "results.json")["log_alpha"])


def planned(settings: PruneSettings, dense: TrainedTagger) -> StepSettings:
    """How to train, with the plan that fits."""
    trains = settings.joint or settings.recover > 0
    size = sum(parameter.nbytes for parameter in dense.model.parameters()) / MIB
    training, why = choose_plan(
        dense.model.config,
        settings,
        dense.splits["train"].windows,
        dense.model.classifier.weight.device,
        frozen=not trains,
        gates=settings.joint or not settings.recover,
        other_mib=size if trains else 0.0,  # the dense model, to compare with
    )
    print(f"plan {training.plan}: {why}")
    if slow := slow_precision(training.precision, dense.model.classifier.weight.device):
        print(slow, file=sys.stderr)
    return training


def show(stages: Mapping[str, dict], out: Path) -> None:
    """The table and the figure of one way to prune."""
    table = tables.as_text(tables.pruning_rows(stages))
    print(f"{table}\n\nThe models are in {out}")
    write_text(out / "table.txt", table + "\n")
    if any(stage["gates"] for stage in stages.values()):
        figures.draw_gates(out / "gates.png", stages)


def ranked_heads(settings: PruneSettings, config: BertConfig) -> list[Head]:
    """The order in which heads go, for --order and --random; checks --keep against the model."""
    present = config.present_heads
    if any(not 0 <= keep < len(present) for keep in settings.keep):
        raise InputError(
            f"--keep: the model has {len(present)} heads; keep 0 to {len(present) - 1}"
        )
    if settings.random:
        order = list(present)
        random.Random(settings.seed).shuffle(order)
        return order
    if not settings.order:
        return []
    try:
        order = [parse_head(name) for name in read_json(settings.order)]
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{settings.order}: not a list of heads, such as L3H7") from None
    if sorted(order) != present:
        raise InputError(f"{settings.order}: does not rank the {len(present)} heads of this model")
    return order


def make_smaller(
    model: BertForTokenClassification,
    dense: TrainedTagger,
    gates: HardConcreteGates,
    target: float,
    ranking: Sequence[Head],
    settings: PruneSettings,
    training: StepSettings,
) -> tuple[BertForTokenClassification, dict]:
    """The model with fewer heads, and what there is to tell of how they were chosen."""
    model = deepcopy(model) if settings.joint else model
    gates, train, steps = deepcopy(gates), dense.splits["train"], []
    if ranking:
        head_mask = masks_without(model.config, [ranking[: len(ranking) - int(target)]])[0]
    else:
        head_mask, steps = learned_mask(model, train, gates, target, settings, training)
    smaller = prune(model.eval(), head_mask)
    told = {"heads": [head_name(head) for head in smaller.config.present_heads], "gates": steps}
    if settings.recover:
        told["recovered"] = recover(smaller, dense, training, settings.recover)
    return smaller.eval(), told | {"log_alpha": gates.log_alpha.tolist()}


def recover(
    model: BertForTokenClassification, dense: TrainedTagger, training: StepSettings, steps: int
) -> bool:
    """Fine-tune in place, with the dense model as teacher; whether dev is better for it. If not,
    the weights are what they were."""
    splits = dense.splits
    weights = {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
    before = dev_score(model.eval(), splits["dev"], training.tokens)
    teacher = dense.model.eval()
    losses = fine_tune(model.requires_grad_(True), splits["train"], training, steps, teacher)
    for _ in tqdm(losses, "recover", steps, disable=None):
        pass
    better = dev_score(model.eval(), splits["dev"], training.tokens) > before
    if not better:
        model.load_state_dict(weights)
    return better


def learned_mask(
    model: BertForTokenClassification,
    train: Split,
    gates: HardConcreteGates,
    target: float,
    settings: PruneSettings,
    training: StepSettings,
) -> tuple[Tensor, list[dict]]:
    """What the gates come to, and how they came to it."""
    goal = Penalty(target)
    if settings.keep:
        goal = Budget(int(target), gates.expected())
    model.requires_grad_(settings.joint).train(settings.joint)
    steps = []
    with tqdm(desc=f"gates for {target:g}", total=settings.steps, disable=None) as bar:
        for at in learn_gates(model, train, gates, goal, training, settings.steps):
            steps.append(at._asdict())
            bar.set_postfix({name: f"{value:.4g}" for name, value in steps[-1].items()})
            bar.update()
    return goal.head_mask(gates), steps


def save(model: BertForTokenClassification, settings: PruneSettings, folder: Path) -> None:
    """A run folder of its own: what the pruned run was trained and reported on, its model."""
    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        raise InputError("the weights are no longer finite: try a lower --learning-rate")
    inherit(settings.run, folder, settings)
    tokenizer = Tokenizer.load(settings.run, model.config.vocab_size)
    places = {folder: model}
    if settings.export:
        places[folder / "full-shape"] = at_full_shape(model)
    for place, saved in places.items():
        tokenizer.save(place)
        save_pretrained(saved, place)


class Measured(NamedTuple):
    """Every measure under every resample of the documents, the threshold chosen on dev."""

    threshold: float | None
    dev: dict[str, Array]  # each (1 + R,)
    test: dict[str, Array]


def measured(model: BertForTokenClassification, splits: dict[str, Split]) -> Measured:
    names = model.config.labels
    predictions = {name: predict(model.eval(), splits[name]) for name in ("dev", "test")}
    threshold = choose_threshold(predictions["dev"], splits["dev"], names)

    values = {}
    for name in ("dev", "test"):
        split = splits[name]
        draws = intervals.resamples(len(split.documents), 300)
        of_split = measures(predictions[name], split, names, threshold, draws)
        values[name] = {measure: array[:, 0] for measure, array in of_split.items()}
    return Measured(threshold, values["dev"], values["test"])


def compare(dense: TrainedTagger, smaller: BertForTokenClassification, reference: Measured) -> dict:
    """Scores of the smaller model, its share of the dense one's, and what both cost."""
    own = measured(smaller, dense.splits)
    main = metrics.main_measure(own.test)
    few = sorted(dense.splits["dev"].windows, key=lambda w: -len(w.input_ids))[:8]
    return {
        "threshold": own.threshold,
        "dev": {name: intervals.interval(values) for name, values in own.dev.items()},
        "test": {name: intervals.interval(values) for name, values in own.test.items()},
        "dense": {name: intervals.interval(values) for name, values in reference.test.items()},
        "share": intervals.interval(own.test[main] / reference.test[main]),
        "costs": compare_costs({"dense": dense.model, "pruned": smaller}, few),
    }


if __name__ == "__main__":
    sys.exit(main())
