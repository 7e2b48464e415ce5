"""Results that ablate.py and prune.py left in a run folder, read into dataclasses."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from minibert.evaluation.intervals import Change, Score
from minibert.evaluation.metrics import main_measure
from minibert.files import read_json
from minibert.heads.costs import Cost
from minibert.heads.gate_training import GateProgress

T = TypeVar("T")

Scores = dict[str, Score]  # by measure


@dataclass(frozen=True)
class HeadEffects:
    """The effect on one split of masking certain heads, one set of them for each head."""

    full: Scores
    """Of the model with all its heads."""

    heads: dict[str, dict[str, Change]]
    """{head: {measure: change from `full`}}"""


def significant_heads(single: HeadEffects) -> list[str]:
    """The heads whose masking changes the loss significantly; if there are none, the one whose
    masking raises it most."""
    losses = {head: changes["loss"] for head, changes in single.heads.items()}
    significant = [head for head, change in losses.items() if change.significant]
    return significant or [max(losses, key=lambda head: losses[head].value)]


def best_of_layers(alone: HeadEffects) -> list[str]:
    """The head of each layer with the best main score when all other heads of it are masked."""
    measure = main_measure(alone.full)
    layers = groupby(alone.heads, key=lambda head: head.split("H")[0])  # "L3" of "L3H7"
    return [max(heads, key=lambda h: alone.heads[h][measure].value) for _, heads in layers]


@dataclass(frozen=True)
class Curve:
    """Scores on test while the heads are masked one after the other in some order."""

    masked: list[int]
    """The number of masked heads at each step, from 0 on."""

    steps: dict[str, list[float]]
    """{measure: value at each step}"""

    area: Score
    """Area under the curve of the main measure, relative to its value with all heads."""

    free: int
    """The largest number of heads masked before the main measure falls by more than 1 %."""


@dataclass(frozen=True)
class Ablation:
    """A study of ablate.py. `single`, `alone` and `attention` have the keys "dev" and "test"."""

    single: dict[str, HeadEffects]
    """Each head masked; on test only the `significant_heads` of dev."""

    alone: dict[str, HeadEffects]
    """For each head, all other heads of its layer masked; on test only for `best_of_layers`."""

    attention: dict[str, dict[str, dict[str, float]]]
    """{split: {head: {measure: value}}} of `heads.importance.attention_profile`"""

    curves: dict[str, Curve]
    """By the name of the order."""

    @staticmethod
    def from_parts(parts: Mapping[str, Any]) -> "Ablation":
        """From the JSON of each part of ablate.py by its name, and "curves" by order."""
        by_split = {
            name: {split: parts[f"{name}-{split}"] for split in ("dev", "test")}
            for name in ("single", "alone", "attention")
        }
        return from_json(Ablation, by_split | {"curves": parts["curves"]})


@dataclass(frozen=True)
class PrunedModel:
    """What results.json says of a smaller model of prune.py; scores are those on test."""

    selection: str
    """gates, order or random: how the heads were chosen."""

    recovered: bool | None
    """Whether fine-tuning raised the score on dev; None without fine-tuning."""

    heads: list[str]
    """The heads that are left, by original index."""

    gates: list[GateProgress]
    """After each step of gate training."""

    test: Scores

    dense: Scores
    """Of the model that was pruned."""

    share: Score
    """The main score relative to that of the dense model."""

    costs: dict[str, Cost]
    """With the keys "dense" and "pruned"."""


Prunings = dict[str, dict[str, PrunedModel]]  # by folder of prune.py, then of the smaller model


def from_json(kind: type[T], value: Any) -> T:
    """A JSON value as `kind`: a dataclass, dict[str, X], list[X], or what JSON holds itself. Keys
    that a dataclass does not have are ignored. Raises KeyError for a missing one."""
    make: Any = kind
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        types = get_type_hints(kind)
        return make(**{f.name: from_json(types[f.name], value[f.name]) for f in fields(kind)})
    if origin is dict:
        return make({key: from_json(arguments[1], item) for key, item in value.items()})
    if origin is list:
        return make(from_json(arguments[0], item) for item in value)
    return value


def read_ablations(run: str | Path) -> dict[str, Ablation]:
    """{folder: study} of each finished study of ablate.py in the folder of a run."""
    ablations = {}
    for folder in sorted(path.parent for path in Path(run).glob("*/curves.png")):
        if not (folder / "single-dev.json").exists():
            continue
        parts = {path.stem: read_json(path) for path in sorted(folder.glob("*-*.json"))}
        curves = {
            name.removeprefix("curve-"): part
            for name, part in parts.items()
            if name.startswith("curve-")
        }
        ablations[folder.name] = Ablation.from_parts(parts | {"curves": curves})
    return ablations


def read_prunings(run: str | Path) -> Prunings:
    """The smaller models in each folder of prune.py in a run folder, most heads first."""
    prunings: Prunings = {}
    for path in sorted(Path(run).glob("*/*/results.json")):
        record = read_json(path)
        if "selection" in record:  # not a results.json of train.py
            models = prunings.setdefault(path.parts[-3], {})
            models[path.parts[-2]] = from_json(PrunedModel, record)

    return {
        folder: dict(sorted(models.items(), key=lambda named: -len(named[1].heads)))
        for folder, models in prunings.items()
    }


def read_pruned(path: str | Path) -> PrunedModel:
    """The results.json of one smaller model."""
    return from_json(PrunedModel, read_json(path))
