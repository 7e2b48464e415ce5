"""What one optimizer step of BERT-base takes at most, by every memory plan, without a GPU.

python -m benchmarks.memory. The steps run on fake tensors, which have shapes and no values; counted
are weights, optimizer states, gradients and activations, in the blocks of CUDA's allocator. What
`layerwise` parks in the host's memory is not counted. A CUDA context takes some hundred MiB more.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.workload import BERT_BASE
from minibert import BertForTokenClassification, cli
from minibert.data import Batch, Window
from minibert.gates import HardConcreteGates
from minibert.memory import PeakMeter
from minibert.model import Packing
from minibert.training import Plan, Stepper, TrainSettings

FUSED = replace(BERT_BASE, attention_probs_dropout_prob=0.0)


@dataclass(frozen=True)
class Settings:
    length: int = 512
    """Word pieces of every document."""
    documents: int = 8
    """Of the larger window; each is a micro-batch of its own."""


class Simulated(Stepper):
    def _finite(self, losses: Sequence[torch.Tensor], number: int) -> float:
        return 0.0  # fake tensors have no value to look at


def peak(
    plan: Plan, documents: int, length: int, frozen: bool = False, dtype: torch.dtype = torch.float
) -> float:
    """MiB of the second of two steps; the first one makes the optimizer's states."""
    window = Window(0, [0] * length, [0], [1], [])
    packing = Packing(torch.arange(length), [length], torch.Size((1, length)))
    settings = TrainSettings(plan=plan, precision="float32")
    torch.set_default_dtype(dtype)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = BertForTokenClassification(FUSED).requires_grad_(not frozen)
        gates = HardConcreteGates(FUSED) if frozen else None
        stepper = Simulated(model.train(not frozen), settings, 10, gates)
        if plan == "layerwise":
            stepper.passes.parking = torch.device("meta")
        price = torch.zeros(12, 12)
        ids = torch.zeros(1, length, dtype=torch.long)
        batches = [Batch(ids, packing, ids, [window])] * documents
        with PeakMeter(model.parameters()) as meter:
            for number in range(2):
                stepper.step(number, batches, price)
    torch.set_default_dtype(torch.float)
    return meter.peak / 2**20


def run(settings: Settings) -> None:
    print(f"BERT-base, documents of {settings.length} pieces: MiB at most")
    for plan in ("plain", "checkpoint", "layerwise"):
        for documents in (1, settings.documents):
            most = peak(plan, documents, settings.length)
            print(f"all weights, {plan:12} {documents} documents {most:8.0f}", flush=True)
    for dtype in (torch.float32, torch.bfloat16):
        most = peak("checkpoint", 1, settings.length, frozen=True, dtype=dtype)
        print(f"gates only, checkpoint   {str(dtype).removeprefix('torch.'):11} {most:8.0f}")


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, Settings, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
