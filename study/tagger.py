"""Train the tagger on each collection with several seeds; print mean and spread of the test scores.

The table in the README: python -m study.tagger --data DIR, where DIR holds kpcrowd500,
inspec and semeval2017. Every run has its own folder and goes on after a kill; finished runs are
only read.
"""

import statistics
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import train
from minibert.data.documents import Scheme
from minibert.files import read_json
from minibert.runtime import cli
from minibert.training.settings import TrainSettings


@dataclass(frozen=True)
class Task:
    data: str
    labels: Scheme
    epochs: int
    measures: tuple[str, ...]
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
    """Folder for the runs, one each."""
    seeds: tuple[int, ...] = (0, 1, 2)
    tasks: tuple[Name, ...] = tuple(TASKS)


def run(settings: Settings) -> None:
    for seed in settings.seeds:
        for name in settings.tasks:
            task = TASKS[name]
            train.train(
                TrainSettings(
                    data=str(settings.data / task.data),
                    out=settings.out / f"{name.replace(' ', '-')}-{seed}",
                    labels=task.labels,
                    epochs=task.epochs,
                    learning_rate=task.learning_rate,
                    seed=seed,
                    show=0,
                )
            )
    print(f"\n{'':14}{'measure':12}{'mean':>7}{'spread':>9}   seeds {settings.seeds}; baseline")
    for name in settings.tasks:
        results = [
            read_json(settings.out / f"{name.replace(' ', '-')}-{seed}" / "results.json")["test"]
            for seed in settings.seeds
        ]
        for measure in TASKS[name].measures:
            values = [100 * r["minibert"][measure]["value"] for r in results]
            others = [s for s in results[0] if s != "minibert" and measure in results[0][s]]
            baselines = (f"{s} {100 * results[0][s][measure]['value']:.1f}" for s in others)
            print(
                f"{name:14}{measure:12}{statistics.mean(values):7.1f}"
                f"{max(values) - min(values):9.1f}   {', '.join(baselines)}"
            )


main = partial(cli.run, run, Settings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
