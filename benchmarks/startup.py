"""Seconds and MB that `import torch` takes, and with it `import minibert` and loading MiniLM.

python -m benchmarks.startup
"""

import resource
import statistics
import subprocess
import sys
from dataclasses import dataclass
from functools import partial

from benchmarks.workload import markdown
from minibert.hub import DEFAULT_MODEL
from minibert.runtime import cli

BARE = "import torch"
OURS = BARE + "; from minibert import load_pretrained; load_pretrained({model!r})"
MEASURE = """
import time, sys
began = time.perf_counter()
{code}
took = time.perf_counter() - began
pages = int(open("/proc/self/statm").read().split()[1])
print(took, pages * {page} / 2**20)
"""


@dataclass(frozen=True)
class Settings:
    model: str = DEFAULT_MODEL
    """A folder or a Hub id."""

    rounds: int = 7


def measure(code: str) -> tuple[float, float]:
    """Seconds and MB of the code in a new process."""
    program = MEASURE.format(code=code, page=resource.getpagesize())
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    seconds, megabytes = map(float, process.stdout.split())
    return seconds, megabytes


def run(settings: Settings) -> None:
    programs = {"import torch": BARE, "and load the model": OURS.format(model=settings.model)}
    rounds = [{n: measure(c) for n, c in programs.items()} for _ in range(settings.rounds)]
    rows = [["", "seconds", "MB"]]
    for name in programs:
        seconds, megabytes = (
            statistics.median(values) for values in zip(*(r[name] for r in rounds))
        )
        rows.append([name, f"{seconds:.2f}", f"{megabytes:.0f}"])
    print(f"{settings.model}, medians of {settings.rounds} rounds\n\n{markdown(rows)}")


main = partial(cli.run, run, Settings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
