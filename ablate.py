"""Which heads matter: mask each head of a tagger alone, then more and more of them.

Heads are ordered by dev; the curves are measured on test. Writes JSON, a heat map and the curves to
a folder in the run folder, and says first how long that will take. On a CPU, long work is shared
among up to four processes, which divide torch's threads; OMP_NUM_THREADS=1 leaves one process.
torchrun --nproc-per-node N -- ablate.py --run DIR shares it among N processes of its own.
"""

import copy
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from minibert.config import BertConfig, Head, head_name, parse_head
from minibert.data.documents import OUTSIDE
from minibert.errors import check, check_fields
from minibert.evaluation import intervals, metrics
from minibert.evaluation.duration import describe_seconds, seconds_per_pass
from minibert.evaluation.metrics import Array
from minibert.evaluation.tagger import Predictions, ProgressBar, in_keyphrase, measures
from minibert.files import sha256, write_text
from minibert.heads import ablation
from minibert.heads.ablation import masks_without
from minibert.heads.importance import attention_profile, by_importance
from minibert.report import figures, page, tables
from minibert.report.results import (
    Ablation,
    HeadEffects,
    best_of_layers,
    from_json,
    significant_heads,
)
from minibert.runtime import cli, distributed
from minibert.runtime.device import DTYPES, choose_device, slow_precision
from minibert.runtime.folder import once, open_run
from minibert.training.trained import load_run

Order = Literal["single", "gradient", "entropy"]

POINTS = 24  # of a curve
RESAMPLES = 300
PROFILE, GRADIENT = 2, 4  # forward passes that take as long as these parts
FEW = 0.2  # the fraction of heads that are significant on dev: a guess, for the estimate
LONG = 60  # seconds; longer work is shared among processes, and advice is printed
PROCESSES = 4  # at most, without torchrun: each holds the model


@dataclass(frozen=True)
class AblateSettings:
    """The command line of ablate.py."""

    run: Path
    """Run folder of train.py."""

    out: Path | None = None
    """Folder for the results; by default ablation-zero or ablation-mean in the run folder."""

    ablation: Literal["zero", "mean"] = "zero"
    """What replaces the context of a masked head: zero, or its mean over dev."""

    orders: tuple[Order, ...] = ("single", "gradient", "entropy")
    """Orders in which heads are masked cumulatively, least important first on dev. single: by the
    effect of masking the head alone; gradient: by Michel's importance; entropy: the most spread
    attention first."""

    random: int = 3
    """Random orders beside them, as the control; drawn as a band."""

    documents: int = 0
    """Measure on the first documents of dev and of test only, so many of each; 0: on all."""

    points: int | None = None
    """Points of a curve after the first one, which has all heads. They lie closer together where
    few heads are masked. By default 24, or one for each head of a model that has fewer."""

    precision: Literal["float32", "bf16"] = "float32"
    """bf16: mask heads in bfloat16, to screen them: fast where the processor has it, and less
    exact. Orders by gradient and by entropy are computed in float32."""

    tokens: int = 768
    """Word pieces computed at a time. Speed and memory depend on it, results do not."""

    device: str = "auto"
    """auto: the GPU if there is one."""

    seed: int = 0
    """Seed of the random orders."""

    def __post_init__(self) -> None:
        check_fields(self)
        check(self.documents >= 0, "--documents must be at least 0")
        check(self.random >= 0, "--random must be at least 0")
        check(self.points is None or self.points >= 2, "--points must be at least 2")
        has_order = self.orders or self.random
        check(has_order, "give at least one of --orders, or --random above 0")

    @property
    def folder(self) -> Path:
        """The folder for the results."""
        suffix = "" if self.precision == "float32" else f"-{self.precision}"
        return self.out or self.run / f"ablation-{self.ablation}{suffix}"


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(ablate, AblateSettings, __doc__, argv)


def ablate(settings: AblateSettings) -> None:
    cli.require("report")
    writes = distributed.join()
    study = Study(settings)
    settings = study.settings
    if writes:
        print(study.run.describe())

    # Orders may be added to a finished study, so they are not compared with those of the record.
    inputs = {"model.safetensors": sha256(settings.run / "model.safetensors")}
    free = ("orders", "random")
    with open_run(settings.folder, settings, inputs, free, study.device):
        seconds = study.seconds_left() if writes else 0
        processes = count_processes(study.device, seconds)
        if seconds:
            print(announce(settings, study.device, seconds), flush=True)
        with distributed.with_helpers(help_with_study, (settings,), processes):
            results = Ablation.from_parts(study.results())

        if writes:
            write_figures(results, study.run.model.config, settings.folder)
            print(*tables.ablation_answers(results), "", sep="\n")
            print(tables.as_text(tables.curve_rows(results.curves)))
            print(f"\nTables and figures are in {settings.folder}")
            page.update_report(settings.run, settings.folder)


# Time and processes -----------------------------------------------------------------------------


