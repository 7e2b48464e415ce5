"""Which heads matter: silence each head of a tagger alone, then more and more of them.

Heads are ordered on dev and the curves drawn on test. Leaves JSON, a heat map and the curves in the
run folder. torchrun --nproc-per-node N -- ablate.py --run DIR shares the work among N processes.
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

from minibert.config import BertConfig, Head, check_fields, head_name, parse_head
from minibert.data.batches import first_documents
from minibert.data.documents import OUTSIDE
from minibert.errors import InputError
from minibert.evaluation import intervals, metrics
from minibert.evaluation.metrics import Array
from minibert.evaluation.tagger import ProgressBar, in_keyphrase
from minibert.files import sha256, write_text
from minibert.heads import ablation
from minibert.heads.ablation import Statistics, masks_without
from minibert.heads.importance import attention_profile, by_importance, by_value, head_gradients
from minibert.heads.orders import greedy_order, refreshed_order
from minibert.report import figures, page, tables
from minibert.runtime import cli, distributed
from minibert.runtime.folder import once, open_run
from minibert.training.settings import choose_device
from minibert.training.trained import TrainedTagger, load_run

Order = Literal["single", "gradient", "refreshed", "fisher", "greedy", "entropy"]


@dataclass(frozen=True)
class AblateSettings:
    """The command line of ablate.py."""

    run: Path
    """Run folder of train.py."""
    out: Path | None = None
    """Folder for the results; by default ablation-zero or ablation-mean in the run folder."""
    ablation: Literal["zero", "mean"] = "zero"
    """What takes a silenced head's place: nothing, or its mean output over dev."""
    orders: tuple[Order, ...] = ("single", "gradient", "refreshed", "fisher", "greedy", "entropy")
    """Orders in which heads are masked cumulatively, least important first by dev. single: by its
    own effect; gradient: Michel's importance; refreshed: measured anew as heads go; fisher:
    squared gradients; greedy: the best of a few, judged exactly; entropy: the most spread first."""
    random: int = 5
    """Random orders beside them, drawn as a band: the control."""
    documents: int = 0
    """Measure on the first so many documents of dev and of test, to save time; 0: on all."""
    stride: int = 1
    """Heads masked at each step of a curve; more is faster and coarser."""
    every: int = 6
    """refreshed and greedy: heads to mask between two measurements of the gradients."""
    few: int = 3
    """greedy: candidates judged exactly for each head, on 20 documents of dev."""
    tokens: int = 768
    """Word pieces computed at a time. Speed and memory depend on it, results do not."""
    device: str = "auto"
    """auto: the GPU if there is one."""
    seed: int = 0
    """Of the random orders."""

    def __post_init__(self) -> None:
        check_fields(self)
        least = {"documents": 0, "random": 0, "stride": 1, "every": 1, "few": 1}
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
    out = settings.out or settings.run / f"ablation-{settings.ablation}"
    weights = {"model.safetensors": sha256(settings.run / "model.safetensors")}
    free = ("orders", "random")
    with open_run(out, settings, weights, free, device):
        results = Study(run, settings, out, writes).results()
        if writes:
            write_figures(results, run.model.config, out)
            print(*tables.ablation_answers(results), "", sep="\n")
            print(tables.as_text(tables.curve_rows(results["curves"])))
            print(f"\nTables and figures are in {out}")
            page.update_report(settings.run, out)


def write_figures(results: dict, config: BertConfig, folder: Path) -> None:
    """heads.txt, heads.png (what silencing each head does) and curves.png."""
    write_text(folder / "heads.txt", tables.as_text(tables.head_rows(results)) + "\n")
    changes = np.full((config.num_hidden_layers, config.num_attention_heads), np.nan)
    undecided = np.zeros_like(changes, dtype=bool)
    for (layer, head), change in zip(config.present_heads, results["single-dev"]["heads"].values()):
        changes[layer, head] = change["loss"]["value"]
        undecided[layer, head] = not change["loss"]["decided"]
    title = "What silencing a head does to the loss (dev)"
    figures.heat_map(folder / "heads.png", changes, undecided, title)
    figures.draw_curves(folder / "curves.png", results["curves"])


