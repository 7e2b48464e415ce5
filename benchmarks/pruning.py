"""The share of a tagger's score that remains with fewer heads: gates, orders and random heads.

python -m benchmarks.pruning --runs runs/a-0 runs/a-1 runs/a-2, run folders of train.py that differ
in their seed. All choices are made on train and dev; the table is of test. Slow results are stored
in the run folders and read from there the next time.
"""

import sys
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

import prune
from minibert.config import Head
from minibert.evaluation import intervals
from minibert.evaluation.tagger import measures
from minibert.files import read_json, write_json
from minibert.heads.ablation import ablate, masks_without
from minibert.heads.importance import by_importance, by_value
from minibert.report.results import read_pruned
from minibert.runtime import cli
from minibert.training.trained import TrainedTagger, load_run

Share = tuple[float, float, float]  # of the dense model's score, and its interval


@dataclass(frozen=True)
class Settings:
    runs: tuple[Path, ...]
    """Run folders of train.py."""

    keep: tuple[int, ...] = (54, 36, 18, 12, 6)
    """Numbers of heads to keep, falling."""

    recovered: tuple[int, ...] = (36, 18, 6)
    """Those of them to fine-tune as well."""

    steps: int = 200
    """Largest number of steps of gate training for each."""

    recover: int = 150
    """Steps of fine-tuning for each."""

    learning_rate: float = 1e-4
    """Learning rate of the fine-tuning."""

    batch_size: int = 4

    documents: int = 0
    """Documents of dev and of test to measure on; 0: all."""

    random: int = 3
    """Draws of random heads."""

    out: Path | None = None
    """File for the rows as JSON."""


def run(settings: Settings) -> None:
    results: dict[tuple[int, str], list[Share]] = {}
    for folder in settings.runs:
        for keep, way, share in [*learned(folder, settings), *controls(folder, settings)]:
            results.setdefault((keep, way), []).append(share)

    rows = []
    for (keep, way), shares in sorted(results.items(), key=lambda row: -row[0][0]):
        value, low, high = np.array(shares).T
        rows.append((keep, way, value.mean(), low.min(), high.max()))

    print(f"share of the dense model's score on test, {len(settings.runs)} run(s): mean, and the")
    print("lowest and highest end of their 95 % intervals over documents")
    for keep, way, value, low, high in rows:
        print(f"{keep:4} heads  {way:18} {value:6.1%}  [{low:.1%}, {high:.1%}]")
    if settings.out:
        write_json(settings.out, rows)


def learned(folder: Path, settings: Settings) -> list[tuple[int, str, Share]]:
    """(heads kept, way, share) of prune.py with gates: weights unchanged, or fine-tuned."""
    shared = ["--run", folder, "--batch-size", settings.batch_size, "--steps", settings.steps]
    shared += ["--documents", settings.documents]
    recovery = ["--recover", settings.recover, "--learning-rate", settings.learning_rate]
    ways: dict[str, tuple[str, tuple[int, ...], list]] = {
        "gates": ("prune-keep", settings.keep, []),
        "gates, recovered": ("prune-keep-recover", settings.recovered, recovery),
    }
    results = []
    for way, (out, keep, options) in ways.items():
        if prune.main([str(word) for word in [*shared, *options, "--keep", *keep]]):
            sys.exit(f"{folder}: {way} failed")
        for number in keep:
            model = read_pruned(folder / out / f"keep-{number}" / "results.json")
            results.append((number, way, astuple(model.share)))
    return results


def controls(folder: Path, settings: Settings) -> list[tuple[int, str, Share]]:
    """The same for orders made on dev and for random heads, with unchanged weights."""
    path = folder / "pruning-controls.json"
    options = [list(settings.keep), settings.documents, settings.random]
    if not path.exists() or read_json(path).get("options") != options:
        dense = load_run(folder).first_documents_only(settings.documents)
        orders = make_orders(dense, settings.random)
        names = [(keep, way) for way in orders for keep in settings.keep]
        masked = [orders[way][: len(orders[way]) - keep] for keep, way in names]
        masks = masks_without(dense.model.config, masked)
        rows = [[*name, share] for name, share in zip(names, shares_of(dense, masks))]
        write_json(path, {"options": options, "rows": rows})
    return read_json(path)["rows"]


def make_orders(dense: TrainedTagger, random: int) -> dict[str, list[Head]]:
    """{way: the heads in the order of their removal}, from dev."""
    model, dev = dense.model, dense.splits["dev"]
    heads = model.config.present_heads
    masks = masks_without(model.config, [[head] for head in heads])
    losses = ablate(model, dev, masks, progress=tqdm).loss.sum(1)[1:]
    losses = losses.reshape(model.config.num_hidden_layers, -1)

    orders = {
        "single-head order": by_value(losses, heads),
        "gradient order": by_importance(model, dev, tqdm),
    }
    for draw in range(random):
        shuffled = np.random.default_rng(draw).permutation(len(heads))
        orders[f"random {draw}"] = [heads[i] for i in shuffled]
    return orders


def shares_of(dense: TrainedTagger, masks: Tensor) -> list[Share]:
    """AP on test under each mask relative to that of the dense model, with its interval."""
    test = dense.splits["test"]
    predictions = ablate(dense.model, test, masks, progress=tqdm)
    draws = intervals.resamples(len(test.documents), 300)
    scores = measures(predictions, test, dense.model.config.labels, dense.threshold, draws)["AP"]
    return [astuple(intervals.interval(score / scores[:, 0])) for score in scores[:, 1:].T]


main = partial(cli.run, run, Settings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
