"""Train the tagger on each collection with several seeds; print mean and spread of the test scores.

python -m study.tagger --data DIR, where DIR holds kpcrowd500, inspec and semeval2017. Each run has
its own folder. After a kill, the same command continues: it reads the results of finished runs.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import train
from minibert.data.documents import Scheme
from minibert.files import read_json
from minibert.runtime import cli
from minibert.training.settings import TrainSettings


@dataclass(frozen=True)
class Task:
    data: str
    """The collection in the folder of the collections, as train.py takes it."""

    labels: Scheme

    epochs: int

    measures: tuple[str, ...]
    """Rows of the table."""

    learning_rate: float = TrainSettings.learning_rate


Name = Literal["kpcrowd500", "semeval2017", "inspec bio", "inspec pos"]
TASKS: dict[Name, Task] = {
    "kpcrowd500": Task("kpcrowd500", "io", 3, ("AP", "F1")),
    "semeval2017": Task("semeval2017", "io", 2, ("AP", "F1")),
    "inspec bio": Task("inspec", "bio", 2, ("AP", "F1", "entity F1")),
    "inspec pos": Task("inspec/{split}.pos.jsonl", "given", 2, ("accuracy",), 5e-4),
}


@dataclass(frozen=True)
class Settings:
    data: Path
    """Folder with the collections."""

    out: Path = Path("runs/tagger")
    """Folder for the run folders."""

    seeds: tuple[int, ...] = (0, 1, 2)

    tasks: tuple[Name, ...] = tuple(TASKS)


def run(settings: Settings) -> None:
    for seed in settings.seeds:
        for name in settings.tasks:
            task = TASKS[name]
            train.train(
                TrainSettings(
                    data=str(settings.data / task.data),
                    out=run_folder(settings, name, seed),
                    labels=task.labels,
                    epochs=task.epochs,
                    learning_rate=task.learning_rate,
                    seed=seed,
                    show=0,
                )
            )

    print(f"\n{'':14}{'measure':12}{'mean':>7}{'spread':>9}   seeds {settings.seeds}; baseline")
    for name in settings.tasks:
        scores = [
            read_json(run_folder(settings, name, seed) / "results.json")["test"]
            for seed in settings.seeds
        ]
        for measure in TASKS[name].measures:
            print(row(name, measure, scores))


def run_folder(settings: Settings, name: Name, seed: int) -> Path:
    return settings.out / f"{name.replace(' ', '-')}-{seed}"


def row(name: Name, measure: str, scores: Sequence[dict[str, Any]]) -> str:
    """A line of the table. `scores`: for each seed {system: {measure: score}}. The baselines use no
    random numbers, so their first score stands for all."""
    values = [100 * systems["minibert"][measure]["value"] for systems in scores]
    baselines = [
        f"{system} {100 * measures[measure]['value']:.1f}"
        for system, measures in scores[0].items()
        if system != "minibert" and measure in measures
    ]
    spread = max(values) - min(values)
    return (
        f"{name:14}{measure:12}{statistics.mean(values):7.1f}{spread:9.1f}   {', '.join(baselines)}"
    )


main = partial(cli.run, run, Settings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
