"""Fine-tune a token classifier: one optimizer step, the schedule, the loop, and resuming it."""

import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from minibert import metrics, processes
from minibert.config import check_fields
from minibert.data import Batch, Scheme, Split, collate, make_batches
from minibert.errors import InputError
from minibert.evaluation import positive, positive_score, predict
from minibert.gates import HardConcreteGates
from minibert.model import BertForTokenClassification
from minibert.optimizer import HalfAdamW
from minibert.passes import Passes
from minibert.runs import Log, recorded_precision
from minibert.weights import DEFAULT_MODEL, read_tensors, save_pretrained, write_tensors

GATE_RATE = 0.1  # Adam's learning rate on log_alpha, whose scale is units, not hundredths
CHECKPOINT = "checkpoint.safetensors"  # in the run folder, while the run is not finished
Plan = Literal["auto", "plain", "checkpoint", "layerwise"]
Precision = Literal["auto", "float32", "bf16", "fp16"]
States = Literal["float32", "bf16"]


@dataclass(frozen=True)
class TrainSettings:
    """The command line of train.py, its record in run.json, and the defaults of both."""

    data: str = "sample"
    """"sample"; a folder with train.jsonl, dev.jsonl, test.jsonl; a path with {split} in it; one
    JSONL file, zip or docsutf8/keys folder (then split 70/10/20); or a Hub data set's id."""
    out: Path = Path("runs/train")
    """Run folder. Given again with the same settings, the run goes on where it stopped."""
    model: str = DEFAULT_MODEL
    """Folder or Hub id of the pretrained encoder, e.g. google-bert/bert-base-uncased."""
    labels: Scheme = "io"
    """io: in a keyphrase or not; bio: B, I, O; given: the labels that the documents carry."""
    epochs: int = 3
    """Passes over the training documents; the best by dev AP (accuracy without O) is kept."""
    batch_size: int = 8
    """Windows in one optimizer step."""
    learning_rate: float = 2e-4
    """Peak of the schedule: linear warm-up, then linear decay to zero."""
    warmup: float = 0.1
    """Share of all steps that warms up."""
    weight_decay: float = 0.01
    """AdamW's, on matrices only: not on norms and biases."""
    clip: float = 1.0
    """Largest norm of the gradient of the embeddings, of each layer, and of the classifier."""
    dropout: float = 0.1
    """On hidden states and embeddings."""
    attention_dropout: float = 0.0
    """On attention probabilities. Zero keeps the fused attention kernel in use."""
    max_length: int = 512
    """Longest window in word pieces; longer texts are cut into overlapping windows."""
    tokens: int = 4096
    """Word pieces computed at a time. Memory depends on it; results only by the dropout drawn."""
    plan: Plan = "auto"
    """plain: fastest. checkpoint: each layer computed again on the way back, which keeps less.
    layerwise: and over all micro-batches of a step together, so that only one layer's gradient
    exists at a time. auto: the fastest that fits. The update is the same."""
    memory_limit: float = 0
    """MiB that tensors may take, for --plan auto; 0: what the GPU has free. A CUDA context takes
    some hundred MiB more."""
    freeze_embeddings: bool = False
    """Leave the embeddings as they are: less memory for their gradient and optimizer states."""
    states: States = "float32"
    """Of AdamW's two moments. bf16 takes half the memory; rounded at random, so that small changes
    are right on average."""
    precision: Precision = "auto"
    """auto: bf16 (else fp16) on a GPU, float32 on a CPU; a run goes on as it began."""
    device: str = "auto"
    """auto: the GPU if there is one."""
    show: int = 3
    """Test documents to print at the end with their predicted keyphrases marked."""
    seed: int = 0
    """Of the new classifier, the order of the documents, and dropout."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("epochs", "batch_size", "tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ("warmup", "dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be in [0, 1)")
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"--{name.replace('_', '-')} must be above 0")
        if not 0 <= self.weight_decay <= 1:
            raise InputError("--weight-decay must be in [0, 1]")
        if not 0 <= self.seed < 2**32:
            raise InputError("--seed must be from 0 to 4294967295")
        if self.show < 0 or not 0 <= self.memory_limit < float("inf"):
            raise InputError("--show and --memory-limit must be at least 0")


def choose_device(name: str) -> torch.device:
    try:
        if name == "auto":  # under torchrun, each process its own GPU
            own = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
            name = own if torch.cuda.is_available() else "cpu"
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


def choose_precision(
    name: Precision, device: torch.device, folder: str | Path | None = None
) -> Precision:
    """The precision that "auto" stands for: the recorded one of the run in `folder`, or, where none
    has begun, bf16 or fp16 on a GPU, and float32 on a CPU, whatever the processor could do."""
    if name != "auto":
        return name
    if folder and (recorded := recorded_precision(folder)):
        return recorded
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "float32"


def slow_precision(name: Precision, device: torch.device) -> str | None:
    """A sentence, where this CPU has no instructions for the precision; None otherwise."""
    if device.type != "cpu" or name not in ("bf16", "fp16"):
        return None
    native = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported")()
    return None if native else f"this CPU has no {name}: a run with --precision float32 is faster"


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
        settings: TrainSettings,
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
            return HalfAdamW(groups, weight_decay=decay)
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
            processes.add_up_gradients([self.gates.log_alpha])
            penalty = (price * self.gates.open_probability(softness)).sum()
            self.scaler.scale(penalty).backward()
            self.scaler.step(self.gate_optimizer)
            self.gate_optimizer.zero_grad()
            self.gates.limit()
        self.scaler.update()
        return total

    def _each(self, batches: Sequence[Batch], number: int, compute: Callable) -> list:
        """What comes out for each micro-batch that falls to this process."""
        found = []
        for place, batch in processes.turns(batches):
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
        total = processes.total(float(sum(losses)))
        if not np.isfinite(total):
            advice = "try a lower --learning-rate" if self.names else "the weights are damaged"
            raise InputError(f"the loss is {total} at step {number}: {advice}")
        return total

    def _apply(self, stage: int) -> None:
        """Clip one block's gradient, update its weights, free the gradient."""
        optimizer = self.optimizers[stage]
        if optimizer:
            processes.add_up_gradients(weights_of(optimizer))
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(weights_of(optimizer), self.settings.clip)
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
                for parameter in weights_of(optimizer):
                    name = self.names[parameter]
                    parameter.copy_(tensors[f"weight.{name}"])
                    optimizer.state[parameter] = {
                        kind: tensors[f"{kind}.{name}"].to(self.device).clone()
                        for kind in ("step", "exp_avg", "exp_avg_sq")
                    }
        progress = json.loads(metadata["progress"])
        self.scaler.load_state_dict(progress["scaler"])
        return progress["step"], progress["best"]


