"""The same update with the gradient of one layer at a time, in less memory.

The forward pass keeps only the input of each layer. The backward pass takes all micro-batches of an
optimizer step together, layer by layer from the top. It recomputes the layer with the same dropout
(Chen et al. 2016), which completes the layer's gradient, so that it can be applied and freed before
the gradient of the layer below exists (Lv et al. 2023).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minibert.attention import Packing
from minibert.data.batches import Batch
from minibert.model import BertForTokenClassification


@dataclass
class PassState:
    """One micro-batch between its forward and its backward pass.

    Stage 0 is the embeddings, stage i is layer i - 1. `inputs` and `rng_states` have one entry for
    each stage that the backward pass has not reached, the highest last.
    """

    ids: Tensor  # (T,) the packed token ids
    packing: Packing
    factors: list[Tensor | None]  # head mask of each layer, as `Bert.factors` gives it
    leaves: list[Tensor | None]  # the same values, detached: each collects its gradient
    inputs: list[Tensor] = field(default_factory=list)  # (T, D) each
    rng_states: list[Tensor] = field(default_factory=list)  # before each stage was computed
    # (T, D) of the loss, at the output of the highest stage: one, popped (freed) when it is used
    gradients: list[Tensor] = field(default_factory=list)


class LayerwisePasses:
    """Forward and backward passes of one model.

    `autocast()` is the context of every forward computation. `scale(loss)` is what is
    differentiated. `offload_device` stores the input of each stage between the two passes.
    """

    def __init__(
        self,
        model: BertForTokenClassification,
        autocast: Callable[[], AbstractContextManager],
        scale: Callable[[Tensor], Tensor],
        offload_device: torch.device,
    ):
        self.model = model
        self.autocast = autocast
        self.scale = scale
        self.device = model.classifier.weight.device
        self.offload_device = offload_device
        self.stages = 1 + len(model.bert.layers)

    def forward(
        self, batch: Batch, head_mask: Tensor | None, loss_of: Callable[[Tensor], Tensor]
    ) -> tuple[PassState, Tensor]:
        """Compute `loss_of(hidden)` of the encoder's output (B, L, D); returns what `backward`
        needs, and the loss, detached.

        The gradient of the classifier is added here, that of the encoder in `backward`.
        """
        packing = batch.packing
        factors = self.model.bert.factors(head_mask, packing)
        leaves = [f if f is None else f.detach().requires_grad_(f.requires_grad) for f in factors]
        state = PassState(packing.pack(batch.input_ids), packing, factors, leaves)

        # Without a graph: only the inputs of the stages stay in memory.
        with torch.no_grad(), self.autocast():
            hidden = self.model.bert.embeddings.word(state.ids)
            for stage in range(self.stages):
                state.inputs.append(hidden.to(self.offload_device))
                state.rng_states.append(_rng_state(self.device))
                hidden = self._run(state, stage, hidden)

        # The classifier is small: its graph is built and differentiated at once.
        hidden.requires_grad_()
        loss = loss_of(packing.unpack(hidden))
        self.scale(loss).backward()
        state.gradients.append(hidden.grad)
        return state, loss.detach()

    def _run(self, state: PassState, stage: int, stage_input: Tensor) -> Tensor:
        """(T, D) -> (T, D). The input of stage 0 is the word embedding of each token."""
        if stage == 0:
            return self.model.bert.embeddings(stage_input, state.packing.positions)
        layer, factor = self.model.bert.layers[stage - 1], state.leaves[stage - 1]
        return layer(stage_input, state.packing, factor)

    def backward(self, states: Sequence[PassState]) -> Iterator[int]:
        """Add the gradients of the encoder; yields each stage, from the top down, as soon as its
        gradient is complete. Head masks get their gradient last, after stage 0 is yielded."""
        for stage in reversed(range(self.stages)):
            for state in states:
                self._recompute_and_backward(state, stage)
            if stage == 0:
                self._backward_into_word_embeddings(states)
            yield stage

        for state in states:
            factors = [f for f in state.factors if f is not None and f.requires_grad]
            leaves = [f for f in state.leaves if f is not None and f.requires_grad]
            if factors:  # in one call: they share the graph of one draw of the gates
                torch.autograd.backward(factors, [leaf.grad for leaf in leaves])

    def _recompute_and_backward(self, state: PassState, stage: int) -> None:
        stage_input = state.inputs.pop().to(self.device).requires_grad_()
        with _replayed_rng(state.rng_states.pop(), self.device), self.autocast():
            output = self._run(state, stage, stage_input)
        torch.autograd.backward(output, state.gradients.pop())
        assert stage_input.grad is not None
        state.gradients.append(stage_input.grad)

    def _backward_into_word_embeddings(self, states: Sequence[PassState]) -> None:
        """All lookups in one call: the gradient of each call is as large as the table."""
        if not states or not self.model.bert.embeddings.word.weight.requires_grad:
            return
        words = self.model.bert.embeddings.word(torch.cat([state.ids for state in states]))
        torch.autograd.backward(words, torch.cat([state.gradients.pop() for state in states]))


def _rng_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


@contextmanager
def _replayed_rng(rng_state: Tensor, device: torch.device) -> Iterator[None]:
    """Restore an RNG state so that recomputation draws the same dropout; put the current state
    back afterwards."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        if cuda:
            torch.cuda.set_rng_state(rng_state, device)
        else:
            torch.set_rng_state(rng_state)
        yield
