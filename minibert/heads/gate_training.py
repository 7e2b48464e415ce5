"""Gate training: learn which heads the task can spare."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from minibert.data.batches import Split
from minibert.gates import HardConcreteGates
from minibert.model import BertForTokenClassification
from minibert.runtime import distributed
from minibert.training.loop import endless
from minibert.training.settings import StepSettings
from minibert.training.step import Stepper

SETTLE = 0.7  # share of the steps after which each gate is pushed to 0 or 1, as the head mask says
PUSH = 0.2  # the price that pushes it, in loss per word: more than any one head is worth
STABLE = 15  # training may stop after so many steps in which the kept heads did not change
UNDECIDED = 0.04  # and only when at most this share of the gates is undecided
GATE_RATE = 0.1  # Adam's learning rate: log_alpha moves by units, weights by hundredths


class Goal(Protocol):
    """What gate training aims at: a price of open heads, and the head mask that it ends with."""

    softness: float
    """Of the open probability that is priced: see `HardConcreteGates.open_probability`."""

    def price(self, progress: float, expected: float) -> float:
        """The price of an open gate, in loss per word, for the next step. `progress`: share of the
        steps done, 0 to 1; `expected`: expected number of open heads. Call it once a step."""

    def head_mask(self, gates: HardConcreteGates) -> Tensor:
        """(layers, heads): the head mask that the gates stand for now."""


class Penalty:
    """The L0 penalty of Louizos et al. 2018: a fixed price, warmed up over the first 20 % of the
    steps. Heads that are worth it stay open."""

    softness = 1.0

    def __init__(self, weight: float):
        self.weight = weight

    def price(self, progress: float, expected: float) -> float:
        return self.weight * min(1.0, progress / 0.2)

    def head_mask(self, gates: HardConcreteGates) -> Tensor:
        return gates.fixed().detach()


class Budget:
    """Keep exactly `keep` heads: those of the largest log_alpha at the end.

    The target falls from `expected` to `keep` over the first half of the steps. The price is a
    controller on the excess, expected open heads minus target: its running sum (dual ascent on the
    constraint) plus a proportional part, which damps oscillation.
    """

    RATE = 1e-5  # of the running sum: loss per word, for each head too many at each step
    DAMPING = 3e-4  # of the proportional part: loss per word, for each head too many now
    softness = 3.0  # gates at their limit feel the price too, so that the best are not tied

    def __init__(self, keep: int, expected: float):
        self.keep = keep
        self.start = expected
        self.dual = 0.0

    def price(self, progress: float, expected: float) -> float:
        target = self.start + min(1.0, progress / 0.5) * (self.keep - self.start)
        excess = expected - target
        self.dual = max(0.0, self.dual + self.RATE * excess)
        return max(0.0, self.dual + self.DAMPING * excess)

    def head_mask(self, gates: HardConcreteGates) -> Tensor:
        ranked = gates.log_alpha.detach().masked_fill(gates.present == 0, -torch.inf)
        head_mask = torch.zeros_like(ranked)
        head_mask.view(-1)[ranked.flatten().topk(self.keep).indices] = 1
        return head_mask


@dataclass(frozen=True)
class GateProgress:
    """The state of gate training after a step. A gate is open or closed when its fixed value and
    the goal's head mask are both 1 or both 0; otherwise it is undecided."""

    step: int
    """Steps done."""

    loss: float
    """Per word, under sampled gates, without the price."""

    price: float
    """Of an open gate in this step, in loss per word."""

    expected: float
    """Expected number of open heads."""

    open: int

    closed: int

    undecided: int


def learn_gates(
    model: BertForTokenClassification,
    split: Split,
    gates: HardConcreteGates,
    goal: Goal,
    settings: StepSettings,
    steps: int,
) -> Iterator[GateProgress]:
    """Train `gates` in place on a split, from the values that they have, and with them the weights
    that require a gradient. Yields after every step.

    After a share SETTLE of the steps each gate is pushed to 0 or 1. Training ends before `steps`
    when the kept heads no longer change and nearly no gate is undecided. If no weight is trained,
    the logits get the moments of those without gates (`with_moments_of`). Raises InputError if the
    loss is not finite.
    """
    trains_weights = any(parameter.requires_grad for parameter in model.parameters())
    stepper = Stepper(model, settings, steps, teacher=None if trains_weights else model)
    optimizer = torch.optim.Adam([gates.log_alpha], lr=GATE_RATE)
    last_kept, last_change = goal.head_mask(gates) > 0.5, 0

    for step, batches in zip(range(steps), endless(split, settings)):
        kept_heads = goal.head_mask(gates) > 0.5
        if not torch.equal(kept_heads, last_kept):
            last_kept, last_change = kept_heads, step

        price = goal.price(step / steps, gates.expected())
        prices = torch.full_like(gates.log_alpha, price)
        settling = step >= SETTLE * steps
        if settling:
            price = PUSH
            prices = torch.where(kept_heads, -PUSH, PUSH)  # a negative price opens the gate

        loss = stepper.step(step, batches, gates.sample)
        step_gates(stepper, optimizer, gates, prices, goal.softness)

        counts = count_gates(gates, goal.head_mask(gates))
        progress = GateProgress(step + 1, loss, price, gates.expected(), *counts)
        yield progress
        settled = progress.undecided <= UNDECIDED * sum(counts)
        if settling and settled and step - last_change >= STABLE:
            break


def step_gates(
    stepper: Stepper,
    optimizer: torch.optim.Optimizer,
    gates: HardConcreteGates,
    prices: Tensor,
    softness: float = 1.0,
) -> None:
    """Update the gates after `stepper.step(..., gates.sample)`, and end that step. `prices`
    (layers, heads): the price of each gate, in loss per word, times its open probability."""
    distributed.all_reduce_gradients([gates.log_alpha])
    penalty = (prices * gates.open_probability(softness)).sum()
    stepper.scale(penalty).backward()

    stepper.scaler.step(optimizer)
    stepper.scaler.update()
    optimizer.zero_grad()
    gates.clamp_()


def count_gates(gates: HardConcreteGates, head_mask: Tensor) -> tuple[int, int, int]:
    """How many gates are open, closed and undecided: see `GateProgress`."""
    present = gates.present == 1
    fixed, mask = gates.fixed()[present], head_mask[present]
    opened = int(((fixed == 1) & (mask == 1)).sum())
    closed = int(((fixed == 0) & (mask == 0)).sum())
    return opened, closed, len(fixed) - opened - closed
