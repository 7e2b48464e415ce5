"""The whole study: every experiment on every collection, and docs/study.md from what it found.

make study DATA=DIR, or python -m study.study --data DIR, where DIR holds kpcrowd500, inspec,
semeval2017 and, for search, ir_cranfield and ir_scifact. Every experiment is a process of one of
the scripts, with a log of its own; a study that was killed goes on, and what is finished is only
read.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader
from tqdm import tqdm

from minibert.errors import InputError
from minibert.evaluation.intervals import Score
from minibert.files import read_json, write_text
from minibert.report import figures, tables
from minibert.report.results import read_ablations
from minibert.runtime import cli
from study import tagger

HERE = Path(__file__).parent


class Collection(NamedTuple):
    """How a collection is studied. What is chosen here was chosen on dev."""

    title: str
    task: tagger.Name
    ablated: int  # documents of dev and of test to silence heads on: 5,000 to 7,000 words
    marking: tuple[str, ...]  # of a trained tagger's candidates
    pruning: tuple[str, ...] = ()  # of benchmarks.pruning; none: its heads are not removed
    unseen: str = "test"  # what untrained heads are scored on


BY_MEAN = ("--candidates", "tagger", "--aggregate", "mean")
FEW = ("--documents", "30", "--batch-size", "2", "--learning-rate", "5e-5")
COLLECTIONS = {
    "kpcrowd500": Collection("500N-KPCrowd", "kpcrowd500", 15, ("--aggregate", "often"), FEW),
    "inspec": Collection("Inspec", "inspec bio", 60, BY_MEAN, ("--documents", "200")),
    "semeval2017": Collection("SemEval-2017", "semeval2017", 40, BY_MEAN, unseen="liaad493"),
}
PRUNED = [name for name, collection in COLLECTIONS.items() if collection.pruning]
SEARCHES = {"ir_cranfield": "Cranfield", "ir_scifact": "SciFact"}


@dataclass(frozen=True)
class Settings:
    data: Path
    """Folder with the collections."""
    out: Path = Path("runs/study")
    """Folder for the runs."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the taggers."""
    pruned: int = 1
    """Of these seeds, so many are pruned. Heads are silenced in the first."""
    stride: int = 6
    """Heads masked at each step of a curve."""
    processes: int = 2
    """Experiments at a time; they share the processors."""
    page: Path = HERE.parent / "docs" / "study.md"


def run(settings: Settings) -> None:
    cli.require("report")
    cli.require("search")
    names = tuple(collection.task for collection in COLLECTIONS.values())
    tagger.run(tagger.Settings(settings.data, settings.out, settings.seeds, names))
    began = time.monotonic()
    study = Study(settings)
    with ThreadPoolExecutor(settings.processes) as pool:
        first = pool.submit(study.choose)
        others = [pool.submit(study.prune, name) for name in PRUNED]
        jobs = (study.ablate, study.mark)
        others += [pool.submit(job, name) for job in jobs for name in COLLECTIONS]
        first.result()
        others += [pool.submit(study.rank, name) for name in COLLECTIONS]
        others += [pool.submit(study.search, name) for name in SEARCHES]
        try:
            for job in tqdm(others, desc="experiments"):
                job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    loader = FileSystemLoader(HERE)
    environment = Environment(loader=loader, trim_blocks=True, lstrip_blocks=True)
    environment.filters["spread"] = spread
    page = environment.get_template("study.md.j2").render(
        study.facts(), collections=COLLECTIONS, settings=settings, search_rows=tables.search_rows
    )
    write_text(settings.page, page)
    print(f"The study is in {settings.page}; {(time.monotonic() - began) / 60:.0f} minutes")


