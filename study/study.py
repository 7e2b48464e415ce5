"""The whole study: every experiment on every collection, and docs/study.md from the results.

make study DATA=DIR, or python -m study.study --data DIR. Each experiment runs in its own process,
with its own log and one file of results. After a kill, the same command continues: it leaves out
what has a result, and training goes on where it stopped. An experiment that fails leaves out those
that need it. --quick makes every table from a part of the documents in half an hour.
"""

import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial

from tqdm import tqdm

from minibert.errors import InputError, check
from minibert.evaluation.duration import describe_seconds
from minibert.files import write_text
from minibert.runtime import cli
from study.folder import Study, split_file
from study.page import make_page
from study.plan import (
    HERE,
    PARENT,
    TASKS,
    UNTRAINED,
    Experiment,
    Settings,
    experiments,
    minutes,
)

ENOUGH = 10  # minutes of work done, to tell the speed of the machine from


@dataclass(frozen=True)
class StudySettings(Settings):
    """The command line of study/study.py."""

    processes: int = 2
    """Experiments at a time; they share the processor cores."""

    page_only: bool = False
    """Write the page from the results that exist, and run nothing."""


def run(settings: StudySettings) -> None:
    cli.require("report")
    cli.require("search")
    check(settings.processes >= 1, "--processes must be at least 1")
    study = Study(settings)

    failures = []
    if not settings.page_only:
        check_collections(study)
        study.make_e5()
        study.copy_parts()
        failures = run_experiments(study, plan(study), settings.processes)
    write_text(settings.page, make_page(study))
    print(f"The study is in {settings.page}")
    check(not failures, f"{len(failures)} experiments failed: {', '.join(failures)}")


def check_collections(study: Study) -> None:
    """Raise InputError for the first file of a task that is missing."""
    for task in TASKS.values():
        for split in ("train", "dev", "test"):
            file = split_file(study.data / task.data, split)
            check(file.is_file(), f"{file}: no such file; --data names the folder of collections")


def plan(study: Study) -> list[Experiment]:
    """The experiments, of the encoders and collections that exist."""
    planned = []
    for experiment in experiments(study.size, study.encoders):
        if experiment.kind == "searched" and not (study.data / experiment.subject).is_dir():
            print(f"{study.data / experiment.subject}: no such folder; left out", file=sys.stderr)
            continue
        planned.append(experiment)
    return planned


def run_experiments(study: Study, planned: Sequence[Experiment], processes: int) -> list[str]:
    """Run what has no result yet, so many at a time. Returns the names of those that failed.
    Raises InputError for results of another version, before the work."""
    done = finished_experiments(study, planned)
    left = [experiment for experiment in planned if experiment.name not in done]
    if not left:
        return []

    expected = {experiment.name: minutes(experiment, study.size) for experiment in planned}
    time_left = describe_seconds(60 * minutes_left(study, expected, done) / processes)
    print(f"experiments: {len(planned)}, {len(left)} to run; {time_left}", flush=True)

    failed: list[str] = []
    running: dict[Future, str] = {}
    bar = tqdm(total=round(sum(expected.values())), unit="min", disable=None)
    bar.update(round(sum(expected[name] for name in done)))
    with bar, ThreadPoolExecutor(processes) as pool:
        while running or ready(left, done):
            for experiment in ready(left, done)[: processes - len(running)]:
                left.remove(experiment)
                threads = max(1, (os.cpu_count() or 1) // processes)
                running[pool.submit(call, study, experiment.name, threads)] = experiment.name

            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                name = running.pop(future)
                bar.update(round(expected[name]))
                if error := future.exception():
                    failed.append(name)
                    tqdm.write(f"error: {error}", file=sys.stderr)
                else:
                    done.add(name)
    return failed


def finished_experiments(study: Study, planned: Sequence[Experiment]) -> set[str]:
    """The names of those that have a result. A tagger whose run folder is gone counts as finished
    only if no experiment that is left needs it: results may come from another machine."""
    done = {e.name for e in planned if study.file(e.name).exists()}
    for name in done:
        study.record(name)

    left = [e for e in planned if e.name not in done and e.kind not in UNTRAINED]
    used = {study.tagger(experiment) for experiment in left}
    for experiment in planned:
        run = study.tagger(experiment)
        if experiment.kind == "tagger" and run in used and not (run / "results.json").exists():
            done.discard(experiment.name)
    return done


def minutes_left(study: Study, expected: Mapping[str, float], done: Collection[str]) -> float:
    """The minutes of work that are left, at the speed of the work done."""
    left = sum(expected[name] for name in expected.keys() - done)
    before = sum(expected[name] for name in done)
    taken = sum(study.record(name)["minutes"] for name in done)
    return left * taken / before if before > ENOUGH else left


def ready(left: Sequence[Experiment], done: Collection[str]) -> list[Experiment]:
    """Those whose needs are done."""
    return [e for e in left if e.needs is None or e.needs in done]


def call(study: Study, name: str, threads: int) -> None:
    """Run an experiment in a process of its own, with its output in a log. Raises InputError."""
    path = study.folder / "logs" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "study.experiments", name, "--data", str(study.data)]
    words += ["--quick"] * study.settings.quick
    words += ["--out", str(study.folder)] if study.settings.out else []

    with path.open("w", encoding="utf-8") as log:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), PARENT: str(os.getpid())}
        done = subprocess.run(words, cwd=HERE.parent, stdout=log, stderr=log, env=environment)
    if done.returncode:
        last = path.read_text(encoding="utf-8").strip().splitlines()[-1:]
        raise InputError(f"{name} stopped: {''.join(last)} (the whole log: {path})")


main = partial(cli.run, run, StudySettings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
