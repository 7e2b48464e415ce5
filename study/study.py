"""The whole study: every experiment on every collection, and docs/study.md from the results.

make study DATA=DIR, or python -m study.study --data DIR. DIR holds kpcrowd500, inspec, semeval2017
and, for search, ir_cranfield and ir_scifact. Each experiment runs one of the scripts in its own
process and with its own log. After a kill, the same command continues: it reads the results of
finished experiments.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader
from tqdm import tqdm

from minibert.errors import InputError
from minibert.evaluation.intervals import Change, Score
from minibert.files import read_json, write_text
from minibert.keyphrases.choice import ALL_HEADS, NO_ATTENTION, RANDOM, UNIFORM, Kind
from minibert.report import figures, tables
from minibert.report.results import from_json, read_ablations
from minibert.runtime import cli
from study import tagger

HERE = Path(__file__).parent


class Collection(NamedTuple):
    """A collection and its options, which were chosen on dev."""

    title: str

    task: tagger.Name

    kind: Kind
    """The score of keyphrases is fitted to dev of all collections of a kind."""

    ablated: int
    """Documents of dev and of test to mask heads on: 5,000 to 7,000 words."""

    marking: tuple[str, ...]
    """Options of rank.py for a trained tagger."""

    pruning: tuple[str, ...] = ()
    """Options of benchmarks.pruning; without any, the taggers are not pruned."""


BY_TAGGER = ("--candidates", "tagger")
FEW = ("--documents", "30", "--batch-size", "2", "--learning-rate", "5e-5")
COLLECTIONS = {
    "kpcrowd500": Collection("500N-KPCrowd", "kpcrowd500", "tags", 15, (), FEW),
    "inspec": Collection(
        "Inspec", "inspec bio", "keyphrases", 60, BY_TAGGER, ("--documents", "200")
    ),
    "semeval2017": Collection("SemEval-2017", "semeval2017", "keyphrases", 40, BY_TAGGER),
}
KINDS: tuple[Kind, ...] = ("keyphrases", "tags")
PRUNED = [name for name, collection in COLLECTIONS.items() if collection.pruning]
SEARCHES = {"ir_cranfield": "Cranfield", "ir_scifact": "SciFact"}


@dataclass(frozen=True)
class Settings:
    data: Path
    """Folder with the collections."""

    out: Path = Path("runs/study")
    """Folder for the runs."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the taggers; the first one's heads are masked."""

    pruned: int = 1
    """Number of seeds whose taggers are pruned."""

    points: int = 12
    """Points of a curve."""

    processes: int = 2
    """Experiments at a time; they share the processor cores."""

    page: Path = HERE.parent / "docs" / "study.md"


def run(settings: Settings) -> None:
    cli.require("report")
    cli.require("search")
    names = tuple(collection.task for collection in COLLECTIONS.values())
    tagger.run(tagger.Settings(settings.data, settings.out, settings.seeds, names))

    began = time.monotonic()
    study = Study(settings)
    run_experiments(study, settings.processes)
    write_text(settings.page, make_page(study))
    print(f"The study is in {settings.page}; {(time.monotonic() - began) / 60:.0f} minutes")


def run_experiments(study: "Study", processes: int) -> None:
    with ThreadPoolExecutor(processes) as pool:
        fits = [pool.submit(study.fit, kind) for kind in KINDS]
        experiments = [pool.submit(study.prune, name) for name in PRUNED]
        experiments += [pool.submit(study.ablate, name) for name in COLLECTIONS]
        experiments += [pool.submit(study.mark, name) for name in COLLECTIONS]

        for fit in fits:
            fit.result()  # the next ones use the chosen heads
        experiments += [pool.submit(study.rank, name) for name in COLLECTIONS]
        experiments += [pool.submit(study.search, name) for name in SEARCHES]

        try:
            for experiment in tqdm(experiments, desc="experiments"):
                experiment.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def make_page(study: "Study") -> str:
    loader = FileSystemLoader(HERE)
    environment = Environment(loader=loader, trim_blocks=True, lstrip_blocks=True)
    environment.filters["spread"] = spread
    return environment.get_template("study.md.j2").render(
        study.results(),
        collections=COLLECTIONS,
        settings=study.settings,
        search_rows=tables.search_rows,
    )