class Study:
    """The parts of an ablation study. Each is kept as JSON when it is done, and read when it is
    there already: a killed study goes on with the part it was at."""

    def __init__(self, run: TrainedTagger, settings: AblateSettings, out: Path, writes: bool):
        self.model, self.splits, self.threshold = run
        self.settings = settings
        self.out = out
        self.writes = writes
        self.heads = self.model.config.present_heads
        mean = settings.ablation == "mean"
        self.fill = ablation.mean_context(self.model, self.splits["dev"]) if mean else None

    def results(self) -> dict:
        """Every part by name, computed or read."""
        single = [[head] for head in self.heads]
        others = [[h for h in self.heads if h[0] == layer and h[1] != n] for layer, n in self.heads]
        parts = {}
        for split in ("dev", "test"):
            parts[f"single-{split}"] = self.effects("single", split, single)
            parts[f"alone-{split}"] = self.effects("alone", split, others)
            parts[f"gaze-{split}"] = self.part(
                f"gaze-{split}", lambda bar, split=split: self.gaze(split, bar)
            )
        return parts | {"curves": self.curves(parts)}

    def part(self, name: str, compute: Callable[[ProgressBar], Any]) -> Any:
        """A part from its file, or computed and kept; the same in every process."""
        bar = partial(tqdm, desc=name, unit="batch", leave=False, disable=None)
        return once(self.out / f"{name}.json", lambda: compute(bar if self.writes else list))

    def gaze(self, split: str, bar: ProgressBar) -> dict:
        """{head: {"entropy", and where O is a label "towards" and "AP"}}."""
        labels, targets = self.model.config.labels, self.splits[split].targets
        gold = in_keyphrase(targets, labels) if OUTSIDE in labels else None
        arrays = attention_profile(self.model, self.splits[split], gold, bar)
        return {
            head_name(head): {name: float(array[head]) for name, array in arrays.items()}
            for head in self.heads
        }

    def measure(self, statistics: Statistics, split: str, resamples: int) -> dict[str, Array]:
        draws = intervals.resamples(len(self.splits[split].documents), resamples)
        labels = self.model.config.labels
        return ablation.measure(statistics, self.splits[split], labels, self.threshold, draws)

    def effects(self, name: str, split: str, silenced: list[list[Head]]) -> dict:
        """{"full": {measure: Score}, "heads": {head: {measure: Change}}}, with a list of silenced
        heads for each head: the head itself, or all the others of its layer."""

        def compute(bar: ProgressBar) -> dict:
            masks = masks_without(self.model.config, silenced)
            tokens = self.settings.tokens
            statistics = ablation.ablate(
                self.model, self.splits[split], masks, self.fill, tokens, bar
            )
            values = self.measure(statistics, split, 300)
            changes = {name: intervals.changes(v) for name, v in values.items()}
            return {
                "full": {name: intervals.interval(v[:, 0]) for name, v in values.items()},
                "heads": {
                    head_name(head): {name: change[i] for name, change in changes.items()}
                    for i, head in enumerate(self.heads)
                },
            }

        return self.part(f"{name}-{split}", compute)

    def curves(self, parts: dict) -> dict:
        """For each order: its heads, test scores step by step, the area under the curve relative to
        the full score, and how many heads go within 1 % of it."""
        out = {}
        for name in self.settings.orders:
            order = self.part(f"order-{name}", lambda bar, name=name: self.order(name, parts, bar))
            out[name] = self.curve(name, [parse_head(head) for head in order])
        for i in range(self.settings.random):
            order = list(self.heads)
            random.Random(f"{self.settings.seed} {i}").shuffle(order)
            out[f"random-{i}"] = self.curve(f"random-{i}", order)
        return out

    def order(self, name: Order, parts: dict, bar: ProgressBar) -> list[str]:
        """The heads from least to most important, as dev has it."""
        dev, heads = self.splits["dev"], self.heads
        if name == "refreshed":
            order = refreshed_order(self.model, dev, self.settings.every, self.fill, bar)
        elif name == "greedy":
            some = first_documents(dev, 20)
            few, every = self.settings.few, self.settings.every
            order = greedy_order(self.model, some, few, every, self.fill, bar)
        elif name == "single":
            effect = parts["single-dev"]["heads"]
            order = sorted(heads, key=lambda head: effect[head_name(head)]["loss"]["value"])
        elif name == "entropy":
            looks = parts["gaze-dev"]
            order = sorted(heads, key=lambda head: -looks[head_name(head)]["entropy"])
        elif name == "gradient":
            order = by_importance(self.model, dev, bar)
        else:  # fisher
            order = by_value((head_gradients(self.model, dev, progress=bar) ** 2).mean(0), heads)
        return [head_name(head) for head in order]

    def curve(self, name: str, order: list[Head]) -> dict:
        def compute(bar: ProgressBar) -> dict:
            split, stride = self.splits["test"], self.settings.stride
            statistics = ablation.cumulative(
                self.model, split, order, self.fill, stride, self.settings.tokens, bar
            )
            values = self.measure(statistics, "test", 100)
            main = values[metrics.main_measure(values)]
            masked = np.minimum(np.arange(main.shape[1]) * stride, len(order))
            return {
                "order": [head_name(head) for head in order],
                "area": intervals.interval(np.trapezoid(main, masked) / main[:, 0] / len(order)),
                "free": int(masked[steps_for_free(main[0])]),
                "masked": masked.tolist(),
                "steps": {measure: v[0].tolist() for measure, v in values.items()},
            }

        return self.part(f"curve-{name}", compute)


def steps_for_free(scores: Array, loss: float = 0.01) -> int:
    """How many steps go before the score first falls more than 1 % below the full one."""
    below = np.flatnonzero(scores < (1 - loss) * scores[0])
    return int(below[0]) - 1 if len(below) else len(scores) - 1


if __name__ == "__main__":
    sys.exit(main())
