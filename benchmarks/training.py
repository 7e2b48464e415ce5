"""One training step of the token classifier beside transformers' Trainer.

python -m benchmarks.training. The Trainer runs its own loop. After each of its steps, ours takes
one on the same batch; both start from the same weights, with equal logits. The Trainer's model has
its default attention, sdpa. The times include forward and backward pass, clipping, AdamW, the
schedule and the Trainer's bookkeeping between on_step_begin and on_step_end; batches are made
before. Dropout on hidden states is 0.1 in both. Dropout on attention probabilities is 0.1 in both,
then 0 in ours (its default), then 0 in both. A ratio above 1 means that ours is faster. The
arithmetic of a step counts as three forward passes.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from transformers import (
    AutoModelForTokenClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.workload import (
    DTYPES,
    SPEED_COLUMNS,
    Lengths,
    Rows,
    Workload,
    describe_documents,
    markdown,
    matrix_jobs,
    matrix_speed,
    save,
    speed_cells,
)
from minibert import BertForTokenClassification, load_pretrained
from minibert.data.batches import Batch
from minibert.errors import InputError
from minibert.heads.costs import flops_of, seconds_of, take_turns
from minibert.runtime import cli
from minibert.training.settings import TrainSettings
from minibert.training.step import Stepper

DROPOUTS = ((0.1, 0.1), (0.1, 0.0), (0.0, 0.0))  # on attention probabilities: theirs, ours


@dataclass(frozen=True)
class Settings(Workload):
    documents: int = 8

    lengths: tuple[Lengths, ...] = ("mixed", "one")

    precision: Literal["float32", "bf16"] = "float32"
    """bf16: autocast in both."""


class TimedCallback(TrainerCallback):
    """Times each step of the Trainer, and a step of ours after it."""

    def __init__(self, stepper: Stepper, batches: Sequence[Batch]):
        self.stepper = stepper
        self.batches = batches
        self.theirs: list[float] = []
        self.ours: list[float] = []

    def on_step_begin(self, *_, **__) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_, **__) -> None:
        self.theirs.append(time.perf_counter() - self.began)
        number = len(self.ours)
        batch = self.batches[number % len(self.batches)]
        self.ours.append(seconds_of(lambda: self.stepper.step(number, [batch])))

    def by_round(self, steps: Sequence[float]) -> list[float]:
        """Seconds of all batches together in each round, without the first one, a warm-up."""
        size = len(self.batches)
        return [sum(steps[start : start + size]) for start in range(size, len(steps), size)]


def side_by_side(
    folder: Path, batches: Sequence[Batch], settings: Settings, dropouts: tuple[float, float]
) -> tuple[list[float], list[float]]:
    """The Trainer's seconds and ours in each round."""
    theirs = AutoModelForTokenClassification.from_pretrained(
        folder, attention_probs_dropout_prob=dropouts[0]
    )
    ours = load_pretrained(folder, attention_probs_dropout_prob=dropouts[1])
    assert isinstance(ours, BertForTokenClassification)
    check(ours, theirs, batches[0])

    training = TrainSettings(precision=settings.precision)
    steps = (1 + settings.rounds) * len(batches)
    beside = TimedCallback(Stepper(ours.train(), training, steps), batches)

    trainer = Trainer(
        theirs,
        trainer_arguments(folder / "trainer", settings, training),
        data_collator=lambda items: items[0],
        train_dataset=[
            {"input_ids": b.input_ids, "attention_mask": b.attention_mask, "labels": b.labels}
            for b in batches
        ],
        callbacks=[beside],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return beside.by_round(beside.theirs), beside.by_round(beside.ours)


def trainer_arguments(out: Path, settings: Settings, training: TrainSettings) -> TrainingArguments:
    """The Trainer's arguments for the same training as ours."""
    return TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=1,  # each item of the data set is a whole batch
        train_sampling_strategy="sequential",
        num_train_epochs=1 + settings.rounds,
        learning_rate=training.learning_rate,
        warmup_steps=training.warmup,
        weight_decay=training.weight_decay,
        max_grad_norm=training.clip,
        bf16=settings.precision == "bf16",
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )


@torch.no_grad()
def check(ours: BertForTokenClassification, theirs: torch.nn.Module, batch: Batch) -> None:
    """Raises AssertionError if the logits of real tokens differ."""
    real = batch.attention_mask.bool()
    expected = ours(batch.input_ids, batch.attention_mask).logits[real]
    logits = theirs.eval()(batch.input_ids, attention_mask=batch.attention_mask).logits[real]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def run(settings: Settings) -> None:
    if not find_spec("accelerate"):
        raise InputError("the Trainer needs accelerate: pip install accelerate")

    torch.set_num_threads(settings.threads)
    model = settings.model()
    rows = [["documents", "loop, dropout on attention", *SPEED_COLUMNS]]
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder))
        for lengths in settings.lengths:
            rows += time_steps(model, Path(folder), lengths, settings)

    print(f"{settings.precision}, {settings.describe()}\n\n{markdown(rows, 2)}")


def time_steps(
    model: BertForTokenClassification, folder: Path, lengths: Lengths, settings: Settings
) -> Rows:
    """The rows of one arrangement of the documents."""
    batches = settings.batches(lengths, model.config)
    sizes = [len(window.input_ids) for batch in batches for window in batch.windows]
    flops = 3 * flops_of(lambda: [model(b.input_ids, b.attention_mask) for b in batches])
    products = matrix_jobs(model.config, DTYPES[settings.precision], sum(sizes))

    rows = []
    for dropouts in DROPOUTS:
        theirs, ours = side_by_side(folder, batches, settings, dropouts)
        times = take_turns(products, settings.rounds)
        limit = matrix_speed(times, model.config, settings.precision, sum(sizes))
        for name, seconds, dropout in zip(("Trainer", "ours"), (theirs, ours), dropouts):
            cells = speed_cells(seconds, ours, sum(sizes), flops, limit)
            rows.append(["", f"{name}, {dropout}", *cells])
    rows[0][0] = describe_documents(lengths, sizes, settings.batch_size)
    return rows


main = partial(cli.run, run, Settings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