class Study:
    """The experiments, which leave files, and the results read from these files."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.out, self.data = settings.out.resolve(), settings.data.resolve()

    def call(self, log: str, *words: object) -> None:
        """Run `python WORDS` with its output in a log. Raises InputError if it fails."""
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
            raise InputError(f"{log} stopped: {''.join(last)} (the whole log: {path})")

    def tagger(self, name: str, seed: int | None = None) -> Path:
        """The run folder of the tagger of a collection."""
        seed = self.settings.seeds[0] if seed is None else seed
        task = COLLECTIONS[name].task.replace(" ", "-")
        return self.out / f"{task}-{seed}"

    # The experiments --------------------------------------------------------------------------

    def ablate(self, name: str) -> None:
        few = ["--documents", COLLECTIONS[name].ablated, "--points", self.settings.points]
        orders = ["--orders", "single", "gradient", "entropy", "--random", 3]
        self.call(f"ablate-{name}", "ablate.py", "--run", self.tagger(name), *few, *orders)

    def prune(self, name: str) -> None:
        runs = [self.tagger(name, seed) for seed in self.settings.seeds[: self.settings.pruned]]
        how = [*COLLECTIONS[name].pruning, "--out", self.file("pruned", name)]
        self.call(f"prune-{name}", "-m", "benchmarks.pruning", "--runs", *runs, *how)

    def fit(self, kind: Kind) -> None:
        """Choose heads of the untrained model, and fit the score, on dev documents of a kind."""
        dev = [self.data / name / "dev.jsonl" for name, c in COLLECTIONS.items() if c.kind == kind]
        self.once(self.file("fit", kind), "fit", *dev)

    def rank(self, name: str) -> None:
        """Score keyphrases by the heads that were chosen for the collection's kind."""
        heads = self.file("fit", COLLECTIONS[name].kind)
        test = self.data / name / "test.jsonl"
        self.once(self.file("ranked", name), "evaluate", test, "--heads", heads)

    def mark(self, name: str) -> None:
        """Score keyphrases by the trained tagger."""
        model = ["--model", self.tagger(name), "--weights", "tagger", *COLLECTIONS[name].marking]
        self.once(self.file("marked", name), "evaluate", self.data / name / "test.jsonl", *model)

    def search(self, name: str) -> None:
        """Score search with weights by the heads for keyphrases, if the collection exists."""
        if (self.data / name).exists():
            heads = self.file("fit", "keyphrases")
            self.once(self.file("searched", name), "search", self.data / name, "--heads", heads)

    def once(self, out: Path, command: str, *words: object) -> None:
        """Run a command of rank.py that writes the file `out`, unless it exists."""
        if not out.exists():
            self.call(out.stem, "rank.py", command, *words, "--out", out)

    def file(self, experiment: str, name: str) -> Path:
        return self.out / f"{experiment}-{name}.json"

    # The results ------------------------------------------------------------------------------

    def results(self) -> dict[str, Any]:
        """The values in the page."""
        return {
            "taggers": {name: self.trained(name) for name in COLLECTIONS},
            "ablation": {name: self.ablated(name) for name in COLLECTIONS},
            "pruning": {name: self.pruned(name) for name in PRUNED},
            "fits": {kind: read_json(self.file("fit", kind)) for kind in KINDS},
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
        scores = [read_json(folder / "results.json")["test"] for folder in folders]
        return {
            system: [100 * of_seed[system]["AP"]["value"] for of_seed in scores]
            for system in scores[0]
        }

    def ablated(self, name: str) -> dict[str, Any]:
        ablation = read_ablations(self.tagger(name))["ablation-zero"]
        folder = self.tagger(name) / "ablation-zero"
        return {
            "answers": tables.ablation_answers(ablation),
            "orders": tables.curve_rows(ablation.curves),
            "heads": self.figure(folder / "heads.png", f"study-heads-{name}.png"),
            "curves": self.figure(folder / "curves.png", f"study-curves-{name}.png"),
        }

    def pruned(self, name: str) -> dict[str, Any]:
        """{"shares": {heads kept: {way: (share, low, high)}}, "chance": {heads kept: shares of
        random draws}, "figure": its name}."""
        shares: dict[int, dict[str, list[float]]] = defaultdict(dict)
        chance: dict[int, list[float]] = defaultdict(list)
        lines: dict[str, dict[int, Score]] = defaultdict(dict)

        for keep, way, *share in read_json(self.file("pruned", name)):
            if way.startswith("random"):
                chance[keep].append(share[0])
            else:
                shares[keep][way] = share
                lines[way][keep] = Score(*share)

        figure = f"study-pareto-{name}.png"
        figures.draw_kept(
            self.settings.page.parent / figure,
            dict(sorted(lines.items())),
            chance,
            1.0,
            "share of the dense AP on test",
        )
        return {"shares": shares, "chance": chance, "figure": figure}

    def ranked(self, name: str) -> dict[str, Any]:
        """{"test": {way: {measure: Score}}, "above": {way: Change of F1@10}, "claims": see
        `claims`, "alone": F1@10 of every head}."""
        record = read_json(self.file("ranked", name))
        test = self.scores("ranked", name)
        above = from_json(dict[str, Change], record["F1@10 above"])
        return {
            "test": test,
            "above": above,
            "claims": claims(test, above),
            "alone": [100 * f1 for f1 in record["f1_by_head"].values()],
        }

    def scores(self, experiment: str, name: str) -> dict[str, dict[str, Score | float]]:
        """{way: {measure: Score, or a p-value as a number}} of rank.py on test."""
        record = read_json(self.file(experiment, name))["test"]
        return {
            way: {m: v if isinstance(v, float) else from_json(Score, v) for m, v in values.items()}
            for way, values in record.items()
        }

    def figure(self, source: Path, name: str) -> str:
        """Copy a figure beside the page under this name, which is returned."""
        self.settings.page.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, self.settings.page.parent / name)
        return name


def claims(test: Mapping[str, Mapping[str, Any]], above: Mapping[str, Change]) -> dict[str, bool]:
    """Whether each sentence about the chosen heads holds. `test`: {way: {measure: Score}}.
    `above`: how much the F1@10 of these heads is above that of each way."""

    def beats(*ways: str) -> bool:
        return all(above[way].low > 0 for way in ways)

    beats_draws = test["these heads"]["F1@10"].value > test[RANDOM]["F1@10"].high
    pagerank = above["PageRank of these"]
    return {
        "attention adds to occurrences, position and length": beats(NO_ATTENTION),
        "the choice of heads beats all heads, uniform weights and every draw of random heads": (
            beats_draws and beats(ALL_HEADS, UNIFORM)
        ),
        "the score beats first candidates, frequency and TextRank": (
            beats("first candidates", "frequency", "TextRank")
        ),
        "PageRank over the attention differs from its plain sum": pagerank.low * pagerank.high > 0,
    }


def spread(values: Sequence[float]) -> str:
    """The mean, and in brackets the largest less the smallest value."""
    return f"{statistics.mean(values):.1f} ({max(values) - min(values):.1f})"


main = partial(cli.run, run, Settings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
