"""The whole study: every experiment on every collection, and docs/study.md from what it found.

make study DATA=DIR, or python -m benchmarks.study --data DIR, where DIR holds kpcrowd500, inspec,
semeval2017 and, for search, ir_cranfield and ir_scifact. Everything is a run of one of the scripts
in a folder of its own: it goes on after a kill, and what is finished is only read.
"""

import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

import ablate
import rank
from benchmarks import pruning, tagger
from minibert import cli, report
from minibert.config import BertConfig
from minibert.errors import InputError
from minibert.files import read_json, write_text
from minibert.metrics import Score

HERE = Path(__file__).parent
COLLECTIONS = {"kpcrowd500": "500N-KPCrowd", "inspec": "Inspec", "semeval2017": "SemEval-2017"}
RUNS = {"kpcrowd500": "kpcrowd500", "inspec": "inspec-bio", "semeval2017": "semeval2017"}
UNSEEN = {"semeval2017": "liaad493"}  # what untrained heads are scored on, instead of test
MARKING = {  # of a trained tagger's candidates; chosen on dev
    "kpcrowd500": ["--aggregate", "often"],
    "inspec": ["--candidates", "tagger", "--aggregate", "mean"],
    "semeval2017": ["--candidates", "tagger", "--aggregate", "mean"],
}
SEARCHES = {"ir_cranfield": "Cranfield", "ir_scifact": "SciFact"}


@dataclass(frozen=True)
class Settings:
    data: Path
    """Folder with the collections."""
    out: Path = Path("runs/study")
    """Folder for the runs."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the taggers; heads are ablated and pruned in the first."""
    documents: int = 50
    """Of dev and of test, to ablate heads and measure pruned models on."""
    stride: int = 4
    """Heads masked at each step of a curve."""
    keep: tuple[int, ...] = (54, 36, 18, 6)
    """Heads that pruning leaves."""
    page: Path = HERE.parent / "docs" / "study.md"


def run(settings: Settings) -> None:
    report.require_figures()
    tasks = tuple(name.replace("-", " ") for name in RUNS.values())
    tagger.run(tagger.Settings(settings.data, settings.out, settings.seeds, tasks))
    facts = {
        "taggers": taggers(settings),
        "ablation": {name: ablation(settings, name) for name in COLLECTIONS},
        "pruning": {name: pruned(settings, name) for name in COLLECTIONS},
        "choice": choice(settings),
        "phrases": {name: phrases(settings, name) for name in COLLECTIONS},
        "marked": {name: marked(settings, name) for name in COLLECTIONS},
        "searches": {title: found for name, title in SEARCHES.items()
                     if (found := searched(settings, name))},
    }  # fmt: skip
    loader = FileSystemLoader(HERE)
    environment = Environment(loader=loader, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("study.md.j2").render(
        facts, names=COLLECTIONS, settings=settings
    )
    write_text(settings.page, page)
    print(f"The study is in {settings.page}")


def call(script: Callable[[Sequence[str]], int], *words: object) -> None:
    if script([str(word) for word in words]):
        raise InputError(f"stopped at {script.__module__} {' '.join(map(str, words))}")


def first_run(settings: Settings, name: str) -> Path:
    return settings.out / f"{RUNS[name]}-{settings.seeds[0]}"


def figure(settings: Settings, source: Path, name: str) -> str:
    """Copied beside the page; its name there."""
    settings.page.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, settings.page.parent / name)
    return name


# The parts ----------------------------------------------------------------------------------------


def taggers(settings: Settings) -> list[dict]:
    """Mean and spread of each collection's test scores over the seeds."""
    rows = []
    for name, title in COLLECTIONS.items():
        results = [
            read_json(settings.out / f"{RUNS[name]}-{seed}" / "results.json")["test"]
            for seed in settings.seeds
        ]
        values = [100 * found["minibert"]["AP"]["value"] for found in results]
        others = {s: 100 * results[0][s]["AP"]["value"] for s in results[0] if s != "minibert"}
        spread = max(values) - min(values)
        row = {"title": title, "mean": statistics.mean(values), "spread": spread}
        rows.append(row | {"others": others})
    return rows


