"""Seconds and MB that `import minibert` and loading MiniLM take beyond `import torch`.

python -m benchmarks.startup
"""

import resource
import statistics
import subprocess
import sys
from dataclasses import dataclass
from functools import partial

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

    repeats: int = 7


def measure(code: str) -> tuple[float, float]:
    """Seconds and MB of the code in a new process."""
    program = MEASURE.format(code=code, page=resource.getpagesize())
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    seconds, megabytes = map(float, process.stdout.split())
    return seconds, megabytes


def run(settings: Settings) -> None:
    model = settings.model
    pairs = [(measure(BARE), measure(OURS.format(model=model))) for _ in range(settings.repeats)]
    seconds = statistics.median(ours[0] - bare[0] for bare, ours in pairs)
    memory = statistics.median(ours[1] - bare[1] for bare, ours in pairs)
    print(f"import minibert and load {model}: {seconds:.2f} s, {memory:.0f} MB above import torch")


main = partial(cli.run, run, Settings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
