"""Which heads stay: gates are trained until the heads that the task can spare are closed."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from minibert.data.batches import Split
from minibert.gates import HardConcreteGates
from minibert.model import BertForTokenClassification
from minibert.runtime import distributed
from minibert.training.loop import endless
from minibert.training.settings import StepSettings
from minibert.training.step import Stepper

SETTLE = 0.7  # share of the steps after which what is undecided is pushed to its side


PUSH = 0.2  # in loss per labelled token: more than any one head is worth


STABLE = 15  # steps without a change of the kept heads, before training stops


UNDECIDED = 0.04  # largest share of undecided gates to stop at


GATE_RATE = 0.1  # Adam's learning rate on log_alpha, whose scale is units, not hundredths


class Goal(Protocol):
    """What the gates are trained for. `softness`: of the open probability that is priced."""

    softness: float

    def price(self, progress: float, expected: float) -> float:
        """What an open gate costs, in loss per labelled token, when `progress` (0 to 1) of the
        steps are over and so many gates are expected open."""

    def head_mask(self, gates: HardConcreteGates) -> Tensor:
        """(layers, heads): what the gates, as they are now, come to."""


class Penalty:
    """The L0 penalty of Louizos et al. 2018: one price, warmed up over the first 20 % of steps;
    as many heads stay as are worth it."""

    softness = 1.0

    def __init__(self, weight: float):
        self.weight = weight

    def price(self, progress: float, expected: float) -> float:
        return self.weight * min(1.0, progress / 0.2)

    def head_mask(self, gates: HardConcreteGates) -> Tensor:
        return gates.fixed().detach()


class Budget:
    """Exactly `keep` heads. The wanted number comes down from `expected` over the first half of
    the steps; the price follows what is expected beyond it, and the sum of that (dual ascent on
    the constraint, damped by a proportional part). In the end the best `keep` are kept."""

    RATE = 1e-5  # loss per labelled token, for each head too many at each step
    DAMPING = 3e-4  # the same, at once
    softness = 3.0  # the price reaches gates at their limit: which are the best must not be a tie

    def __init__(self, keep: int, expected: float):
        self.keep = keep
        self.start = expected
        self.dual = 0.0

    def price(self, progress: float, expected: float) -> float:
        wanted = self.start + min(1.0, progress / 0.5) * (self.keep - self.start)
        excess = expected - wanted
        self.dual = max(0.0, self.dual + self.RATE * excess)
        return max(0.0, self.dual + self.DAMPING * excess)

    def head_mask(self, gates: HardConcreteGates) -> Tensor:
        ranked = gates.log_alpha.detach().masked_fill(gates.present == 0, -torch.inf)
        kept = torch.zeros_like(ranked)
        kept.view(-1)[ranked.flatten().topk(self.keep).indices] = 1
        return kept


class GateProgress(NamedTuple):
    """Where gate training is. A gate is decided when its fixed value is 1 or 0 and is what the
    goal's head mask makes of it."""

    step: int
    loss: float  # per labelled token, under sampled gates
    price: float  # of an open gate, in the same unit
    expected: float  # number of open heads
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
    """Train `gates` in place on a split, and with them those weights that require a gradient;
    yields after every step. Gates that come from an earlier goal go on from there.

    In the last part every gate is pushed to the side it is on. Training stops before `steps` are
    over when the kept heads no longer change and nearly no gate is undecided. Raises InputError
    where the loss is not finite.
    """
    stepper = Stepper(model, settings, steps)
    optimizer = torch.optim.Adam([gates.log_alpha], lr=GATE_RATE)
    before, changed = None, 0
    for step, batches in zip(range(steps), endless(split, settings)):
        kept = goal.head_mask(gates) > 0.5
        if before is None or (kept != before).any():
            before, changed = kept, step
        price = goal.price(step / steps, gates.expected())
        settling = step >= SETTLE * steps
        charge = (
            torch.where(kept, -PUSH, PUSH) if settling else torch.full_like(gates.present, price)
        )
        loss = stepper.step(step, batches, gates.sample)
        step_gates(stepper, optimizer, gates, charge, goal.softness)
        present = gates.present == 1
        fixed, mask = gates.fixed()[present], goal.head_mask(gates)[present]
        opened = int(((fixed == 1) & (mask == 1)).sum())
        closed = int(((fixed == 0) & (mask == 0)).sum())
        undecided = len(fixed) - opened - closed
        expected = gates.expected()
        yield GateProgress(
            step + 1, loss, PUSH if settling else price, expected, opened, closed, undecided
        )
        if settling and step - changed >= STABLE and undecided <= UNDECIDED * len(fixed):
            break


def step_gates(
    stepper: Stepper,
    optimizer: torch.optim.Optimizer,
    gates: HardConcreteGates,
    price: Tensor,
    softness: float = 1.0,
) -> None:
    """Update the gates after `stepper.step(..., gates.sample)`, and end that step. `price` (layers,
    heads): what each gate, expected open, adds to the loss per labelled token."""
    distributed.all_reduce_gradients([gates.log_alpha])
    penalty = (price * gates.open_probability(softness)).sum()
    stepper.scale(penalty).backward()

    stepper.scaler.step(optimizer)
    stepper.scaler.update()
    optimizer.zero_grad()
    gates.clamp_()
