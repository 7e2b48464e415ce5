"""Peak memory against sums done by hand, and on fake tensors as on real ones."""

import pytest
import torch
from conftest import TINY
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.memory import Simulated
from minibert import BertForTokenClassification
from minibert.data import Batch, Window
from minibert.memory import PeakMeter
from minibert.model import Packing
from minibert.training import TrainSettings


def test_the_peak_is_what_is_alive_at_once():
    before = torch.zeros(256)  # 1024 bytes
    with PeakMeter([before, before.view(2, 128)]) as meter:
        assert meter.now == 1024
        first = torch.ones(1024)  # 4096
        first.add_(1)  # in place
        part = first[3:].view(-1)  # the same memory
        assert meter.now == 5120
        del first
        assert meter.now == 5120  # the view holds it
        del part
        assert meter.now == 1024
        tiny = torch.ones(1)  # a block of 512
        assert meter.now == 1536
        torch.ones(2048)
        assert tiny.shape == (1,)
    assert (meter.now, meter.peak) == (1536, 1536 + 8192)


def peak_of_two_steps(plan: str) -> int:
    model = BertForTokenClassification(TINY)
    settings = TrainSettings(plan=plan, precision="float32")
    stepper = Simulated(model.train(), settings, 10)
    lengths = [11, 7]
    packing = Packing(torch.tensor([*range(11), *range(11, 18)]), lengths, torch.Size((2, 11)))
    windows = [Window(i, [0] * n, [0, 1], [1, 2], []) for i, n in enumerate(lengths)]
    zeros = torch.zeros(2, 11, dtype=torch.long)
    batches = [Batch(zeros, packing, zeros, windows)] * 3
    with PeakMeter(model.parameters()) as meter:
        for number in range(2):
            stepper.step(number, batches)
    return meter.peak


@pytest.mark.parametrize("plan", ["plain", "checkpoint", "layerwise"])
def test_fake_tensors_take_what_real_ones_would(plan):
    real = peak_of_two_steps(plan)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = peak_of_two_steps(plan)
    assert fake == pytest.approx(real, rel=0.01)


def test_plans_that_keep_less_take_less():
    plain, checkpoint, layerwise = map(peak_of_two_steps, ("plain", "checkpoint", "layerwise"))
    assert layerwise < checkpoint <= plain
