"""What `import minibert` and loading MiniLM add to `import torch`: seconds and MB of memory.

python -m benchmarks.startup [MODEL]
"""

import resource
import statistics
import subprocess
import sys

REPEATS = 7
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


def measure(code: str) -> tuple[float, float]:
    program = MEASURE.format(code=code, page=resource.getpagesize())
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    seconds, megabytes = map(float, printed.stdout.split())
    return seconds, megabytes


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2"
    pairs = [(measure(BARE), measure(OURS.format(model=model))) for _ in range(REPEATS)]
    seconds = statistics.median(ours[0] - bare[0] for bare, ours in pairs)
    memory = statistics.median(ours[1] - bare[1] for bare, ours in pairs)
    print(f"import minibert and load {model}: {seconds:.2f} s, {memory:.0f} MB above import torch")


if __name__ == "__main__":
    main()
