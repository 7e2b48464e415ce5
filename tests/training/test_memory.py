"""Peak memory against sums done by hand, and on fake tensors as on real ones."""

from dataclasses import replace

import pytest
import torch
from tiny import TINY
from torch._subclasses.fake_tensor import FakeTensorMode

from minibert import BertForTokenClassification, InputError
from minibert.attention import Packing
from minibert.data.batches import Batch, Window
from minibert.training.memory import (
    MIB,
    PLANS,
    PeakMeter,
    SimulatedStepper,
    choose_plan,
    predicted_peak,
    stepping_down,
)
from minibert.training.settings import TrainSettings


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
    stepper = SimulatedStepper(model.train(), settings, 10)
    lengths = [11, 7]
    packing = Packing(torch.tensor([*range(11), *range(11, 18)]), lengths, torch.Size((2, 11)))
    windows = [Window(i, [0] * n, [0, 1], [1, 2], []) for i, n in enumerate(lengths)]
    zeros = torch.zeros(2, 11, dtype=torch.long)
    batches = [Batch(zeros, zeros, zeros, windows, packing)] * 3
    with PeakMeter(model.parameters()) as meter:
        for number in range(2):
            stepper.step(number, batches)
    return meter.peak


@pytest.mark.parametrize("plan", PLANS)
def test_fake_tensors_take_what_real_ones_would(plan):
    real = peak_of_two_steps(plan)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = peak_of_two_steps(plan)
    assert fake == pytest.approx(real, rel=0.01)


def test_plans_that_keep_less_take_less():
    plain, layerwise = map(peak_of_two_steps, PLANS)
    assert layerwise < plain


WINDOWS = [Window(i, [0] * n, [0, 1], [1, 2], []) for i, n in enumerate((19, 11, 7, 5))]
ASKED = TrainSettings(tokens=64, batch_size=3, precision="float32", memory_limit=1000)


def peak_at(plan: str, tokens: int, windows=tuple(WINDOWS[:3])) -> float:
    return predicted_peak(TINY, replace(ASKED, plan=plan, tokens=tokens), windows)


def choose(limit_mib: float, settings=ASKED) -> TrainSettings:
    asked = replace(settings, memory_limit=limit_mib)
    return choose_plan(TINY, asked, WINDOWS, torch.device("meta")).settings


def test_auto_takes_the_fastest_plan_that_fits_and_the_most_tokens_in_it():
    """The longest three of the windows count; 38 tokens, tried after 19, hold all three too."""
    most, least = peak_at("plain", 64), peak_at("plain", 19)
    assert least < most
    chosen = choose(most)
    assert (chosen.plan, chosen.tokens) == ("plain", 64)
    chosen = choose(most - 0.001)
    assert (chosen.plan, chosen.tokens) == ("plain", 19)
    chosen = choose(least - 0.001)
    assert (chosen.plan, chosen.tokens) != ("plain", 19)
    assert peak_at(chosen.plan, chosen.tokens) < least


def test_a_limit_that_nothing_fits_is_refused_with_the_least_that_would():
    least = peak_at("layerwise", 19)
    assert choose(least).plan == "layerwise"
    with pytest.raises(InputError, match=f"takes {least:.0f} at least, with --plan layerwise"):
        choose(least - 0.001)


def test_a_named_plan_is_taken_as_it_is_and_a_cpu_has_no_limit():
    assert choose(0.001, replace(ASKED, plan="layerwise")).plan == "layerwise"
    free = replace(ASKED, memory_limit=0)
    assert choose_plan(TINY, free, WINDOWS, torch.device("cpu")).settings.plan == "plain"


def test_options_that_save_memory_save_what_they_should():
    """Two moments, of float32 or bf16, in blocks; none, and no gradient, for frozen embeddings."""
    exact, half, frozen = (
        predicted_peak(TINY, replace(ASKED, plan="layerwise", **more), WINDOWS[:1])
        for more in ({}, {"states": "bf16"}, {"states": "bf16", "freeze_embeddings": True})
    )
    tensors = BertForTokenClassification(TINY).named_parameters()
    sizes = {name: p.numel() for name, p in tensors}
    saved = sum(2 * (blocks(4 * n) - blocks(2 * n)) for n in sizes.values())
    assert (exact - half) * MIB == pytest.approx(saved, rel=0.15)
    states = sum(2 * blocks(2 * n) for name, n in sizes.items() if "embeddings" in name)
    assert (half - frozen) * MIB >= states


def blocks(size: int) -> int:
    return -(-size // 512) * 512


def test_memory_that_runs_out_steps_down_one_plan_at_a_time(capsys):
    tried = []

    def attempt(settings):
        tried.append(settings.plan)
        if settings.plan != "layerwise":
            raise torch.OutOfMemoryError("2 GiB")
        return 42

    assert stepping_down(replace(ASKED, plan="plain"), attempt) == 42
    assert tried == ["plain", "layerwise"]
    assert "out of memory with --plan plain; layerwise goes on" in capsys.readouterr().err
    with pytest.raises(torch.OutOfMemoryError):
        stepping_down(replace(ASKED, plan="layerwise"), lambda s: attempt(replace(s, plan="plain")))
