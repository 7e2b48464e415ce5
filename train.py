"""Fine-tune a tagger: which words of a text are in a keyphrase, or any other label per word.

Reads documents, trains from pretrained weights, keeps the best epoch on dev, chooses the threshold
on dev, scores test beside two baselines, and writes a folder that transformers can load.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scipy.special import expit
from torch import Tensor
from tqdm import tqdm

from minibert.config import BertConfig, head_name
from minibert.data.batches import Batch, Split, first_documents, make_splits
from minibert.data.corpus import load_corpus
from minibert.data.documents import OUTSIDE, label_names, share_in_text
from minibert.errors import InputError
from minibert.evaluation.duration import STEP, describe_seconds, seconds_per_pass
from minibert.evaluation.intervals import Score
from minibert.evaluation.tagger import (
    by_document,
    dev_score,
    evaluate,
    in_keyphrase,
    predict,
    predicted_spans,
)
from minibert.files import sha256, write_json
from minibert.heads.links import received_by_head
from minibert.hub import find_model
from minibert.model import BertForTokenClassification, summed_loss
from minibert.output.terminal import marked
from minibert.report import figures, page
from minibert.report.results import from_json
from minibert.report.tables import as_text, score_rows
from minibert.runtime import cli, distributed
from minibert.runtime.device import choose_device, choose_precision, slow_precision
from minibert.runtime.folder import once, open_run, read_log
from minibert.text.tokenizer import Tokenizer
from minibert.training.loop import CHECKPOINT, TrainingRun, accumulation_windows
from minibert.training.memory import choose_plan, stepping_down
from minibert.training.settings import TrainSettings
from minibert.training.step import Stepper, scored_words
from minibert.training.trained import load_tagger

SAMPLE = 3  # test documents in the report
BEGINNING = 150  # words of the first one that are shown head by head


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(train, TrainSettings, __doc__, argv)


class Inputs(NamedTuple):
    """What a run is made from, read and checked."""

    folder: Path  # of the pretrained encoder

    config: BertConfig  # of the tagger

    tokenizer: Tokenizer

    splits: dict[str, Split]

    note: str  # about the data, for the user; may be empty

    checksums: dict[str, str]  # of every file


def train(settings: TrainSettings) -> None:
    cli.require("report")
    distributed.join()
    device = choose_device(settings.device)
    inputs = read_inputs(settings)
    precision = distributed.broadcast(choose_precision(settings.precision, device, settings.out))
    settings = replace(settings, precision=precision)

    with open_run(settings.out, settings, inputs.checksums, device=device):
        results = once(settings.out / "results.json", partial(learn, inputs, settings))
        report(inputs, results, settings)


def read_inputs(settings: TrainSettings) -> Inputs:
    """Everything is read before the run folder is made: wrong input leaves nothing behind."""
    corpus = load_corpus(settings.data)
    documents = [document for split in corpus.splits.values() for document in split]
    names = label_names(documents, settings.labels)

    folder = find_model(settings.model)
    config = new_tagger(folder, names, settings).config  # raises for damaged weights
    tokenizer = Tokenizer.load(folder, config.vocab_size)
    splits = make_splits(corpus.splits, tokenizer, settings.labels, config, settings.max_length)
    check_labels(splits, names, settings.data)

    files = [*folder.glob("*.safetensors"), *folder.glob("*.json"), *folder.glob("vocab.txt")]
    weights = {f"{settings.model} {file.name}": sha256(file) for file in sorted(files)}
    return Inputs(folder, config, tokenizer, splits, corpus.note, corpus.checksums | weights)


def learn(inputs: Inputs, settings: TrainSettings) -> dict:
    """Fine-tune and score; returns the content of results.json."""
    device = choose_device(settings.device)
    splits, names = inputs.splits, inputs.config.labels
    plan = choose_plan(inputs.config, settings, splits["train"].windows, device)
    settings, reason = distributed.broadcast(plan)
    if distributed.rank() == 0:
        print(describe(splits, names))
        if inputs.note:
            print(inputs.note)
        print(f"plan {settings.plan}: {reason}")
        if slow := slow_precision(settings.precision, device):
            print(slow, file=sys.stderr)
        inputs.tokenizer.save(settings.out)

    def fit_and_score(settings: TrainSettings) -> dict:
        model = new_tagger(inputs.folder, names, settings).to(device)
        best = fit(model, splits["train"], splits["dev"], settings)
        scores = evaluate(load_tagger(settings.out).to(device), splits, settings.tokens)
        plan = {"plan": settings.plan, "tokens": settings.tokens}
        return best | plan | {"data": describe(splits, names).splitlines()} | scores

    return stepping_down(settings, fit_and_score)


def new_tagger(
    folder: Path, names: Sequence[str], settings: TrainSettings
) -> BertForTokenClassification:
    """The pretrained encoder under a new classifier, whose weights are drawn from the seed."""
    torch.manual_seed(settings.seed)
    return load_tagger(
        folder,
        names,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.attention_dropout,
    )


# The training loop ------------------------------------------------------------------------------


def fit(
    model: BertForTokenClassification,
    train: Split,
    dev: Split,
    settings: TrainSettings,
    save_every: float = 120.0,
) -> dict:
    """Fine-tune `model`, and leave the weights of the best epoch on dev in `settings.out`.

    A checkpoint is saved after every epoch and every `save_every` seconds. After a kill the same
    call resumes from it and ends with the same weights. Under torchrun the processes share the
    work, and the first one writes. Returns {"best_epoch", "dev_score"}. Raises InputError where
    the loss is not finite.
    """
    steps_per_epoch = -(-len(train.windows) // settings.batch_size)  # rounded up
    steps = settings.epochs * steps_per_epoch

    # AdamW, the learning rate schedule and, for fp16, the loss scaler.
    stepper = Stepper(model, settings, steps)
    seconds = estimate_epoch(stepper, train, dev)
    # Loads the checkpoint of a run that was killed: the next step is `run.step`.
    run = TrainingRun(settings.out, stepper, steps_per_epoch, save_every)
    if distributed.rank() == 0:
        print(announce(run, seconds), flush=True)

    disable = None if distributed.rank() == 0 else True  # None: shown on a terminal only
    with tqdm(desc="train", unit="step", total=steps, initial=run.step, disable=disable) as bar:
        for epoch in range(run.step // steps_per_epoch, settings.epochs):
            model.train()
            windows = accumulation_windows(train, settings, epoch)

            # In the epoch in which a killed run resumes, skip the steps that are done.
            for batches in islice(windows, run.step % steps_per_epoch, None):
                loss = training_step(model, stepper, run.step, batches)
                tokens = sum(len(window.input_ids) for b in batches for window in b.windows)
                run.end_step(loss, tokens)  # raises if the loss is not finite
                bar.set_postfix(run.latest, refresh=False)
                bar.update()

            run.end_epoch(epoch, dev_score(model.eval(), dev, settings.tokens))
    return distributed.broadcast(run.best)  # after the first process has written everything


def training_step(
    model: BertForTokenClassification, stepper: Stepper, step: int, batches: Sequence[Batch]
) -> Tensor:
    """One optimizer step on the micro-batches of an accumulation window; returns this process's
    part of its loss per scored word. Reading its value here would make a GPU wait for the CPU."""
    if stepper.settings.plan == "layerwise":
        # The same update in less memory, one layer's gradient at a time (training/layerwise.py).
        loss = stepper.queue(step, batches)
    else:
        stepper.set_rate(step)
        scored = scored_words(batches)

        # Gradient accumulation: each backward pass adds to the gradients of the ones before. The
        # loss is summed over the words of a micro-batch and divided by the number of words in the
        # whole window. So the gradient is that of the window's mean loss, however it is cut.
        loss = torch.zeros((), device=stepper.device)
        for batch in stepper.local(batches, step):
            with stepper.autocast():  # bf16 or fp16, if the settings ask for it
                hidden = model.bert.encode(batch.input_ids, batch.packing).last_hidden_state
                logits = model.classify(hidden)  # (B, L, labels)
            micro_loss = summed_loss(logits, batch.labels) / scored
            stepper.scale(micro_loss).backward()  # scaled up in fp16 only: small gradients vanish
            loss = loss + micro_loss.detach()

        # For each layer: sum the gradient over processes, unscale, clip, AdamW, free it.
        stepper.apply()

    stepper.scaler.update()  # fp16: a lower scale after an overflow
    return loss


# Checks and reports -----------------------------------------------------------------------------


def check_labels(splits: dict[str, Split], names: Sequence[str], source: str) -> None:
    """Raise InputError for a split that has nothing to learn, to choose by, or to score."""
    for name, split in splits.items():
        labels = {label for target in split.targets for label in target}
        if len(labels) < 2 and (name == "train" or OUTSIDE in names):
            label = names[labels.pop()]
            why = ": its text has no keyphrase" if label == OUTSIDE else ""
            raise InputError(f"{source}: every word of {name} is labelled {label}{why}")


def estimate_epoch(stepper: Stepper, train: Split, dev: Split) -> float:
    """The seconds that an epoch will take, with its score on dev."""
    with stepper.autocast():
        of_train, of_dev = (
            seconds_per_pass(stepper.model.eval(), split.windows, stepper.settings.tokens)
            for split in (train, dev)
        )
    passes = STEP + (stepper.settings.plan == "layerwise")
    return (passes * of_train + of_dev) / distributed.size()


def announce(run: TrainingRun, epoch_seconds: float) -> str:
    """How many steps are left, and how long they will take."""
    left = run.stepper.steps - run.step
    seconds = left / run.steps_per_epoch * epoch_seconds
    done = f" after {run.step} that are done" if run.step else ""
    return f"training: {left} steps{done}, {describe_seconds(seconds)}"


def describe(splits: dict[str, Split], names: Sequence[str]) -> str:
    """One line per split: its size, and how much of it is keyphrases."""
    lines = []
    for name, split in splits.items():
        words = sum(map(len, split.targets))
        parts = [f"{len(split.documents)} documents", f"{words} words"]
        if OUTSIDE in names:
            inside = sum(names[i] != OUTSIDE for target in split.targets for i in target)
            parts.append(f"{inside / words:.1%} of them in a keyphrase")
        if (share := share_in_text(split.documents)) is not None:
            parts.append(f"{share:.1%} of the keyphrases in the text")
        lines.append(f"{name}: {', '.join(parts)}, {len(split.windows)} windows")
    return "\n".join(lines)


def report(inputs: Inputs, results: dict, settings: TrainSettings) -> None:
    """Print the predicted keyphrases of a few test documents and the scores; write report.html."""
    writes = distributed.rank() == 0
    if OUTSIDE in inputs.config.labels:
        model = load_tagger(settings.out).to(choose_device(settings.device))
        documents = first_documents(inputs.splits["test"], max(SAMPLE, settings.show))
        texts = sample_texts(model, documents, results["threshold"], results["tokens"])
        if writes:
            write_json(settings.out / "texts.json", texts[:SAMPLE])
            show_texts(texts[: settings.show])

    if writes:
        (settings.out / CHECKPOINT).unlink(missing_ok=True)
        figures.draw_training(settings.out / "training.png", read_log(settings.out))
        show_scores(results, page.write_report(settings.out))


def sample_texts(
    model: BertForTokenClassification, split: Split, threshold: float, tokens: int
) -> list[dict]:
    """What the report shows of each document.

    "weights": each word's probability of being in a keyphrase; "gold": whether it is in one;
    "spans": the predicted keyphrases. In the first document also "heads": how much attention each
    of the first words receives from each head.
    """
    documents, windows, targets = split
    ranks = by_document(predict(model, split, tokens=tokens).log_odds[0], documents)
    gold = in_keyphrase(targets, model.config.labels)
    texts: list[dict[str, Any]] = [
        {
            "id": document.id,
            "text": document.text,
            "words": document.words,
            "weights": expit(log_odds).tolist(),
            "gold": inside.tolist(),
            "spans": predicted_spans(document, log_odds >= threshold),
        }
        for document, log_odds, inside in zip(documents, ranks, gold)
    ]

    first = [window for window in windows if window.document == 0]
    received = received_by_head(model.bert, first, documents[:1])[0][:BEGINNING]
    heads = model.config.present_heads
    texts[0]["heads"] = {head_name(head): received[:, *head].round(3).tolist() for head in heads}
    return texts


def show_texts(texts: Sequence[dict]) -> None:
    for text in texts:
        keyphrases = marked(text["text"], text["spans"], colour=sys.stdout.isatty())
        print(f"\n{text['id']}:", keyphrases)


def show_scores(results: dict, page_path: Path) -> None:
    scores = from_json(dict[str, dict[str, Score]], results["test"])
    print(f"\nBest epoch on dev: {results['best_epoch'] + 1}. Test, 95 % intervals over documents:")
    print(as_text(score_rows(scores)))
    print(f"\nModel, settings and scores are in {page_path.parent}; the report is {page_path}")


if __name__ == "__main__":
    sys.exit(main())
