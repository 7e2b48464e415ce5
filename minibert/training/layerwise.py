"""Forward and backward passes that differ in memory, not in result.

In the plain pass every layer keeps what it computed. Recomputing keeps only what entered a layer,
and computes the layer again on the way back (Chen et al. 2016), with the same dropout. Going back
over several micro-batches together, layer by layer, completes a layer's gradient before the next
layer's begins, so that it can be applied and freed at once (Lv et al. 2023).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from minibert.attention import Packing
from minibert.data.batches import Batch
from minibert.gates import HardConcreteGates
from minibert.model import IGNORED, BertForTokenClassification, summed_loss


class PassState(NamedTuple):
    """One micro-batch between its forward and its backward pass. A stage is the embeddings or a
    layer."""

    ids: Tensor  # (T,) the packed token ids
    packing: Packing
    factors: list[Tensor | None]  # on the heads of each layer
    leaves: list[Tensor | None]  # the same; their gradient is collected here
    inputs: list[Tensor]  # (T, D) of each stage, the highest last
    randomness: list[Tensor]  # where the random numbers were before each stage
    gradient: list[Tensor]  # of the loss, by what came out of the highest stage in `inputs`


class Passes:
    """Passes of one model. With `gates`, every sequence gets a draw of its own as head mask; with a
    `teacher`, the loss is also how far the answers are from the teacher's.

    `autocast` makes the context of every forward computation; `scale` is put on each loss before
    it is differentiated. `parking` is the device that keeps what entered each stage.
    """

    def __init__(
        self,
        model: BertForTokenClassification,
        gates: HardConcreteGates | None,
        autocast: Callable[[], AbstractContextManager],
        scale: Callable[[Tensor], Tensor],
        parking: torch.device | None = None,
        teacher: BertForTokenClassification | None = None,
    ):
        self.model = model
        self.gates = gates
        self.teacher = teacher
        self.autocast = autocast
        self.scale = scale
        self.device = model.classifier.weight.device
        self.parking = self.device if parking is None else parking
        self.stages = 1 + len(model.bert.layers)

    def _moved(self, batch: Batch) -> tuple[Tensor, Packing, Tensor, Tensor | None]:
        """Token ids, packing and labels on the model's device, and a draw of the gates."""
        packing = batch.packing.to(self.device)
        ids, labels = (_to_device(t, self.device) for t in (batch.input_ids, batch.labels))
        return ids, packing, labels, self.gates.sample(len(ids)) if self.gates else None

    @torch.no_grad()
    def _teacher_logits(self, ids: Tensor, packing: Packing) -> Tensor | None:
        """(B, L, labels) the teacher's logits."""
        with self.autocast():
            return _logits(self.teacher, ids, packing) if self.teacher else None

    def plain(self, batch: Batch, labelled: int) -> Tensor:
        """Add the gradient of a micro-batch's loss, summed and divided by `labelled`; returns the
        loss."""
        ids, packing, labels, head_mask = self._moved(batch)
        answers = self._teacher_logits(ids, packing)
        with self.autocast():
            logits = _logits(self.model, ids, packing, head_mask)
        loss = _loss(logits, labels, answers) / labelled
        self.scale(loss).backward()
        return loss.detach()

    def forward(self, batch: Batch, labelled: int) -> tuple[PassState, Tensor]:
        """The loss; of the backward pass only the classifier's part is done."""
        ids, packing, labels, head_mask = self._moved(batch)
        answers = self._teacher_logits(ids, packing)
        factors = self.model.bert.factors(head_mask, packing)
        leaves = [f if f is None else f.detach().requires_grad_() for f in factors]
        trace = PassState(packing.pack(ids), packing, factors, leaves, [], [], [])
        with torch.no_grad(), self.autocast():
            hidden = self.model.bert.embeddings.word(trace.ids)
            for stage in range(self.stages):
                trace.inputs.append(hidden.to(self.parking))
                trace.randomness.append(_rng_state(self.device))
                hidden = self._run(trace, stage, hidden)
        hidden.requires_grad_()
        with self.autocast():
            logits = self.model.classify(packing.unpack(hidden))
        loss = _loss(logits, labels, answers) / labelled
        self.scale(loss).backward()
        trace.gradient.append(hidden.grad)
        return trace, loss.detach()

    def _run(self, trace: PassState, stage: int, given: Tensor) -> Tensor:
        if stage == 0:
            positions = trace.packing.positions
            return self.model.bert.embeddings.combine(given, positions, torch.zeros_like(positions))
        return self.model.bert.layers[stage - 1](given, trace.packing, trace.leaves[stage - 1])

    def backward(self, traces: Sequence[PassState], completed: Callable[[int], None]) -> None:
        """Add the gradients of the layers and the embeddings; `completed` is called with each
        stage, from the top down, when its gradient is there."""
        for stage in reversed(range(self.stages)):
            for trace in traces:
                self._recompute_and_backward(trace, stage)
            # All lookups at once: each gradient of its own is as large as the table.
            if traces and stage == 0:
                words = self.model.bert.embeddings.word(torch.cat([t.ids for t in traces]))
                if words.requires_grad:
                    torch.autograd.backward(words, torch.cat([t.gradient.pop() for t in traces]))
            completed(stage)
        for trace in traces:
            pairs = [(f, x.grad) for f, x in zip(trace.factors, trace.leaves) if f is not None]
            if pairs:
                torch.autograd.backward(*zip(*pairs))

    def _recompute_and_backward(self, trace: PassState, stage: int) -> None:
        given = trace.inputs.pop().to(self.device).requires_grad_()
        with _replayed_rng(trace.randomness.pop(), self.device), self.autocast():
            out = self._run(trace, stage, given)
        torch.autograd.backward(out, trace.gradient.pop())
        trace.gradient.append(given.grad)


def _logits(
    model: BertForTokenClassification,
    ids: Tensor,
    packing: Packing,
    head_mask: Tensor | None = None,
) -> Tensor:
    hidden = model.bert.encode(ids, packing, head_mask=head_mask).last_hidden_state
    return model.classify(hidden)


def _loss(logits: Tensor, labels: Tensor, answers: Tensor | None) -> Tensor:
    loss = summed_loss(logits, labels)
    return loss if answers is None else loss + divergence(logits, answers, labels)


def divergence(logits: Tensor, answers: Tensor, labels: Tensor) -> Tensor:
    """How far a student's logits (B, L, labels) are from a teacher's: the Kullback-Leibler
    divergence, summed over the labels (B, L) that are not IGNORED (Hinton et al. 2015, at
    temperature 1)."""
    scored = labels != IGNORED
    ours, theirs = (
        x[scored].to(torch.promote_types(x.dtype, torch.float32)).log_softmax(-1)
        for x in (logits, answers)
    )
    return (theirs.exp() * (theirs - ours)).sum()


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device; a GPU gets it from pinned memory, and nobody waits for it."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _rng_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


@contextmanager
def _replayed_rng(randomness: Tensor, device: torch.device) -> Iterator[None]:
    """Draw once more what was drawn from `randomness` on, and leave no trace of it."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        if cuda:
            torch.cuda.set_rng_state(randomness, device)
        else:
            torch.set_rng_state(randomness)
        yield
