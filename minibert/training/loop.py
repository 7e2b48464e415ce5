"""The order of the data, fine-tuning for a number of steps, and the state of a run that can be
resumed. The training loop itself is in train.py."""

import random
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from torch import Tensor

from minibert.data.batches import Batch, Split, collate, make_batches
from minibert.model import BertForTokenClassification
from minibert.runtime import distributed
from minibert.runtime.folder import Log
from minibert.training.settings import StepSettings
from minibert.training.step import Stepper
from minibert.weights import save_pretrained

CHECKPOINT = "checkpoint.safetensors"  # in the run folder, while the run is not finished
READ_EVERY = {"cuda": 16}  # steps whose losses are read together: a GPU's queue runs empty then


def accumulation_windows(split: Split, settings: StepSettings, epoch: int) -> Iterator[list[Batch]]:
    """The accumulation windows of one epoch, in its own random order, each as micro-batches."""
    order = list(split.windows)
    random.Random(f"{settings.seed} {epoch}").shuffle(order)

    for start in range(0, len(order), settings.batch_size):
        windows = order[start : start + settings.batch_size]

        # Under torchrun smaller micro-batches, so that every process gets one.
        pieces = sum(len(window.input_ids) for window in windows)
        tokens = min(settings.tokens, -(-pieces // distributed.size()))
        yield [collate(group, split.targets) for group in make_batches(windows, tokens)]


def endless(split: Split, settings: StepSettings) -> Iterator[list[Batch]]:
    """Accumulation windows, epoch after epoch, without an end."""
    for epoch in count():
        yield from accumulation_windows(split, settings, epoch)


def fine_tune(
    model: BertForTokenClassification,
    split: Split,
    settings: StepSettings,
    steps: int,
    teacher: BertForTokenClassification | None = None,
) -> Iterator[float]:
    """Train in place for `steps` optimizer steps, over which the whole learning rate schedule runs;
    yields the loss of each step. See `Stepper` for `teacher`."""
    stepper = Stepper(model.train(), settings, steps, teacher)
    for step, batches in zip(range(steps), endless(split, settings)):
        loss = stepper.step(step, batches)
        stepper.scaler.update()
        yield loss


class TrainingRun:
    """The training state in a run folder: what a killed run resumes from, the log, and the weights
    of the best epoch.

    `step` counts the optimizer steps that are done, `best` is {"best_epoch", "dev_score"}. A
    checkpoint is saved after every epoch, and within one every `save_every` seconds. Under torchrun
    only the first process writes. `latest` is for a progress bar.
    """

    def __init__(
        self, folder: str | Path, stepper: Stepper, steps_per_epoch: int, save_every: float
    ):
        self.folder = Path(folder)
        self.stepper = stepper
        self.steps_per_epoch = steps_per_epoch
        self.save_every = save_every
        self.step, self.best = 0, {"best_epoch": -1, "dev_score": -1.0}
        if (self.folder / CHECKPOINT).exists():
            progress = stepper.load(self.folder / CHECKPOINT)
            self.step, self.best = progress["step"], progress["best"]
        self.read_every = READ_EVERY.get(stepper.device.type, 1)
        self.unread: list[tuple[Tensor, int]] = []  # loss and word pieces of each step
        self.latest: dict[str, str] = {}
        self.saved = self.began = time.monotonic()

        # Opening the log drops what a killed run wrote after its last checkpoint.
        writes = distributed.rank() == 0
        self.log = Log(self.folder / "metrics.jsonl", self.step) if writes else None

    def end_step(self, loss: Tensor, tokens: int) -> None:
        """Count a step on so many word pieces. Its loss is read and logged now or with later ones.
        Raises InputError if one is not finite."""
        self.step += 1
        self.unread.append((loss, tokens))
        epoch_is_over = self.step % self.steps_per_epoch == 0
        if len(self.unread) < self.read_every and not epoch_is_over:
            return

        losses, counts = zip(*self.unread)
        values = self.stepper.read_losses(losses, self.step - 1)
        for step, value in enumerate(values, self.step - len(losses)):
            speed = sum(counts) / (time.monotonic() - self.began)  # of all these steps together
            self.latest = {"loss": f"{value:.3f}", "tokens_per_s": f"{speed:.0f}"}
            if self.log:
                rate = self.stepper.rate(step)
                self.log.write(step=step + 1, loss=value, learning_rate=rate, tokens_per_s=speed)
        self.unread = []

        # Not after an epoch's last step: the epoch ends with its score on dev.
        if time.monotonic() - self.saved > self.save_every and not epoch_is_over:
            self._save()
        self.began = time.monotonic()

    def end_epoch(self, epoch: int, dev_score: float) -> None:
        better = dev_score > self.best["dev_score"]
        if better:
            self.best = {"best_epoch": epoch, "dev_score": dev_score}
        if self.log:
            self.log.write(step=self.step, epoch=epoch, dev_score=dev_score)
            if better:
                save_pretrained(self.stepper.model, self.folder)
        self._save()
        self.began = time.monotonic()

    def _save(self) -> None:
        if self.log:
            progress = {"step": self.step, "best": self.best}
            self.stepper.save(self.folder / CHECKPOINT, progress)
            self.saved = time.monotonic()