class Study:
    """Experiments, each of which leaves files, and what the files tell."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.out, self.data = settings.out, settings.data

    def call(self, log: str, *words: object) -> None:
        """Run `python WORDS` with its output in a log."""
        path = self.out / "logs" / f"{log}.log"
        path.parent.mkdir(exist_ok=True)
        threads = max(1, (os.cpu_count() or 1) // self.settings.processes)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        with path.open("w", encoding="utf-8") as file:
            command = [sys.executable, *map(str, words)]
            done = subprocess.run(
                command, cwd=HERE.parent, stdout=file, stderr=file, env=environment
            )
        if done.returncode:
            last = path.read_text(encoding="utf-8").strip().splitlines()[-1:]
            raise InputError(f"{log} stopped: {''.join(last)} (all of it is in {path})")

    def tagger(self, name: str, seed: int | None = None) -> Path:
        seed = self.settings.seeds[0] if seed is None else seed
        task = COLLECTIONS[name].task.replace(" ", "-")
        return (self.out / f"{task}-{seed}").resolve()

    # The experiments --------------------------------------------------------------------------

    def ablate(self, name: str) -> None:
        few = ["--documents", COLLECTIONS[name].ablated, "--stride", self.settings.stride]
        orders = ["--orders", "single", "gradient", "entropy", "--random", 3]
        self.call(f"ablate-{name}", "ablate.py", "--run", self.tagger(name), *few, *orders)

    def prune(self, name: str) -> None:
        runs = [self.tagger(name, seed) for seed in self.settings.seeds[: self.settings.pruned]]
        how = [*COLLECTIONS[name].pruning, "--out", self.file("pruned", name)]
        self.call(f"prune-{name}", "-m", "benchmarks.pruning", "--runs", *runs, *how)

    def choose(self) -> None:
        """The heads that pick keyphrases best on dev of Inspec, from the untrained model."""
        self.once(self.heads, "fit", self.data / "inspec" / "dev.jsonl")

    def rank(self, name: str) -> None:
        """Untrained heads as rankers, on documents that no choice has seen."""
        data = self.data / name
        heads = ["--heads", self.heads, "--idf", data / "train.jsonl", "--dev", data / "dev.jsonl"]
        test = data / f"{COLLECTIONS[name].unseen}.jsonl"
        self.once(self.file("ranked", name), "evaluate", test, *heads)

    def mark(self, name: str) -> None:
        """The trained tagger as ranker."""
        model = ["--model", self.tagger(name), "--weights", "tagger", *COLLECTIONS[name].marking]
        self.once(self.file("marked", name), "evaluate", self.data / name / "test.jsonl", *model)

    def search(self, name: str) -> None:
        if (self.data / name).exists():
            self.once(
                self.file("searched", name), "search", self.data / name, "--heads", self.heads
            )

    def once(self, out: Path, command: str, data: Path, *words: object) -> None:
        """rank.py with its result in a file, if it is not there yet."""
        if not out.exists():
            self.call(out.stem, "rank.py", command, data.resolve(), *words, "--out", out)

    @property
    def heads(self) -> Path:
        return (self.out / "heads.json").resolve()

    def file(self, experiment: str, name: str) -> Path:
        return (self.out / f"{experiment}-{name}.json").resolve()

    # What they found --------------------------------------------------------------------------

    def facts(self) -> dict:
        """Everything that the page tells."""
        return {
            "taggers": {name: self.trained(name) for name in COLLECTIONS},
            "ablation": {name: self.ablated(name) for name in COLLECTIONS},
            "pruning": {name: self.pruned(name) for name in PRUNED},
            "choice": read_json(self.heads),
            "ranked": {name: self.ranked(name) for name in COLLECTIONS},
            "marked": {name: self.scores("marked", name)["tagger"] for name in COLLECTIONS},
            "searched": {
                title: self.scores("searched", name)
                for name, title in SEARCHES.items()
                if self.file("searched", name).exists()
            },
        }

    def trained(self, name: str) -> dict[str, list[float]]:
        """{system: AP by seed}."""
        folders = [self.tagger(name, seed) for seed in self.settings.seeds]
        found = [read_json(folder / "results.json")["test"] for folder in folders]
        return {s: [100 * scores[s]["AP"]["value"] for scores in found] for s in found[0]}

    def ablated(self, name: str) -> dict:
        folder = self.tagger(name)
        parts = read_ablations(folder)["ablation-zero"]
        return {
            "answers": tables.ablation_answers(parts),
            "orders": tables.curve_rows(parts["curves"]),
            "heads": self.figure(folder / "ablation-zero" / "heads.png", f"study-heads-{name}.png"),
            "curves": self.figure(
                folder / "ablation-zero" / "curves.png", f"study-curves-{name}.png"
            ),
        }

    def pruned(self, name: str) -> dict:
        """{"shares": {heads kept: {way: (share, low, high)}}, "chance": {heads kept: shares of
        random draws}, "figure"}."""
        shares: dict[int, dict[str, tuple]] = defaultdict(dict)
        chance: dict[int, list[float]] = defaultdict(list)
        for keep, way, *share in read_json(self.file("pruned", name)):
            if way.startswith("random"):
                chance[keep].append(share[0])
            else:
                shares[keep][way] = share
        figure = f"study-pareto-{name}.png"
        ways = sorted({way for found in shares.values() for way in found})
        lines = {
            way: {k: found[way] for k, found in shares.items() if way in found} for way in ways
        }
        figures.draw_kept(
            self.settings.page.parent / figure, lines, chance, 1.0, "share of the dense AP on test"
        )
        return {"shares": shares, "chance": chance, "figure": figure}

    def ranked(self, name: str) -> dict:
        """{"test": {way: {measure: Score}}, "alone": F1@10 of every head}."""
        alone = read_json(self.file("ranked", name))["f1_by_head"]
        return {"test": self.scores("ranked", name), "alone": [100 * f1 for f1 in alone.values()]}

    def scores(self, experiment: str, name: str) -> dict:
        """{way: {measure: Score, or a p value as it is}} of rank.py on test."""
        found = read_json(self.file(experiment, name))["test"]
        return {
            way: {m: v if isinstance(v, float) else Score(**v) for m, v in values.items()}
            for way, values in found.items()
        }

    def figure(self, source: Path, name: str) -> str:
        """Copied beside the page; its name there."""
        self.settings.page.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, self.settings.page.parent / name)
        return name


def spread(values: Sequence[float]) -> str:
    """The mean, and how far the largest and the smallest are apart."""
    return f"{statistics.mean(values):.1f} ({max(values) - min(values):.1f})"


main = partial(cli.run, run, Settings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
