"""Every benchmark that needs neither a trained run nor data -> benchmarks/RESULTS.md.

make bench, or python -m benchmarks.run_all. Each runs in its own process. Its command and its
output are written as soon as it ends. The ablation needs the peer that `make peers` builds.
"""

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from benchmarks.ablation import Settings as Ablation
from benchmarks.workload import machine
from minibert.data.corpus import SAMPLE
from minibert.files import write_text
from minibert.runtime import cli


@dataclass(frozen=True)
class Settings:
    data: Path | None = None
    """JSONL of documents; without it random ones, and the bundled sample for the ablation."""

    threads: int = 1

    out: Path = Path(__file__).parent / "RESULTS.md"


def commands(settings: Settings) -> list[list[str]]:
    """The module of each benchmark with its options."""
    threads = ["--threads", str(settings.threads)]
    shared = [*threads, *(["--data", str(settings.data)] if settings.data else [])]
    base = ["--shape", "bert-base", "--documents", "16"]
    benchmarks = [
        ["benchmarks.startup"],
        ["benchmarks.memory"],
        ["benchmarks.forward", *shared],
        ["benchmarks.forward", *shared, "--by-length"],
        ["benchmarks.forward", *shared, *base],
        ["benchmarks.training", *shared],
        ["benchmarks.training", *shared, *base],
    ]
    if all(python.exists() for python in Ablation.peers):
        data = str(settings.data or SAMPLE / "test.jsonl")
        benchmarks.append(["benchmarks.ablation", *threads, "--data", data])
    return benchmarks


def run(settings: Settings) -> None:
    text = (
        f"# Benchmarks\n\n{machine()}, {os.cpu_count()} cores, {platform.system()}, Python "
        f"{platform.python_version()}, torch {version('torch')}. Written by `make bench`.\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": str(settings.threads)}
    for command in commands(settings):
        words = ["-m", *command]
        print("python", *words, flush=True)
        process = subprocess.run(
            [sys.executable, *words], env=environment, capture_output=True, text=True
        )
        output = process.stdout
        if process.returncode:
            output += "failed: " + process.stderr.strip().rpartition("\n")[2] + "\n"
        print(output, flush=True)

        text += f"\n`python {' '.join(words)}`\n\n```text\n{output}```\n"
        write_text(settings.out, text)


main = partial(cli.run, run, Settings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
