"""Results that the scripts left in a run folder, read into dataclasses."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from minibert.errors import InputError
from minibert.evaluation.intervals import Change, Score
from minibert.evaluation.metrics import main_measure
from minibert.files import read_json, read_object
from minibert.heads.costs import Cost
from minibert.heads.gate_training import GateProgress

T = TypeVar("T")

Scores = dict[str, Score]  # by measure

KEYPHRASES = "keyphrases.json"  # of rank.py compare, in the folder of the model


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
        """From the JSON of each part of ablate.py by its name, such as "single-dev" or
        "curve-entropy"."""
        by_split = {
            name: {split: parts[f"{name}-{split}"] for split in ("dev", "test")}
            for name in ("single", "alone", "attention")
        }
        curves = {n.removeprefix("curve-"): p for n, p in parts.items() if n.startswith("curve-")}
        return from_json(Ablation, by_split | {"curves": curves})


@dataclass(frozen=True)
class PrunedModel:
    """What results.json says of a smaller model of prune.py; scores are those on test."""

    selection: str
    """gates, order or random: how the heads were chosen."""

    recovered: bool | None
    """Whether fine-tuning raised the score on dev; None without fine-tuning."""

    weight_steps: int
    """Optimizer steps on the weights, by --joint and --recover, up to this model: of those before
    it in its folder too."""

    documents: int
    """Of test, on which it was scored."""

    heads: list[str]
    """The heads that are left, by original index."""

    gates: list[GateProgress]
    """After each step of gate training."""

    test: Scores

    dense: Scores
    """Of the model that was pruned."""

    share: Score
    """The main score relative to that of the dense model."""

    resampled: list[float]
    """The main score on test, and under each resample of the documents."""

    costs: dict[str, Cost]
    """With the keys "dense" and "pruned"."""


@dataclass(frozen=True)
class RankedKeyphrases:
    """How well the attention of all heads of a model ranks the keyphrases of the test documents."""

    language: str
    """Code of the language whose stop words and stems were used."""

    inputs: dict[str, str]
    """Checksums of the model and of what the run was made from, the documents among it."""

    scores: Scores

    controls: dict[str, Scores]
    """Of other ways to rank, most of them without attention."""

    above: dict[str, Change]
    """{control: by how much F1@10 of the attention is above that of the control}"""

    resampled: list[float]
    """F1@10, and under each resample of the documents."""

    texts: dict[str, list[str]]
    """{id: the first phrases} of a few documents."""


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


@contextmanager
def of_this_version(path: str | Path, script: str) -> Iterator[None]:
    """Turn a missing field inside the block into an InputError: another version wrote `path`."""
    try:
        yield
    except (KeyError, TypeError, AttributeError):
        again = f"delete it and run {script} again"
        raise InputError(f"{path}: made by another version of minibert; {again}") from None


def read_scores(run: str | Path) -> dict[str, Scores]:
    """{system: scores on test} of a run: the model first, then baselines, if train.py made it."""
    with of_this_version(run, "train.py"):
        test = read_json(Path(run) / "results.json")["test"]
        return from_json(dict[str, Scores], {"this model": test} if "loss" in test else test)


def read_keyphrases(model: str | Path) -> RankedKeyphrases | None:
    """What rank.py compare left in the folder of a model; None if nothing."""
    path = Path(model) / KEYPHRASES
    if not path.exists():
        return None
    with of_this_version(path, "rank.py compare"):
        return from_json(RankedKeyphrases, read_json(path))


def read_ablations(run: str | Path) -> dict[str, Ablation]:
    """{folder: study} of each finished study of ablate.py in the folder of a run."""
    ablations = {}
    for folder in sorted(path.parent for path in Path(run).glob("*/curves.png")):
        if not (folder / "single-dev.json").exists():
            continue
        parts = {path.stem: read_json(path) for path in sorted(folder.glob("*-*.json"))}
        with of_this_version(folder, "ablate.py"):
            ablations[folder.name] = Ablation.from_parts(parts)
    return ablations


def pruned_folders(run: str | Path) -> list[Path]:
    """The folders of the smaller models that prune.py made in a run folder."""
    paths = sorted(Path(run).glob("*/*/results.json"))
    # Not those of train.py, which have no selection.
    return [path.parent for path in paths if "selection" in read_object(path)]


def read_prunings(run: str | Path) -> Prunings:
    """The smaller models in each folder of prune.py in a run folder, most heads first."""
    models = {folder: read_pruned(folder / "results.json") for folder in pruned_folders(run)}
    prunings: Prunings = {}
    for folder in sorted(models, key=lambda folder: -len(models[folder].heads)):
        prunings.setdefault(folder.parent.name, {})[folder.name] = models[folder]
    return dict(sorted(prunings.items()))


def read_pruned(path: str | Path) -> PrunedModel:
    """The results.json of one smaller model."""
    with of_this_version(Path(path).parents[1], "prune.py"):
        return from_json(PrunedModel, read_json(path))
