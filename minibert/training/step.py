"""One optimizer step."""

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from minibert.data.batches import Batch
from minibert.errors import InputError
from minibert.gates import HardConcreteGates
from minibert.model import BertForTokenClassification
from minibert.runtime import distributed
from minibert.training.adamw import AdamWBf16
from minibert.training.layerwise import Passes
from minibert.training.settings import StepSettings, choose_precision
from minibert.weights import read_tensors, write_tensors

GATE_RATE = 0.1  # Adam's learning rate on log_alpha, whose scale is units, not hundredths


class Stepper:
    """Model, AdamW and loss scaler: everything that one optimizer step changes.

    Weights without `requires_grad` stay as they are. With `gates`, every sequence gets a draw of
    its own as its head mask, and the gates are trained too. The gradient is clipped and applied in
    blocks, which are the embeddings, each layer, and the classifier: so a plan that never has more
    than one block's gradient gives the same update as one that has them all.
    """

    def __init__(
        self,
        model: BertForTokenClassification,
        settings: StepSettings,
        steps: int,
        gates: HardConcreteGates | None = None,
        teacher: BertForTokenClassification | None = None,
    ):
        self.settings = settings
        self.steps = steps
        self.gates = gates
        self.device = model.classifier.weight.device
        if settings.freeze_embeddings:
            model.bert.embeddings.requires_grad_(False)
        self.names = {p: name for name, p in model.named_parameters() if p.requires_grad}
        stages = [model.bert.embeddings, *model.bert.layers, model.classifier]
        self.optimizers = [self._optimizer(stage) for stage in stages]
        precision = choose_precision(settings.precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        autocast = partial(torch.autocast, self.device.type, dtype) if dtype else nullcontext
        parking = torch.device("cpu") if settings.plan == "layerwise" else None
        self.passes = Passes(model, gates, autocast, self.scaler.scale, parking, teacher)
        if gates:
            self.gate_optimizer = torch.optim.Adam([gates.log_alpha], lr=GATE_RATE)

    def _optimizer(self, stage: nn.Module) -> torch.optim.Optimizer | None:
        trained = [p for p in stage.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1]},
            {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
        ]
        decay = self.settings.weight_decay
        if not trained:
            return None
        if self.settings.states == "bf16":
            return AdamWBf16(groups, weight_decay=decay)
        return torch.optim.AdamW(groups, weight_decay=decay, fused=True)

    def rate(self, step: int) -> float:
        """Learning rate of step 0, 1, ...: linear warm-up to the peak, then linear decay."""
        warm = min(round(self.settings.warmup * self.steps), self.steps - 1)
        up = (step + 1) / (warm + 1)
        down = (self.steps - step) / (self.steps - warm)
        return self.settings.learning_rate * min(up, down)

    def step(
        self,
        number: int,
        batches: Sequence[Batch],
        price: Tensor | None = None,
        softness: float = 1.0,
    ) -> float:
        """One update from the whole accumulation window; returns its loss per labelled token.
        Raises InputError, and updates nothing, where the loss is not finite. `price` (layers,
        heads) is what each gate, expected open, adds to the loss.

        Loss is summed over each micro-batch and divided by the labelled tokens of the window, so
        how the window is cut into micro-batches changes nothing but memory. Under torchrun they
        are dealt out to the processes, which all make the same update.
        """
        labelled = max(1, sum(len(w.words) for b in batches for w in b.windows))
        for optimizer in filter(None, self.optimizers):
            for group in optimizer.param_groups:
                group["lr"] = self.rate(number)
        if self.settings.plan == "layerwise":
            found = self._each(batches, number, lambda b: self.passes.forward(b, labelled))
            total = self._finite([loss for _, loss in found], number)
            self._apply(-1)  # the classifier, whose gradient is there already
            self.passes.backward([trace for trace, _ in found], self._apply)
        else:
            one = self._recomputed if self.settings.plan == "checkpoint" else self.passes.plain
            found = self._each(batches, number, lambda b: one(b, labelled))
            total = self._finite(found, number)
            for stage in range(len(self.optimizers)):
                self._apply(stage)
        if self.gates:
            distributed.all_reduce_gradients([self.gates.log_alpha])
            penalty = (price * self.gates.open_probability(softness)).sum()
            self.scaler.scale(penalty).backward()
            self.scaler.step(self.gate_optimizer)
            self.gate_optimizer.zero_grad()
            self.gates.clamp_()
        self.scaler.update()
        return total

    def _each(self, batches: Sequence[Batch], number: int, compute: Callable) -> list:
        """What comes out for each micro-batch that falls to this process."""
        found = []
        for place, batch in distributed.local_items(batches):
            # A seed for each, not a stream of random numbers: a resumed run, or another process,
            # draws the same dropout. A CPU's generator takes 32 bits and drops the rest.
            seed = self.settings.seed * 1_000_003 + number + place * 2_654_435_761
            torch.manual_seed(seed % 2**32)
            found.append(compute(batch))
        return found

    def _recomputed(self, batch: Batch, labelled: int) -> Tensor:
        trace, loss = self.passes.forward(batch, labelled)
        self.passes.backward([trace])
        return loss

    def _finite(self, losses: Sequence[Tensor], number: int) -> float:
        total = distributed.reduce_float(float(sum(losses)))
        if not np.isfinite(total):
            advice = "try a lower --learning-rate" if self.names else "the weights are damaged"
            raise InputError(f"the loss is {total} at step {number}: {advice}")
        return total

    def _apply(self, stage: int) -> None:
        """Clip one block's gradient, update its weights, free the gradient."""
        optimizer = self.optimizers[stage]
        if optimizer:
            distributed.all_reduce_gradients(parameters_of(optimizer))
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters_of(optimizer), self.settings.clip)
            self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)

    def save(self, path: str | Path, step: int, best: dict) -> None:
        """Keep weights, both moments of AdamW, the scaler and how far the run is in one file."""
        tensors = {f"weight.{name}": parameter for parameter, name in self.names.items()}
        for optimizer in filter(None, self.optimizers):
            for parameter, moments in optimizer.state.items():
                name = self.names[parameter]
                tensors |= {f"{kind}.{name}": value for kind, value in moments.items()}
        progress = {"step": step, "best": best, "scaler": self.scaler.state_dict()}
        write_tensors(path, tensors, {"progress": json.dumps(progress)})

    def load(self, path: str | Path) -> tuple[int, dict]:
        """Take up what `save` kept -> step and best so far; from the beginning if nothing is."""
        if not Path(path).exists():
            return 0, {"best_epoch": -1, "dev_score": -1.0}
        tensors, metadata = read_tensors(path)
        with torch.no_grad():
            for optimizer in filter(None, self.optimizers):
                for parameter in parameters_of(optimizer):
                    name = self.names[parameter]
                    parameter.copy_(tensors[f"weight.{name}"])
                    optimizer.state[parameter] = {
                        kind: tensors[f"{kind}.{name}"].to(self.device).clone()
                        for kind in ("step", "exp_avg", "exp_avg_sq")
                    }
        progress = json.loads(metadata["progress"])
        self.scaler.load_state_dict(progress["scaler"])
        return progress["step"], progress["best"]


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]
