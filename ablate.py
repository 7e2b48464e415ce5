"""Which heads matter: mask each head of a tagger alone, then more and more of them.

Heads are ordered by dev; the curves are measured on test. Writes JSON, a heat map and the curves to
a folder in the run folder. torchrun --nproc-per-node N -- ablate.py --run DIR shares the work among
N processes.
"""

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from minibert.config import BertConfig, Head, head_name, parse_head
from minibert.data.documents import OUTSIDE
from minibert.errors import InputError, check_fields
from minibert.evaluation import intervals, metrics
from minibert.evaluation.metrics import Array
from minibert.evaluation.tagger import Predictions, ProgressBar, in_keyphrase, measures
from minibert.files import sha256, write_text
from minibert.heads import ablation
from minibert.heads.ablation import masks_without
from minibert.heads.importance import attention_profile, by_importance
from minibert.report import figures, page, tables
from minibert.report.results import Ablation
from minibert.runtime import cli, distributed
from minibert.runtime.device import choose_device
from minibert.runtime.folder import once, open_run
from minibert.training.trained import TrainedTagger, load_run

Order = Literal["single", "gradient", "entropy"]


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

    random: int = 5
    """Random orders beside them, as the control; drawn as a band."""

    documents: int = 0
    """Measure on the first documents of dev and of test only, so many of each; 0: on all."""

    stride: int = 1
    """Heads masked at each step of a curve; more is faster and coarser."""

    tokens: int = 768
    """Word pieces computed at a time. Speed and memory depend on it, results do not."""

    device: str = "auto"
    """auto: the GPU if there is one."""

    seed: int = 0
    """Seed of the random orders."""

    def __post_init__(self) -> None:
        check_fields(self)
        least = {"documents": 0, "random": 0, "stride": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise InputError(f"--{name} must be at least {bound}")
        if not self.orders and not self.random:
            raise InputError("give at least one of --orders, or --random above 0")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(ablate, AblateSettings, __doc__, argv)


def ablate(settings: AblateSettings) -> None:
    cli.require("report")
    writes = distributed.join()
    run = load_run(settings.run)
    device = choose_device(settings.device)
    run.model.to(device)
    run = run.first_documents_only(settings.documents)
    if writes:
        print(run.describe())

    # Orders may be added to a finished study, so they are not compared with those of the record.
    out = settings.out or settings.run / f"ablation-{settings.ablation}"
    inputs = {"model.safetensors": sha256(settings.run / "model.safetensors")}
    with open_run(out, settings, inputs, free=("orders", "random"), device=device):
        results = Ablation.from_parts(Study(run, settings, out).results())

        if writes:
            write_figures(results, run.model.config, out)
            print(*tables.ablation_answers(results), "", sep="\n")
            print(tables.as_text(tables.curve_rows(results.curves)))
            print(f"\nTables and figures are in {out}")
            page.update_report(settings.run, out)


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


class Study:
    """The parts of an ablation study, each computed once and kept as JSON in the folder `out`."""

    def __init__(self, run: TrainedTagger, settings: AblateSettings, out: Path):
        self.model, self.splits, self.threshold = run
        self.settings = settings
        self.out = out
        self.heads = self.model.config.present_heads
        self.fill = None
        if settings.ablation == "mean":
            self.fill = ablation.mean_context(self.model, self.splits["dev"])

    def results(self) -> dict:
        """Every part by name, and the curves by the name of their order."""
        each_head = [[head] for head in self.heads]
        others_in_layer = [
            [other for other in self.heads if other[0] == head[0] and other != head]
            for head in self.heads
        ]

        parts = {}
        for split in ("dev", "test"):
            parts[f"single-{split}"] = self.part(f"single-{split}", self.effects, split, each_head)
            parts[f"alone-{split}"] = self.part(
                f"alone-{split}", self.effects, split, others_in_layer
            )
            parts[f"attention-{split}"] = self.part(f"attention-{split}", self.attention, split)

        orders: dict[str, list[str]] = {}
        for name in self.settings.orders:
            orders[name] = self.part(f"order-{name}", self.order, name, parts)
        for i in range(self.settings.random):
            orders[f"random-{i}"] = [head_name(head) for head in self.heads]
            random.Random(f"{self.settings.seed} {i}").shuffle(orders[f"random-{i}"])

        curves = {
            name: self.part(f"curve-{name}", self.curve, order) for name, order in orders.items()
        }
        return parts | {"curves": curves}

    def part(self, name: str, compute: Callable[..., Any], *arguments: Any) -> Any:
        """The JSON of `compute(*arguments, progress)`, from its file where that exists."""
        progress: ProgressBar = list
        if distributed.rank() == 0:
            progress = partial(tqdm, desc=name, unit="batch", leave=False, disable=None)
        return once(self.out / f"{name}.json", partial(compute, *arguments, progress))

    def effects(self, name: str, masked: list[list[Head]], progress: ProgressBar) -> dict:
        """{"full": {measure: Score}, "heads": {head: {measure: Change}}} on a split. `masked`: for
        each head of the model, the heads to mask."""
        masks = masks_without(self.model.config, masked)
        predictions = ablation.ablate(
            self.model, self.splits[name], masks, self.fill, self.settings.tokens, progress
        )
        values = self.measures(predictions, name, resamples=300)
        changes = {measure: intervals.changes(value) for measure, value in values.items()}
        return {
            "full": {measure: intervals.interval(value[:, 0]) for measure, value in values.items()},
            "heads": {
                head_name(head): {measure: change[i] for measure, change in changes.items()}
                for i, head in enumerate(self.heads)
            },
        }

    def attention(self, name: str, progress: ProgressBar) -> dict:
        """{head: {measure: value}} with the measures of `attention_profile`."""
        names, split = self.model.config.labels, self.splits[name]
        gold = in_keyphrase(split.targets, names) if OUTSIDE in names else None
        profile = attention_profile(self.model, split, gold, progress)
        return {
            head_name(head): {measure: float(array[head]) for measure, array in profile.items()}
            for head in self.heads
        }

    def order(self, name: Order, parts: dict, progress: ProgressBar) -> list[str]:
        """The names of the heads from least to most important on dev."""
        if name == "gradient":
            order = by_importance(self.model, self.splits["dev"], progress)
            return [head_name(head) for head in order]

        names = [head_name(head) for head in self.heads]
        if name == "single":
            effects = parts["single-dev"]["heads"]
            return sorted(names, key=lambda head: effects[head]["loss"]["value"])
        profile = parts["attention-dev"]
        return sorted(names, key=lambda head: -profile[head]["entropy"])

    def curve(self, order: list[str], progress: ProgressBar) -> dict:
        """Test scores step by step as the heads of `order` are masked, the area under the main
        score's curve relative to the full score, and how many heads go within 1 % of it."""
        heads, stride = [parse_head(name) for name in order], self.settings.stride

        # Row s of the predictions is the model without the heads of the first s steps.
        predictions = ablation.cumulative(
            self.model,
            self.splits["test"],
            heads,
            self.fill,
            stride,
            self.settings.tokens,
            progress,
        )
        values = self.measures(predictions, "test", resamples=100)

        main = values[metrics.main_measure(values)]  # (1 + R, 1 + steps)
        masked = np.minimum(np.arange(main.shape[1]) * stride, len(order))
        area = np.trapezoid(main, masked) / main[:, 0] / len(order)
        return {
            "order": order,
            "area": intervals.interval(area),
            "free": int(masked[steps_for_free(main[0])]),
            "masked": masked.tolist(),
            "steps": {measure: value[0].tolist() for measure, value in values.items()},
        }

    def measures(self, predictions: Predictions, name: str, resamples: int) -> dict[str, Array]:
        """Each measure of the predictions for a split, as (1 + R, V)."""
        split = self.splits[name]
        draws = intervals.resamples(len(split.documents), resamples)
        return measures(predictions, split, self.model.config.labels, self.threshold, draws)


def steps_for_free(scores: Array, loss: float = 0.01) -> int:
    """The number of steps before the score first falls more than `loss`, relative, below the full
    score."""
    below = np.flatnonzero(scores < (1 - loss) * scores[0])
    return int(below[0]) - 1 if len(below) else len(scores) - 1


if __name__ == "__main__":
    sys.exit(main())