def announce(settings: AblateSettings, device: torch.device, seconds: float) -> str:
    """How long the work will take, and what makes it shorter."""
    line = f"ablation: {describe_seconds(seconds)}"
    if seconds > LONG:
        line += "; fewer --documents, --points or --random take less"
        if not slow_precision("bf16", device):
            line += ", and --precision bf16, for a first look"
    if slow := slow_precision(settings.precision, device):
        line += f"\n{slow}"
    return line


def count_processes(device: torch.device, seconds: float) -> int:
    """For long work on a CPU as many as torch has threads, up to PROCESSES. 1 under torchrun, which
    has started the others."""
    is_shared = device.type == "cpu" and seconds > LONG and not distributed.in_group()
    return min(torch.get_num_threads(), PROCESSES) if is_shared else 1


def help_with_study(settings: AblateSettings) -> None:
    Study(settings).results()


# Results ----------------------------------------------------------------------------------------


def write_figures(results: Ablation, config: BertConfig, folder: Path) -> None:
    """Write heads.txt and heads.png (the effect of masking each head) and curves.png."""
    write_text(folder / "heads.txt", tables.as_text(tables.head_rows(results)) + "\n")

    effects = np.full((config.num_hidden_layers, config.num_attention_heads), np.nan)
    insignificant = np.zeros_like(effects, dtype=bool)
    for name, changes in results.single["dev"].heads.items():
        head = parse_head(name)
        effects[head] = changes["loss"].value
        insignificant[head] = not changes["loss"].significant
    title = "Change of the loss when a head is masked (dev)"
    figures.draw_heat_map(folder / "heads.png", effects, insignificant, title)

    figures.draw_curves(folder / "curves.png", results.curves)


class Part(NamedTuple):
    """A part of the study, which is kept as JSON in a file of its own."""

    split: str

    passes: float
    """The work: that of about so many forward passes over the split."""

    compute: Callable[[ProgressBar], Any]
    """May read the parts before it."""