def weights_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def plan(split: Split, settings: TrainSettings, epoch: int) -> Iterator[list[Batch]]:
    """The accumulation windows of one epoch, in its own random order, each as micro-batches."""
    order = list(split.windows)
    random.Random(f"{settings.seed} {epoch}").shuffle(order)
    for i in range(0, len(order), settings.batch_size):
        window = order[i : i + settings.batch_size]
        fair = -(-sum(len(w.input_ids) for w in window) // processes.size())  # something for each
        chosen = make_batches(window, min(settings.tokens, fair))
        yield [collate(group, split.targets) for group in chosen]


def endless(split: Split, settings: TrainSettings) -> Iterator[list[Batch]]:
    """Accumulation windows, epoch after epoch, without an end."""
    for epoch in count():
        yield from plan(split, settings, epoch)


def fine_tune(
    model: BertForTokenClassification,
    split: Split,
    settings: TrainSettings,
    steps: int,
    teacher: BertForTokenClassification | None = None,
) -> Iterator[float]:
    """So many optimizer steps in place, with the whole schedule; yields each step's loss. With a
    `teacher` the model learns its answers beside the labels."""
    stepper = Stepper(model.train(), settings, steps, teacher=teacher)
    for number, batches in zip(range(steps), endless(split, settings)):
        yield stepper.step(number, batches)


def dev_score(model: BertForTokenClassification, dev: Split, tokens: int) -> float:
    """Average precision of "not O" on dev; word accuracy where no label is O."""
    labels = model.config.labels
    log_probs = predict(model, dev.windows, dev.documents, tokens=tokens)
    if "O" not in labels:
        right = [p.argmax(1) == np.array(t) for p, t in zip(log_probs, dev.targets)]
        return float(np.concatenate(right).mean())
    ranks = [positive_score(p, labels) for p in log_probs]
    return metrics.Ranking(positive(dev.targets, labels), ranks).average_precision()


def fit(
    model: BertForTokenClassification,
    train: Split,
    dev: Split,
    settings: TrainSettings,
    on_step: Callable[[int, int, float, float], None] = lambda *_: None,
    save_every: float = 120.0,
) -> dict:
    """Train `model`, leaving the weights of the best epoch in `settings.out`.

    `on_step` is given step, steps, loss and tokens/s. A state is saved every `save_every` seconds
    and after every epoch; a call after a kill goes on from it and ends with the same weights.
    Under torchrun the processes share the work, and the first one writes. Returns {"best_epoch",
    "dev_score"}. Raises InputError when the loss is not finite.
    """
    per_epoch = -(-len(train.windows) // settings.batch_size)
    steps = settings.epochs * per_epoch
    stepper = Stepper(model, settings, steps)
    out = Path(settings.out)
    checkpoint = out / CHECKPOINT
    step, best = stepper.load(checkpoint)
    log = Log(out / "metrics.jsonl", step) if processes.rank() == 0 else None
    saved = time.monotonic()
    for epoch in range(step // per_epoch, settings.epochs):
        model.train()
        done = step - epoch * per_epoch
        for batches in islice(plan(train, settings, epoch), done, None):
            began = time.monotonic()
            loss = stepper.step(step, batches)
            speed = sum(int(b.attention_mask.sum()) for b in batches) / (time.monotonic() - began)
            if log:
                rate = stepper.rate(step)
                log.write(step=step + 1, loss=loss, learning_rate=rate, tokens_per_s=speed)
            step += 1
            on_step(step, steps, loss, speed)
            late = time.monotonic() - saved > save_every
            if log and late and step < (epoch + 1) * per_epoch:
                stepper.save(checkpoint, step, best)
                saved = time.monotonic()
        score = dev_score(model.eval(), dev, settings.tokens)
        better = score > best["dev_score"]
        best = {"best_epoch": epoch, "dev_score": score} if better else best
        if log:
            log.write(step=step, epoch=epoch, dev_score=score)
            if better:
                save_pretrained(model, out)
            stepper.save(checkpoint, step, best)
    return processes.agree(best)  # once the first has written everything