def ablation(settings: Settings, name: str) -> dict:
    folder = first_run(settings, name)
    few = ["--documents", settings.documents, "--stride", settings.stride]
    call(ablate.main, "--run", folder, *few)
    out = folder / "ablation-zero"
    curves = {
        path.stem.removeprefix("curve-"): read_json(path)
        for path in sorted(out.glob("curve-*.json"))
    }
    parts = ("single-dev", "single-test", "alone-dev", "alone-test", "gaze-dev", "gaze-test")
    results = {part: read_json(out / f"{part}.json") for part in parts} | {"curves": curves}
    return {
        "summary": report.ablation_summary(results),
        "heads": figure(settings, out / "heads.png", f"heads-{name}.png"),
        "curves": figure(settings, out / "curves.png", f"curves-{name}.png"),
    }


def pruned(settings: Settings, name: str) -> dict:
    folder = first_run(settings, name)
    recovered = tuple(keep for keep in settings.keep if keep <= 36)
    asked = pruning.Settings(
        (folder,), settings.keep, recovered, documents=settings.documents, random=3
    )
    rows = [*pruning.learned(folder, asked), *pruning.controls(folder, asked)]
    layers = BertConfig.load(folder / "config.json").present_heads
    return {
        "rows": sorted(rows, key=lambda row: -row[1]),
        "all": len(layers),
        "figure": figure(settings, folder / "pareto.png", f"pareto-{name}.png"),
    }


def choice(settings: Settings) -> dict:
    """The heads that pick keyphrases best on dev of Inspec, from the untrained model."""
    out = settings.out / "heads.json"
    if not out.exists():
        call(rank.main, "fit", settings.data / "inspec" / "dev.jsonl", "--out", out)
    return read_json(out)


def scored(settings: Settings, out: Path, *words: object) -> dict:
    """What rank.py evaluate wrote, computed if it is not there."""
    if not out.exists():
        call(rank.main, "evaluate", *words, "--out", out)
    return read_json(out)


def phrases(settings: Settings, name: str) -> dict:
    """Untrained heads as rankers, on documents that no choice has seen."""
    data = settings.data / name
    test = data / f"{UNSEEN.get(name, 'test')}.jsonl"
    out = settings.out / f"phrases-{name}.json"
    heads = ["--heads", settings.out / "heads.json", "--idf", data / "train.jsonl"]
    found = scored(settings, out, test, *heads, "--dev", data / "dev.jsonl")
    return {"table": table(found["test"]), "alone": list(found["F1@10 of each head"].values())}


def marked(settings: Settings, name: str) -> dict:
    """The trained tagger as ranker."""
    out = settings.out / f"marked-{name}.json"
    test = settings.data / name / "test.jsonl"
    model = ["--model", first_run(settings, name), "--weights", "tagger", *MARKING[name]]
    found = scored(settings, out, test, *model)["test"]
    return {"table": table({"tagger": found["tagger"]})}


def searched(settings: Settings, name: str) -> str:
    """The table of rank.py search; empty where the collection is not there."""
    data, out = settings.data / name, settings.out / f"search-{name}.json"
    if not data.exists():
        return ""
    if not out.exists():
        heads = ["--heads", settings.out / "heads.json"]
        call(rank.main, "search", data, *heads, "--out", out)
    rows = read_json(out)["test"]
    return report.search_table(
        {way: {m: v if m == "p" else Score(**v) for m, v in r.items()} for way, r in rows.items()}
    )


def table(rows: dict) -> str:
    shown = ("F1@5", "F1@10", "F1@15", "F1@O", "P@10", "AP")
    return report.score_table(
        {name: {m: Score(**found[m]) for m in shown} for name, found in rows.items()}
    )


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, Settings, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
