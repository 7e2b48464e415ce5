"""Fine-tune a token classifier: one optimizer step, the schedule, the loop, and resuming it."""

import random
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

from minibert.data.batches import Batch, Split, collate, make_batches
from minibert.evaluation.tagger import dev_score
from minibert.model import BertForTokenClassification
from minibert.runtime import distributed
from minibert.runtime.folder import Log
from minibert.training.settings import StepSettings, TrainSettings
from minibert.training.step import Stepper
from minibert.weights import save_pretrained

CHECKPOINT = "checkpoint.safetensors"  # in the run folder, while the run is not finished


def accumulation_windows(split: Split, settings: StepSettings, epoch: int) -> Iterator[list[Batch]]:
    """The accumulation windows of one epoch, in its own random order, each as micro-batches."""
    order = list(split.windows)
    random.Random(f"{settings.seed} {epoch}").shuffle(order)
    for i in range(0, len(order), settings.batch_size):
        window = order[i : i + settings.batch_size]
        fair = -(-sum(len(w.input_ids) for w in window) // distributed.size())  # something for each
        chosen = make_batches(window, min(settings.tokens, fair))
        yield [collate(group, split.targets) for group in chosen]


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
    """So many optimizer steps in place, with the whole schedule; yields each step's loss. With a
    `teacher` the model learns its answers beside the labels."""
    stepper = Stepper(model.train(), settings, steps, teacher=teacher)
    for number, batches in zip(range(steps), endless(split, settings)):
        yield stepper.step(number, batches)


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
    log = Log(out / "metrics.jsonl", step) if distributed.rank() == 0 else None
    saved = time.monotonic()
    for epoch in range(step // per_epoch, settings.epochs):
        model.train()
        done = step - epoch * per_epoch
        for batches in islice(accumulation_windows(train, settings, epoch), done, None):
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
    return distributed.broadcast(best)  # once the first has written everything
