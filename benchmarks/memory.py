"""The peak memory of one optimizer step under each memory plan, without a GPU.

python -m benchmarks.memory. The steps run on fake tensors (minibert/training/memory.py says what is
counted). On a machine with a GPU, real steps are measured beside them, in an allocator that is
limited to 2 GiB less a CUDA context of 500 MiB.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from benchmarks.workload import BERT_BASE, DTYPES, markdown
from minibert import BertForTokenClassification
from minibert.data.batches import Window, collate
from minibert.runtime import cli
from minibert.runtime.peak import MIB
from minibert.training.memory import PLANS, predicted_peak
from minibert.training.settings import TrainSettings
from minibert.training.step import Stepper

FUSED = replace(BERT_BASE, attention_probs_dropout_prob=0.0)


@dataclass(frozen=True)
class Settings:
    length: int = 512
    """Word pieces of each document."""

    documents: int = 8
    """Documents of the larger accumulation window; each is a micro-batch of its own."""


def run(settings: Settings) -> None:
    window = Window(0, [0] * settings.length, [0], [1], [])
    step = TrainSettings(tokens=settings.length, precision="float32")
    layerwise = replace(step, plan="layerwise")
    counts = (1, settings.documents)
    rows = [["trained", "plan", *(f"{n} document(s), MiB" for n in counts), "measured on the GPU"]]

    for plan in PLANS:
        planned = replace(step, plan=plan)
        cells = [f"{predicted_peak(FUSED, planned, [window] * n):.0f}" for n in counts]
        rows.append(["all weights", plan, *cells, measured_peaks(planned, window, counts)])

    for title, frozen in (("all weights", False), ("all but the embeddings", True)):
        smaller = replace(layerwise, states="bf16", freeze_embeddings=frozen)
        peak = predicted_peak(FUSED, smaller, [window])
        rows.append([title, "layerwise, states in bf16", f"{peak:.0f}", "", ""])

    for name, dtype in DTYPES.items():
        peak = predicted_peak(FUSED, layerwise, [window], frozen=True, gates=True, dtype=dtype)
        rows.append(["gates only", f"layerwise, {name}", f"{peak:.0f}", "", ""])
    print(f"BERT-base, {settings.length} pieces a document\n\n{markdown(rows, 2)}")


def measured_peaks(settings: TrainSettings, window: Window, counts: Sequence[int]) -> str:
    if not torch.cuda.is_available():
        return "no GPU"
    return ", ".join(f"{measured_peak(settings, [window] * n):.0f}" for n in counts)


def measured_peak(settings: TrainSettings, windows: Sequence[Window]) -> float:
    """MiB of two real steps on the GPU; infinity if they do not fit."""
    torch.cuda.set_per_process_memory_fraction(
        1548 * MIB / torch.cuda.get_device_properties(0).total_memory
    )
    torch.cuda.reset_peak_memory_stats()
    try:
        stepper = Stepper(BertForTokenClassification(FUSED).cuda().train(), settings, 10)
        for number in range(2):
            stepper.step(number, [collate([window]) for window in windows])
    except torch.OutOfMemoryError:
        return float("inf")
    return torch.cuda.max_memory_allocated() / MIB


main = partial(cli.run, run, Settings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
