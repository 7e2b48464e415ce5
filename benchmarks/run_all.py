"""Every benchmark that needs neither a trained run nor data -> benchmarks/RESULTS.md.

make bench, or python -m benchmarks.run_all. Each benchmark runs in its own process. What it
measured is stored as soon as it ends, and the same command continues a run that was stopped. A
result of another machine, version or source is measured again, and so is a failed one.
"""

import hashlib
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from benchmarks.workload import has_bf16, machine
from minibert.errors import InputError, check
from minibert.evaluation.duration import describe_seconds
from minibert.files import read_object, sha256, write_json, write_text
from minibert.runtime import cli
from minibert.runtime.folder import only_writer

ROOT = Path(__file__).parents[1]
LIBRARIES = ("torch", "transformers", "accelerate", "onnxruntime", "openvino", "ctranslate2")
LIBRARIES += ("keybert",)


@dataclass(frozen=True)
class Settings:
    transformers4: Path = Path(".venv-transformers4/bin/python")
    """A Python with transformers 4.57.6, the last one with head_mask."""

    state: Path = Path("runs/bench")
    """Folder for what each benchmark measured."""

    out: Path = ROOT / "benchmarks" / "RESULTS.md"


class Benchmark(NamedTuple):
    title: str

    seconds: int
    """About, on two idle cores with AVX2. The first results show how this machine compares."""

    words: tuple[str, ...]
    """Its module and options."""

    @property
    def name(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower())


@dataclass(frozen=True)
class Result:
    """What one benchmark measured, and where."""

    words: list[str]

    environment: dict[str, str]

    seconds: float

    output: str
    """Paragraphs and tables in Markdown."""

    error: str
    """Empty if it succeeded."""


def benchmarks() -> list[Benchmark]:
    base = "--shape bert-base --layers 1 --documents 8 --lengths mixed one"
    rows = [
        ("Start-up", 50, "startup"),
        ("Memory of a training step", 60, "memory"),
        ("Heads removed", 20, "heads_removed"),
        ("Keyphrases", 70, "keyphrases --documents 8"),
        ("Forward pass, MiniLM, 1 thread", 640, "forward"),
        ("Forward pass, MiniLM, 2 threads", 240, "forward --threads 2 --lengths mixed one"),
        ("Forward pass, one layer of BERT-base, 1 thread", 150, f"forward {base}"),
        ("Forward pass, one layer of BERT-base, 2 threads", 90, f"forward {base} --threads 2"),
        ("Training step, MiniLM, 2 threads", 230, "training --threads 2"),
        ("Ablation, MiniLM, 1 thread", 500, "ablation"),
    ]
    if has_bf16():
        bf16 = "training --threads 2 --precision bf16"
        rows.append(("Training step, MiniLM, 2 threads, bf16", 250, bf16))
    return [Benchmark(title, seconds, tuple(words.split())) for title, seconds, words in rows]


def environment() -> dict[str, str]:
    """All that a result depends on besides its command."""
    sources = sorted([*ROOT.glob("minibert/**/*.py"), *ROOT.glob("benchmarks/*.py")])
    digest = hashlib.sha256("".join(map(sha256, sources)).encode()).hexdigest()
    return {
        "machine": f"{machine()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": ", ".join(f"{n} {v}" for n in ("Python", *LIBRARIES) if (v := _version(n))),
        "sources": digest[:12],
    }


def _version(package: str) -> str:
    if package == "Python":
        return platform.python_version()
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def read_result(path: Path, words: Sequence[str], here: Mapping[str, str]) -> Result | None:
    """The result in the file `path`; None if there is none, if it failed, and if it comes from
    another command, machine, version or source."""
    try:
        result = Result(**read_object(path))
    except (InputError, TypeError):
        return None
    same = result.words == list(words) and result.environment == here
    return result if same and not result.error else None


def measure(benchmark: Benchmark, here: dict[str, str], transformers4: Path) -> Result:
    """Run it in a process of its own."""
    words = [*benchmark.words]
    if "ablation" in words:
        words += ["--peers", sys.executable, str(transformers4.absolute())]
    threads = "2" if "--threads" in benchmark.words else "1"
    began = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{words[0]}", *words[1:]],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": threads},
        capture_output=True,
        text=True,
    )
    seconds = round(time.perf_counter() - began, 1)
    lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
    error = lines[-1] if process.returncode else ""
    return Result([*benchmark.words], here, seconds, process.stdout.strip(), error)


def page(results: Mapping[Benchmark, Result], here: Mapping[str, str]) -> str:
    """RESULTS.md, of the benchmarks that have ended."""
    bf16 = "" if has_bf16() else " This CPU has no bf16: there are no rows in bf16."
    parts = [
        "# Benchmarks",
        f"{here['machine']}. {here['versions']}. Written by `make bench`.{bf16}",
        "A ratio is the time over ours in the same rounds, with the range of single rounds: above "
        "1 ours is faster. The limit is the speed of the better of MKL's and oneDNN's product of "
        "the feed-forward network's matrices, with as many threads in the same rounds. A row's "
        "share of it counts the arithmetic that the answer needs: no padding, nothing twice.",
    ]
    for benchmark, result in results.items():
        command = " ".join(benchmark.words)
        output = f"Failed: {result.error}" if result.error else result.output
        parts += [f"## {benchmark.title}", f"`python -m benchmarks.{command}`", output]
    return "\n\n".join(parts) + "\n"


def seconds_left(waiting: Sequence[Benchmark], ended: Mapping[Benchmark, Result]) -> float:
    """Seconds that the waiting benchmarks take, if they compare to their `seconds` as those that
    have ended."""
    expected = sum(benchmark.seconds for benchmark in ended)
    factor = sum(result.seconds for result in ended.values()) / expected if expected else 1.0
    return factor * sum(benchmark.seconds for benchmark in waiting)


def run(settings: Settings) -> None:
    here = environment()
    todo = benchmarks()
    with only_writer(settings.out):
        results: dict[Benchmark, Result] = {}
        for number, benchmark in enumerate(todo):
            path = settings.state / f"{benchmark.name}.json"
            begin = f"[{number + 1}/{len(todo)}] {benchmark.title}: "
            result = read_result(path, benchmark.words, here)
            if result:
                print(f"{begin}measured before ({path})", flush=True)
            else:
                left = seconds_left(todo[number:], results)
                print(f"{begin}{describe_seconds(left)} for what is left", flush=True)
                result = measure(benchmark, here, settings.transformers4)
                write_json(path, result)
                print(f"{result.output}\n{result.error}\n", flush=True)

            results[benchmark] = result
            write_text(settings.out, page(results, here))

    failed = sum(bool(result.error) for result in results.values())
    check(not failed, f"{failed} of {len(todo)} benchmarks failed: see {settings.out}")


main = partial(cli.run, run, Settings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
