"""One optimizer step: gradient accumulation, mixed precision, clipping, AdamW."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minibert.data.batches import Batch
from minibert.errors import InputError
from minibert.model import IGNORED, BertForTokenClassification, summed_loss
from minibert.runtime import distributed
from minibert.runtime.device import autocast, choose_precision
from minibert.training.adamw import AdamWBf16
from minibert.training.layerwise import LayerwisePasses
from minibert.training.settings import StepSettings
from minibert.weights import read_tensors, write_tensors

DISTANCE = 5  # weight in `teaching_loss`; chosen on dev: docs/log.md
TINY = torch.finfo(torch.float32).tiny
EPSILON = 1e-5  # of a variance: a sequence with one word has none

HeadMasks = Callable[[int], Tensor]  # B -> (B, layers, heads), a head mask for each sequence


class Stepper:
    """A model with its AdamW, its learning rate schedule and its loss scaler.

    `step` makes a whole optimizer step. train.py writes the plain case of `queue` out from the
    other methods. With a `teacher` the weights also learn the teacher's label distributions and the
    hidden states of its last layer. If only gates are trained, the logits get the teacher's moments
    instead: see `with_moments_of`.

    Weights without `requires_grad` do not change. The gradient is clipped and applied in blocks
    (the embeddings, each layer, the classifier), so that a plan that never has more than one
    block's gradient gives the same update as one that has all of them.
    """

    def __init__(
        self,
        model: BertForTokenClassification,
        settings: StepSettings,
        steps: int,
        teacher: BertForTokenClassification | None = None,
    ):
        self.model = model
        self.settings = settings
        self.steps = steps
        self.teacher = teacher
        self.device = model.classifier.weight.device
        if settings.freeze_embeddings:
            model.bert.embeddings.requires_grad_(False)
        named = model.named_parameters()
        self.names: dict[Tensor, str] = {p: name for name, p in named if p.requires_grad}

        # Gradients in fp16 underflow: the scaler multiplies the loss, and divides the gradients.
        self.precision = choose_precision(settings.precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

        blocks = [model.bert.embeddings, *model.bert.layers, model.classifier]
        self.optimizers = [self._optimizer(block) for block in blocks]
        offload_device = torch.device("cpu") if settings.plan == "layerwise" else self.device
        self.passes = LayerwisePasses(model, self.autocast, self.scale, offload_device)

    def _optimizer(self, block: nn.Module) -> torch.optim.Optimizer | None:
        trained = [p for p in block.parameters() if p.requires_grad]
        if not trained:
            return None
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.ndim > 1]},
            {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
        ]
        decay = self.settings.weight_decay
        if self.settings.states == "bf16":
            return AdamWBf16(groups, weight_decay=decay)
        return torch.optim.AdamW(groups, weight_decay=decay, fused=True)

    # The parts of a step --------------------------------------------------------------------------

    def rate(self, step: int) -> float:
        """Learning rate of step 0, 1, ...: linear warm-up to the peak, then linear decay."""
        warm = min(round(self.settings.warmup * self.steps), self.steps - 1)
        up = (step + 1) / (warm + 1)
        down = (self.steps - step) / (self.steps - warm)
        return self.settings.learning_rate * min(up, down)

    def set_rate(self, step: int) -> None:
        for optimizer in filter(None, self.optimizers):
            for group in optimizer.param_groups:
                group["lr"] = self.rate(step)

    def local(self, batches: Sequence[Batch], step: int) -> Iterator[Batch]:
        """This process's micro-batches, on the model's device; each is yielded after the random
        generator is seeded for it. Compute it before you take the next one."""
        for number, batch in distributed.local_items(batches):
            # A seed for each micro-batch, so that a resumed run, or another number of processes,
            # draws the same dropout. A CPU's generator takes 32 bits and drops the rest.
            seed = self.settings.seed * 1_000_003 + step + number * 2_654_435_761
            torch.manual_seed(seed % 2**32)
            yield batch.to(self.device)

    def autocast(self) -> AbstractContextManager:
        """The context for forward passes: mixed precision if the settings ask for it."""
        return autocast(self.precision, self.device)

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to call `backward` on: scaled in fp16, the same otherwise."""
        return self.scaler.scale(loss)

    def read_losses(self, losses: Sequence[Tensor], last: int) -> Iterator[float]:
        """The losses of the steps up to `last`, summed over processes, after all that a GPU has
        queued. Raises InputError at the first one that is not finite."""
        values = distributed.all_reduce_sum(torch.stack([*losses]).cpu().double().numpy())
        for step, loss in enumerate(values.tolist(), last + 1 - len(losses)):
            if not math.isfinite(loss):
                advice = "try a lower --learning-rate" if self.names else "the weights are damaged"
                raise InputError(f"the loss is {loss} at step {step}: {advice}")
            yield loss

    def apply(self) -> None:
        """Update all weights from their gradients, and free the gradients."""
        for block in range(len(self.optimizers)):
            self.apply_block(block)

    def apply_block(self, block: int) -> None:
        """Sum one block's gradient over processes, clip it, update the weights, free it."""
        optimizer = self.optimizers[block]
        if optimizer:
            distributed.all_reduce_gradients(parameters_of(optimizer))
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters_of(optimizer), self.settings.clip)
            self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)

    # The whole step -------------------------------------------------------------------------------

    def step(
        self, step: int, batches: Sequence[Batch], head_masks: HeadMasks | None = None
    ) -> float:
        """`queue`, and the loss of all processes. Raises InputError if it is not finite."""
        (loss,) = self.read_losses([self.queue(step, batches, head_masks)], step)
        return loss

    def queue(
        self, step: int, batches: Sequence[Batch], head_masks: HeadMasks | None = None
    ) -> Tensor:
        """One update from an accumulation window; returns this process's part of its loss per
        scored word, for `read_losses`.

        `head_masks(B)` draws a head mask for each sequence of a micro-batch; its gradient is
        scaled and local to the process. Call `scaler.update()` afterwards, once every optimizer of
        this step has been stepped. Use the weights only if the loss is finite.
        """
        self.set_rate(step)
        scored = scored_words(batches)
        layerwise = self.settings.plan == "layerwise"

        total, states = torch.zeros((), device=self.device), []
        for batch in self.local(batches, step):
            head_mask = head_masks(len(batch.input_ids)) if head_masks else None
            loss_of = self._loss_of(batch, scored)
            if layerwise:
                state, loss = self.passes.forward(batch, head_mask, loss_of)
                states.append(state)
            else:
                with self.autocast():
                    hidden = _encode(self.model, batch, head_mask)
                loss = loss_of(hidden)
                self.scale(loss).backward()
            total = total + loss.detach()

        if layerwise:
            self.apply_block(-1)  # the forward passes completed the classifier's gradient
            for block in self.passes.backward(states):
                self.apply_block(block)
        else:
            self.apply()
        return total

    def _loss_of(self, batch: Batch, scored: int) -> Callable[[Tensor], Tensor]:
        """The function from the encoder's output (B, L, D) to the loss, summed over the micro-batch
        and divided by `scored`. The teacher runs here, before the student's activations fill the
        memory."""
        teacher, labels = self.teacher, batch.labels
        if teacher:
            with torch.no_grad(), self.autocast():
                states = _encode(teacher, batch)
                answers = teacher.classify(states)

        def loss_of(hidden: Tensor) -> Tensor:
            with self.autocast():
                logits = self.model.classify(hidden)
            if not teacher:
                loss = summed_loss(logits, labels)
            elif self.names:
                loss = summed_loss(logits, labels)
                loss = loss + teaching_loss(hidden, logits, states, answers, labels)
            else:
                loss = summed_loss(with_moments_of(answers, logits, labels), labels)
            return loss / scored

        return loss_of

    # Checkpoints ----------------------------------------------------------------------------------

    def save(self, path: str | Path, progress: dict) -> None:
        """Write weights, both moments of AdamW, the scaler and `progress` to one file."""
        tensors = {f"weight.{name}": parameter.detach() for parameter, name in self.names.items()}
        for optimizer in filter(None, self.optimizers):
            for parameter, moments in optimizer.state.items():
                name = self.names[parameter]
                tensors |= {f"{kind}.{name}": value for kind, value in moments.items()}
        progress = progress | {"scaler": self.scaler.state_dict()}
        write_tensors(path, tensors, {"progress": json.dumps(progress)})

    def load(self, path: str | Path) -> dict:
        """Restore what `save` wrote; returns the progress."""
        tensors, metadata = read_tensors(path)
        with torch.no_grad():
            for optimizer in filter(None, self.optimizers):
                for parameter in parameters_of(optimizer):
                    name = self.names[parameter]
                    parameter.copy_(tensors[f"weight.{name}"])
                    if f"exp_avg.{name}" not in tensors:  # fp16 skipped all steps so far
                        continue
                    optimizer.state[parameter] = {
                        kind: tensors[f"{kind}.{name}"].to(self.device).clone()
                        for kind in ("step", "exp_avg", "exp_avg_sq")
                    }
        progress = json.loads(metadata["progress"])
        self.scaler.load_state_dict(progress["scaler"])
        return progress


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def scored_words(batches: Sequence[Batch]) -> int:
    """How many words the micro-batches score, in all processes; at least 1. The summed loss is
    divided by it, so that the cut into micro-batches does not change the update."""
    return max(1, sum(len(window.words) for batch in batches for window in batch.windows))