class Study:
    """An ablation study: its parts, each computed once."""

    def __init__(self, settings: AblateSettings):
        self.run = load_run(settings.run).first_documents_only(settings.documents)
        self.device = choose_device(settings.device)
        self.run.model.to(self.device)
        self.splits, self.config = self.run.splits, self.run.model.config
        self.heads = self.config.present_heads

        points = min(POINTS, len(self.heads)) if settings.points is None else settings.points
        limit = f"--points must be at most {len(self.heads)}, the number of heads"
        check(points <= len(self.heads), limit)
        self.settings = replace(settings, points=points)
        self.masked = curve_points(len(self.heads), points)

        # The model whose heads are masked.
        self.model = copy.deepcopy(self.run.model).to(DTYPES[settings.precision])
        self.fill = None
        if settings.ablation == "mean":
            self.fill = ablation.mean_context(self.model, self.splits["dev"])

        self.parts = self._effects_of_heads() | self._orders_and_curves()
        self.done: dict[str, Any] = {}

    def _effects_of_heads(self) -> dict[str, Part]:
        passes = ablation.passes_of_ablate(masks_without(self.config, [[h] for h in self.heads]))
        best = passes * self.config.num_hidden_layers / len(self.heads)  # one head of each layer

        return {
            "single-dev": Part("dev", passes, partial(self.single, "dev")),
            "single-test": Part("test", FEW * passes, partial(self.single, "test")),
            "alone-dev": Part("dev", passes, partial(self.alone, "dev")),
            "alone-test": Part("test", best, partial(self.alone, "test")),
            "attention-dev": Part("dev", PROFILE, partial(self.attention, "dev")),
            "attention-test": Part("test", PROFILE, partial(self.attention, "test")),
        }

    def _orders_and_curves(self) -> dict[str, Part]:
        steps = self.steps(self.random_order(0))  # the work of a curve hardly depends on the order
        passes = ablation.passes_of_cumulative(self.config, steps)

        parts = {}
        for order in self.settings.orders:
            work = GRADIENT if order == "gradient" else 0
            parts[f"order-{order}"] = Part("dev", work, partial(self.order, order))
        names = [*self.settings.orders, *(f"random-{i}" for i in range(self.settings.random))]
        for name in names:
            parts[f"curve-{name}"] = Part("test", passes, partial(self.curve, name))
        return parts

    def seconds_left(self) -> float:
        """An estimate for the parts that have no file yet, by this process and those of torchrun.
        Helpers hardly change it: they share this process's threads."""
        left = [p for name, p in self.parts.items() if p.passes and not self.file(name).exists()]
        seconds = {
            split: seconds_per_pass(self.model, self.splits[split].windows, self.settings.tokens)
            for split in {part.split for part in left}
        }
        return sum(part.passes * seconds[part.split] for part in left) / distributed.size()

    def results(self) -> dict[str, Any]:
        """Every part by name."""
        for name, part in self.parts.items():
            progress: ProgressBar = list
            if distributed.rank() == 0:
                progress = partial(tqdm, desc=name, unit="batch", leave=False, disable=None)
            self.done[name] = once(self.file(name), partial(part.compute, progress))
        return self.done

    def file(self, part: str) -> Path:
        return self.settings.folder / f"{part}.json"

    # The parts ----------------------------------------------------------------------------------

    def single(self, split: str, progress: ProgressBar) -> dict:
        """The effects of masking each head; on test only of those that are significant on dev."""
        heads = self.heads
        if split == "test":
            on_dev = from_json(HeadEffects, self.done["single-dev"])
            heads = [parse_head(name) for name in significant_heads(on_dev)]
        return self.effects(split, {head: [head] for head in heads}, progress)

    def alone(self, split: str, progress: ProgressBar) -> dict:
        """For each head, the effects of masking all other heads of its layer. On test only for the
        heads that serve best alone on dev."""
        heads = self.heads
        if split == "test":
            on_dev = from_json(HeadEffects, self.done["alone-dev"])
            heads = [parse_head(name) for name in best_of_layers(on_dev)]
        others = {
            head: [other for other in self.heads if other[0] == head[0] and other != head]
            for head in heads
        }
        return self.effects(split, others, progress)

    def effects(
        self, split: str, masked: Mapping[Head, Sequence[Head]], progress: ProgressBar
    ) -> dict:
        """{"full": {measure: Score}, "heads": {head: {measure: Change}}} on a split. `masked`: for
        each head that is reported, the heads to mask."""
        masks = masks_without(self.config, [*masked.values()])
        predictions = ablation.ablate(
            self.model, self.splits[split], masks, self.fill, self.settings.tokens, progress
        )
        values = self.measures(predictions, split)
        changes = {measure: intervals.changes(value) for measure, value in values.items()}
        return {
            "full": {measure: intervals.interval(value[:, 0]) for measure, value in values.items()},
            "heads": {
                head_name(head): {measure: change[i] for measure, change in changes.items()}
                for i, head in enumerate(masked)
            },
        }

    def attention(self, split: str, progress: ProgressBar) -> dict:
        """{head: {measure: value}} with the measures of `attention_profile`."""
        names, targets = self.config.labels, self.splits[split].targets
        gold = in_keyphrase(targets, names) if OUTSIDE in names else None
        profile = attention_profile(self.run.model, self.splits[split], gold, progress)
        return {
            head_name(head): {measure: float(array[head]) for measure, array in profile.items()}
            for head in self.heads
        }

    def order(self, name: Order, progress: ProgressBar) -> list[str]:
        """The names of the heads from least to most important on dev."""
        if name == "gradient":
            order = by_importance(self.run.model, self.splits["dev"], progress)
            return [head_name(head) for head in order]

        names = [head_name(head) for head in self.heads]
        if name == "single":
            effects = self.done["single-dev"]["heads"]
            return sorted(names, key=lambda head: effects[head]["loss"]["value"])
        profile = self.done["attention-dev"]
        return sorted(names, key=lambda head: -profile[head]["entropy"])

    def random_order(self, number: int) -> list[str]:
        order = [head_name(head) for head in self.heads]
        random.Random(f"{self.settings.seed} {number}").shuffle(order)
        return order

    def steps(self, order: Sequence[str]) -> list[list[Head]]:
        """The heads that each point of a curve masks after the point before it."""
        heads = [parse_head(name) for name in order]
        return [heads[start:end] for start, end in pairwise(self.masked)]

    def curve(self, name: str, progress: ProgressBar) -> dict:
        """Test scores as the heads of an order are masked, the area under the main score's curve
        relative to the full score, and how many heads go within 1 % of it."""
        is_random = name.startswith("random-")
        number = int(name.removeprefix("random-")) if is_random else 0
        order = self.random_order(number) if is_random else self.done[f"order-{name}"]

        predictions = ablation.cumulative(
            self.model,
            self.splits["test"],
            self.steps(order),
            self.fill,
            self.settings.tokens,
            progress,
        )
        values = self.measures(predictions, "test")

        main = values[metrics.main_measure(values)]  # (1 + R, 1 + points)
        area = np.trapezoid(main, self.masked) / main[:, 0] / len(order)
        return {
            "order": order,
            "area": intervals.interval(area),
            "free": self.masked[points_within(main[0])],
            "masked": self.masked,
            "steps": {measure: value[0].tolist() for measure, value in values.items()},
        }

    def measures(self, predictions: Predictions, split: str) -> dict[str, Array]:
        """Each measure of the predictions for a split, as (1 + R, V)."""
        documents = len(self.splits[split].documents)
        draws = intervals.resamples(documents, RESAMPLES)
        threshold = self.run.threshold
        return measures(predictions, self.splits[split], self.config.labels, threshold, draws)


def curve_points(heads: int, points: int) -> list[int]:
    """The numbers of masked heads at the points of a curve: from 0 to `heads`, each at least one
    above the one before, and closer together at the beginning, where the first losses are."""
    masked = [0]
    for point in range(1, points + 1):
        masked.append(max(masked[-1] + 1, round(heads * (point / points) ** 1.5)))
    return masked


def points_within(scores: Array, loss: float = 0.01) -> int:
    """The last point before the score first falls more than `loss`, relative, below the first."""
    below = np.flatnonzero(scores < (1 - loss) * scores[0])
    return int(below[0]) - 1 if len(below) else len(scores) - 1


if __name__ == "__main__":
    sys.exit(main())
