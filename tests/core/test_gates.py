"""Gates against their closed forms, and their gradients against finite differences."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import TINY

from minibert.gates import START, HardConcreteGates

pytestmark = pytest.mark.numeric

DRAWS = 40_000


@pytest.fixture
def gates() -> HardConcreteGates:
    gates = HardConcreteGates(TINY).double()
    with torch.no_grad():
        gates.log_alpha.copy_(torch.linspace(-4, 4, 15).view(3, 5))
    return gates


def test_samples_hit_0_and_1_with_closed_form_probability(gates):
    torch.manual_seed(0)
    draws = gates.sample(DRAWS)
    assert draws.shape == (DRAWS, 3, 5)
    assert ((draws >= 0) & (draws <= 1)).all()
    # Four standard errors of a proportion are at most 0.01 here.
    opened = gates.open_probability()
    torch.testing.assert_close((draws > 0).double().mean(0), opened, rtol=0, atol=0.01)
    # 1 before clipping means sigmoid((noise + log_alpha) / T) > 1.1 / 1.2, that is odds of 11.
    full = torch.sigmoid(gates.log_alpha - torch.tensor(11.0).double().log() / 3)
    torch.testing.assert_close((draws == 1).double().mean(0), full, rtol=0, atol=0.01)


def test_median_sample_is_concrete_at_even_odds(gates):
    torch.manual_seed(0)
    median = gates.sample(DRAWS).median(0).values
    expected = (1.2 * torch.sigmoid(gates.log_alpha * 3) - 0.1).clamp(0, 1)
    torch.testing.assert_close(median, expected, rtol=0, atol=0.03)


def test_fixed_values_reach_0_and_1_at_log_11(gates):
    edge = torch.tensor(11.0).double().log().item()  # 2.398
    with torch.no_grad():
        gates.log_alpha[0] = torch.tensor([-edge - 1e-9, -edge + 1e-3, 0, edge - 1e-3, edge + 1e-9])
    closed, nearly_closed, half, nearly_open, opened = gates.fixed()[0].tolist()
    assert (closed, opened) == (0, 1)
    assert 0 < nearly_closed < 1e-3
    assert 0 < 1 - nearly_open < 1e-3
    assert half == pytest.approx(0.5, abs=1e-12)


def test_new_gates_are_open():
    assert torch.equal(HardConcreteGates(TINY).fixed(), torch.ones(3, 5))


def test_sample_gradient_matches_finite_differences(gates):
    weights = torch.arange(1.0, 16, dtype=torch.float64).view(3, 5)

    def value() -> torch.Tensor:
        torch.manual_seed(3)
        return (weights * gates.sample(4)).sum() + (weights * gates.open_probability()).sum()

    value().backward()
    step = 1e-6
    for head in TINY.present_heads:
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                gates.log_alpha[head] += sign * step
                ends.append(value().item())
                gates.log_alpha[head] -= sign * step
        slope = (ends[0] - ends[1]) / (2 * step)
        assert gates.log_alpha.grad[head].item() == pytest.approx(slope, rel=1e-6, abs=1e-7)
    assert (gates.log_alpha.grad != 0).all()


def test_pruned_head_is_never_open():
    gates = HardConcreteGates(replace(TINY, pruned_heads={1: [0, 3]}))
    gone = torch.zeros(3, 5, dtype=torch.bool)
    gone[1, [0, 3]] = True
    for values in (gates.fixed(), gates.open_probability(), gates.sample(100).amax(0)):
        assert (values[gone] == 0).all()
        assert (values[~gone] > 0).all()


def test_softness_gives_gradient_at_the_limit(gates):
    """By hand: sigmoid(x / 3) with x = 6 + log(11) / 3, and its slope p (1 - p) / 3."""
    slopes = []
    for softness in (1.0, 3.0):
        with torch.no_grad():
            gates.log_alpha.fill_(6.0)
        gates.log_alpha.grad = None
        opened = gates.open_probability(softness)
        opened.sum().backward()
        x = (6 + math.log(11) / 3) / softness
        p = 1 / (1 + math.exp(-x))
        assert opened[0, 0].item() == pytest.approx(p, rel=1e-6)
        slopes.append(gates.log_alpha.grad[0, 0].item())
        assert slopes[-1] == pytest.approx(p * (1 - p) / softness, rel=1e-4)
    assert slopes[1] > 20 * slopes[0]


def test_clamp_limits_log_alpha(gates):
    with torch.no_grad():
        gates.log_alpha[0, 0], gates.log_alpha[2, 4] = -99, 99
    gates.clamp_()
    assert (gates.log_alpha[0, 0].item(), gates.log_alpha[2, 4].item()) == (-6, 6)
    assert gates.fixed()[0, 0] == 0
    assert gates.fixed()[2, 4] == 1


def test_warm_start_is_clamped_to_start(gates):
    gates.warm_start([[-6.0, -1.0, 0.0, 1.0, 6.0]] * 3)
    assert gates.log_alpha.tolist() == [[-START, -1.0, 0.0, 1.0, START]] * 3