def teaching_loss(
    hidden: Tensor, logits: Tensor, states: Tensor, answers: Tensor, labels: Tensor
) -> Tensor:
    """How far a student's hidden states (B, L, D) and logits (B, L, labels) are from a teacher's
    `states` and `answers`: the Kullback-Leibler divergence of the labels (Hinton et al. 2015, at
    temperature 1), plus DISTANCE times the squared distance of the states, divided by the squared
    length of the teacher's (after Jiao et al. 2020). Summed over the positions whose label (B, L)
    is not IGNORED."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    hidden, states, logits, answers = (x.to(dtype) for x in (hidden, states, logits, answers))
    lengths = states.square().sum(-1).clamp_min(TINY)  # 0 at padding
    distances = (hidden - states).square().sum(-1) / lengths  # (B, L)
    student, teacher = logits.log_softmax(-1), answers.log_softmax(-1)
    divergences = (teacher.exp() * (teacher - student)).sum(-1)
    return (divergences + DISTANCE * distances).masked_fill(labels == IGNORED, 0).sum()


def with_moments_of(answers: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (B, L, labels), shifted and scaled so that in each sequence the mean of every label,
    and the standard deviation around these means, are those of a teacher's `answers`. Counted are
    the positions whose label (B, L) is not IGNORED.

    Masked heads shift and shrink all logits. Alone that would raise the loss, though the same words
    would score higher than others.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    logits, answers = logits.to(dtype), answers.to(dtype)
    scored = (labels != IGNORED).unsqueeze(-1)
    words = scored.sum(1, keepdim=True).clamp_min(1)

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        mean = (x * scored).sum(1, keepdim=True) / words
        variance = ((x - mean) * scored).square().sum((1, 2), keepdim=True) / words
        return mean, (variance + EPSILON).sqrt()

    mean, deviation = moments(logits)
    goal_mean, goal_deviation = moments(answers)
    return (logits - mean) / deviation * goal_deviation + goal_mean


def _encode(
    model: BertForTokenClassification, batch: Batch, head_mask: Tensor | None = None
) -> Tensor:
    return model.bert.encode(batch.input_ids, batch.packing, head_mask=head_mask).last_hidden_state
