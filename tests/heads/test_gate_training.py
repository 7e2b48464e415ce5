"""Gate training keeps the head that matters; its gradient against finite differences."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from tiny import TINY

from minibert.data.batches import collate
from minibert.errors import InputError
from minibert.gates import HardConcreteGates
from minibert.heads import gate_training
from minibert.heads.gate_training import Budget, Penalty, learn_gates, step_gates
from minibert.pruning import at_full_shape, prune, without_heads
from minibert.runtime import distributed
from minibert.training.loop import endless, fine_tune
from minibert.training.settings import TrainSettings
from minibert.training.step import Stepper

pytestmark = pytest.mark.numeric

SETTINGS = TrainSettings(batch_size=4, precision="float32")


def test_budget_keeps_the_head_that_matters(model, split):
    """14 of 15 heads have an output of zero, and the last one is trained."""
    others = [head for head in TINY.present_heads if head != (1, 2)]
    trained = without_heads(model, others)
    for _ in fine_tune(trained, split, replace(SETTINGS, learning_rate=3e-3), 40):
        pass
    one_head = at_full_shape(trained)
    one_head.requires_grad_(False).eval()

    before = copy.deepcopy(one_head.state_dict())
    gates = HardConcreteGates(one_head.config)
    goal = Budget(1, 15)
    steps = list(learn_gates(one_head, split, gates, goal, SETTINGS, 120))

    head_mask = goal.head_mask(gates)
    assert head_mask.sum() == 1
    assert head_mask[1, 2] == 1
    last = steps[-1]
    assert (last.open + last.closed + last.undecided, last.step) == (15, len(steps))
    assert last.undecided == 0
    assert 84 < len(steps) < 120  # training stopped early
    assert all(torch.equal(before[name], value) for name, value in one_head.state_dict().items())


def test_large_penalty_closes_all_gates(model, split):
    model.requires_grad_(False)
    gates = HardConcreteGates(model.config)
    goal = Penalty(10.0)
    last = list(learn_gates(model, split, gates, goal, SETTINGS, 80))[-1]
    assert (last.closed, last.open) == (15, 0)
    assert prune(model, goal.head_mask(gates)).config.present_heads == []


def test_joint_training_changes_weights_and_keeps_pruned_heads_closed(model, split):
    smaller = without_heads(model, [(0, 0), (2, 1)])
    before = copy.deepcopy(smaller.state_dict())
    gates = HardConcreteGates(smaller.config)
    list(learn_gates(smaller.train(), split, gates, Budget(4, 13), SETTINGS, 6))
    assert any(not torch.equal(before[n], v) for n, v in smaller.state_dict().items())
    assert gates.fixed()[0, 0] == gates.fixed()[2, 1] == 0
    assert Budget(4, 13).head_mask(gates)[[0, 2], [0, 1]].sum() == 0


@pytest.mark.parametrize("frozen", [True, False])
def test_fixed_weights_alone_have_the_model_without_gates_as_teacher(model, split, frozen):
    model.requires_grad_(not frozen)
    gates, batches = HardConcreteGates(model.config), next(endless(split, SETTINGS))
    teacher = model if frozen else None
    stepper = Stepper(copy.deepcopy(model), SETTINGS, 3, teacher)
    expected = stepper.step(0, batches, gates.sample)
    first = next(learn_gates(model, split, gates, Penalty(0.1), SETTINGS, 3))
    assert first.loss == pytest.approx(expected, abs=1e-12)


def test_prices_follow_their_definitions():
    penalty = Penalty(0.5)
    assert [penalty.price(p, 9) for p in (0, 0.1, 0.2, 1)] == [0, 0.25, 0.5, 0.5]

    budget = Budget(5, 15)
    assert budget.price(0, 15) == 0
    assert budget.price(0.25, 12) == pytest.approx(2 * (1e-5 + 3e-4))  # target 10, expected 12
    assert budget.price(1, 8) == pytest.approx(3 * 3e-4 + (2 + 3) * 1e-5)
    assert budget.price(1, 4) == 0  # below the target: free


def test_gate_gradient_matches_finite_differences(model, split, monkeypatch):
    """Of the whole objective, loss and price, with two micro-batches in the step."""
    model.requires_grad_(False)
    gates = HardConcreteGates(model.config).double()
    with torch.no_grad():
        gates.log_alpha.copy_(torch.linspace(-1, 1, 15).view(3, 5))
    windows = (split.windows[:3], split.windows[3:5])
    batches = [collate(group, split.targets) for group in windows]
    price = torch.linspace(0.1, 0.9, 15).view(3, 5).double()

    stepper = Stepper(model, SETTINGS, 10)
    optimizer = torch.optim.Adam([gates.log_alpha])
    monkeypatch.setattr(stepper.scaler, "step", lambda _: None)
    monkeypatch.setattr(optimizer, "zero_grad", lambda: None)
    stepper.step(7, batches, gates.sample)
    step_gates(stepper, optimizer, gates, price)
    gradient = gates.log_alpha.grad.clone()

    def objective() -> float:
        penalty = (price * gates.open_probability()).sum().item()
        return stepper.step(7, batches, gates.sample) + penalty

    for head in [(0, 0), (1, 2), (2, 4)]:
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                gates.log_alpha[head] += sign * 1e-6
            ends.append(objective())
            with torch.no_grad():
                gates.log_alpha[head] -= sign * 1e-6
        slope = (ends[0] - ends[1]) / 2e-6
        assert gradient[head].item() == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_processes_add_up_the_gradient_of_the_loss_but_not_of_the_price(model, split, monkeypatch):
    """Two processes with the same words: twice the gradient of the loss, once that of the price."""
    model.requires_grad_(False)
    gates = HardConcreteGates(model.config).double()
    gates.warm_start([[0.3] * 5] * 3)
    price = torch.linspace(0.1, 0.9, 15).view(3, 5).double()
    (price_gradient,) = torch.autograd.grad(
        (price * gates.open_probability()).sum(), gates.log_alpha
    )

    def add_equal_process(parameters):
        for parameter in parameters:
            parameter.grad *= 2

    monkeypatch.setattr(distributed, "all_reduce_gradients", add_equal_process)
    stepper = Stepper(model, SETTINGS, 10)
    optimizer = torch.optim.Adam([gates.log_alpha])
    monkeypatch.setattr(optimizer, "zero_grad", lambda: None)
    stepper.step(0, [collate(split.windows[:3], split.targets)], gates.sample)
    loss_gradient = gates.log_alpha.grad.clone()
    step_gates(stepper, optimizer, gates, price)
    assert (loss_gradient.abs() > 1e-3).any()
    torch.testing.assert_close(
        gates.log_alpha.grad, 2 * loss_gradient + price_gradient, rtol=0, atol=1e-12
    )


def test_price_is_on_the_open_probability_at_the_softness_of_the_goal(model, split):
    model.requires_grad_(False)
    gates = HardConcreteGates(model.config).double()
    gradients = []
    gates.log_alpha.register_hook(gradients.append)  # the last of a step is that of the price
    goal = Penalty(0.7)
    goal.softness = 3.0
    training = learn_gates(model, split, gates, goal, SETTINGS, 2)
    next(training)
    before = gates.log_alpha.detach().clone()
    assert next(training).price == 0.7

    probability = torch.sigmoid((before + math.log(11) / 3) / 3)
    expected = 0.7 * probability * (1 - probability) / 3
    torch.testing.assert_close(gradients[-1], expected, rtol=0, atol=1e-12)


def test_training_goes_on_while_the_kept_heads_change(model, split, monkeypatch):
    """All gates count as decided. The kept heads change last at step 25, settling starts at 35, and
    15 steps without a change must pass: steps 0 to 40 are done."""

    class Changing(Penalty):
        calls = 0

        def price(self, progress, expected):
            self.calls += 1
            return 0.0

        def head_mask(self, gates):
            return torch.full_like(gates.present, float(self.calls < 25))

    monkeypatch.setattr(gate_training, "count_gates", lambda *_: (15, 0, 0))
    model.requires_grad_(False)
    settings = replace(SETTINGS, batch_size=1)
    gates = HardConcreteGates(model.config)
    assert len(list(learn_gates(model, split, gates, Changing(0.0), settings, 50))) == 41


def test_each_sequence_gets_its_own_sample(model, split, monkeypatch):
    stepper = Stepper(model, SETTINGS, 10)
    gates = HardConcreteGates(model.config).double()
    encode, masks = model.bert.encode, []

    def spy(*given, head_mask):
        masks.append(head_mask)
        return encode(*given, head_mask=head_mask)

    monkeypatch.setattr(model.bert, "encode", spy)

    stepper.step(0, [collate(split.windows[:3], split.targets)], gates.sample)
    (mask,) = masks
    assert mask.shape == (3, 3, 5)
    assert not torch.equal(mask[0], mask[1])


def test_error_for_a_non_finite_loss_names_the_step(model, split):
    with torch.no_grad():
        model.classifier.weight[0, 0] = float("nan")
    gates = HardConcreteGates(model.config)
    with pytest.raises(InputError, match="loss is nan at step 0"):
        list(learn_gates(model, split, gates, Penalty(0.1), SETTINGS, 3))
    assert torch.equal(gates.fixed(), torch.ones(3, 5))


def test_gates_that_differ_from_the_head_mask_are_undecided(model, split):
    """After one step all gates have the value 1; under a budget of 3, 12 should be 0."""
    model.requires_grad_(False)
    gates = HardConcreteGates(model.config)
    (only,) = learn_gates(model, split, gates, Budget(3, 15), SETTINGS, 1)
    assert (only.closed, only.undecided) == (0, 15 - only.open)
    assert only.open <= 3
