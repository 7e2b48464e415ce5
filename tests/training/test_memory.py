"""Peak memory against sums by hand, on fake tensors and on real ones."""

from dataclasses import replace

import pytest
import torch
from tiny import TINY
from torch._subclasses.fake_tensor import FakeTensorMode

from minibert import BertForTokenClassification, InputError
from minibert.attention import Packing
from minibert.data.batches import Batch, Window
from minibert.runtime.peak import MIB, PeakMeter
from minibert.training.memory import PLANS, choose_plan, predicted_peak, stepping_down
from minibert.training.settings import TrainSettings
from minibert.training.step import Stepper


def peak_of_two_steps(plan: str) -> int:
    model = BertForTokenClassification(TINY)
    settings = TrainSettings(plan=plan, precision="float32")
    stepper = Stepper(model.train(), settings, 10)
    lengths = [11, 7]
    packing = Packing(torch.tensor([*range(11), *range(11, 18)]), lengths, torch.Size((2, 11)))
    windows = [Window(i, [0] * n, [0, 1], [1, 2], []) for i, n in enumerate(lengths)]
    zeros = torch.zeros(2, 11, dtype=torch.long)
    batches = [Batch(zeros, zeros, zeros, windows, packing)] * 3
    with PeakMeter(model.parameters()) as meter:
        for number in range(2):
            stepper.queue(number, batches)
    return meter.peak


@pytest.mark.parametrize("plan", PLANS)
def test_peak_of_fake_tensors_equals_real_ones(plan):
    real = peak_of_two_steps(plan)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = peak_of_two_steps(plan)
    assert fake == pytest.approx(real, rel=0.01)


def test_layerwise_plan_has_lower_peak():
    plain, layerwise = map(peak_of_two_steps, PLANS)
    assert layerwise < plain


WINDOWS = [Window(i, [0] * n, [0, 1], [1, 2], []) for i, n in enumerate((19, 11, 7, 5))]
SETTINGS = TrainSettings(tokens=64, batch_size=3, precision="float32", memory_limit=1000)


def peak_at(plan: str, tokens: int, windows=tuple(WINDOWS[:3])) -> float:
    return predicted_peak(TINY, replace(SETTINGS, plan=plan, tokens=tokens), windows)


def choose(limit_mib: float, settings=SETTINGS) -> TrainSettings:
    limited = replace(settings, memory_limit=limit_mib)
    return choose_plan(TINY, limited, WINDOWS, torch.device("meta"))[0]


@pytest.mark.slow
def test_auto_chooses_fastest_plan_with_most_tokens():
    """The longest three windows count. 38 tokens, which are tried after 19, hold all three."""
    highest, lowest = peak_at("plain", 64), peak_at("plain", 19)
    assert lowest < highest
    chosen = choose(highest)
    assert (chosen.plan, chosen.tokens) == ("plain", 64)

    chosen = choose(highest - 0.001)
    assert (chosen.plan, chosen.tokens) == ("plain", 19)

    chosen = choose(lowest - 0.001)
    assert (chosen.plan, chosen.tokens) != ("plain", 19)
    assert peak_at(chosen.plan, chosen.tokens) < lowest


@pytest.mark.slow
def test_limit_too_small_raises_with_minimum():
    lowest = peak_at("layerwise", 19)
    assert choose(lowest).plan == "layerwise"
    with pytest.raises(InputError, match=f"takes {lowest:.0f} at least, with --plan layerwise"):
        choose(lowest - 0.001)


def test_named_plan_is_unchecked_and_cpu_has_no_limit():
    assert choose(0.001, replace(SETTINGS, plan="layerwise")).plan == "layerwise"
    free = replace(SETTINGS, memory_limit=0)
    assert choose_plan(TINY, free, WINDOWS, torch.device("cpu"))[0].plan == "plain"


@pytest.mark.slow
def test_memory_options_save_expected_bytes():
    """Moments in bf16 take half; frozen embeddings have neither moments nor a gradient."""
    exact, half, frozen = (
        predicted_peak(TINY, replace(SETTINGS, plan="layerwise", **more), WINDOWS[:1])
        for more in ({}, {"states": "bf16"}, {"states": "bf16", "freeze_embeddings": True})
    )
    parameters = BertForTokenClassification(TINY).named_parameters()
    sizes = {name: parameter.numel() for name, parameter in parameters}
    saved = sum(2 * (blocks(4 * n) - blocks(2 * n)) for n in sizes.values())
    assert (exact - half) * MIB == pytest.approx(saved, rel=0.15)
    states = sum(2 * blocks(2 * n) for name, n in sizes.items() if "embeddings" in name)
    assert (half - frozen) * MIB >= states


def blocks(size: int) -> int:
    return -(-size // 512) * 512


def test_out_of_memory_steps_down_one_plan(capsys):
    tried = []

    def attempt(settings):
        tried.append(settings.plan)
        if settings.plan != "layerwise":
            raise torch.OutOfMemoryError("2 GiB")
        return 42

    assert stepping_down(replace(SETTINGS, plan="plain"), attempt) == 42
    assert tried == ["plain", "layerwise"]
    assert "out of memory with --plan plain; continuing with layerwise" in capsys.readouterr().err
    with pytest.raises(torch.OutOfMemoryError):
        stepping_down(
            replace(SETTINGS, plan="layerwise"), lambda s: attempt(replace(s, plan="plain"))
        )
