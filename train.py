"""Fine-tune a tagger: which words of a text are in a keyphrase, or any other label per word.

Reads documents, trains from pretrained weights, keeps the epoch that is best on dev, chooses the
threshold on dev, reports on test beside two baselines, and leaves a folder that transformers loads.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from scipy.special import expit
from tqdm import tqdm

from minibert.config import head_name
from minibert.data.batches import Batch, Split, first_documents, make_splits
from minibert.data.corpus import load_corpus
from minibert.data.documents import OUTSIDE, label_names, share_in_text
from minibert.errors import InputError
from minibert.evaluation.intervals import Score
from minibert.evaluation.tagger import (
    by_document,
    dev_score,
    evaluate,
    in_keyphrase,
    predict,
    predicted_spans,
)
from minibert.files import read_json, sha256, write_json
from minibert.heads.links import received_by_head
from minibert.hub import find_model
from minibert.model import BertForTokenClassification, summed_loss
from minibert.report import figures, page
from minibert.report.tables import as_text, marked, score_rows
from minibert.runtime import cli, distributed
from minibert.runtime.folder import open_run, read_log
from minibert.tokenizer import Tokenizer
from minibert.training.loop import CHECKPOINT, TrainingRun, accumulation_windows
from minibert.training.memory import choose_plan, stepping_down
from minibert.training.settings import (
    TrainSettings,
    choose_device,
    choose_precision,
    slow_precision,
)
from minibert.training.step import Stepper, scored_words
from minibert.weights import load_pretrained

SAMPLE = 3  # documents of test in the report
BEGINNING = 150  # words of the first of them that are shown head by head


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(train, TrainSettings, __doc__, argv)


def train(settings: TrainSettings) -> None:
    cli.require("report")
    writes = distributed.join()
    device = choose_device(settings.device)
    corpus = load_corpus(settings.data)
    every = [document for split in corpus.splits.values() for document in split]
    names = label_names(every, settings.labels)
    folder = find_model(settings.model)
    config = new_tagger(folder, names, settings).config  # the file is sound: say so at once
    tokenizer = Tokenizer.load(folder, config.vocab_size)
    splits = make_splits(corpus, tokenizer, settings.labels, config, settings.max_length)
    check_labels(splits, names, settings.data)
    files = [*folder.glob("*.safetensors"), *folder.glob("*.json"), *folder.glob("vocab.txt")]
    weights = {f"{settings.model} {file.name}": sha256(file) for file in sorted(files)}
    precision = distributed.broadcast(choose_precision(settings.precision, device, settings.out))
    settings = replace(settings, precision=precision)
    inputs = corpus.checksums | weights
    with open_run(settings.out, settings, inputs, device=device):
        results = settings.out / "results.json"
        if not distributed.broadcast(results.exists()):
            windows = splits["train"].windows
            settings, why = distributed.broadcast(choose_plan(config, settings, windows, device))
            if writes:
                print(describe(splits, names), *filter(None, [corpus.note]), sep="\n")
                print(f"plan {settings.plan}: {why}")
                if slow := slow_precision(precision, device):
                    print(slow, file=sys.stderr)
                tokenizer.save(settings.out)
            found = stepping_down(
                settings, lambda s: learn(new_tagger(folder, names, s), splits, s)
            )
            if writes:
                write_json(results, found)
        told = distributed.broadcast(read_json(results) if writes else None)
        model = load_pretrained(settings.out).to(device)
        if OUTSIDE in names:
            count = max(SAMPLE, settings.show)
            shown = sample_texts(model, splits["test"], told["threshold"], count, settings.tokens)
            if writes:
                write_json(settings.out / "texts.json", shown[:SAMPLE])
                show_texts(shown[: settings.show])
        if writes:
            (settings.out / CHECKPOINT).unlink(missing_ok=True)
            figures.draw_training(settings.out / "training.png", read_log(settings.out))
            show(told, page.write_report(settings.out))


def learn(
    model: BertForTokenClassification, splits: dict[str, Split], settings: TrainSettings
) -> dict:
    """Train, then score the best epoch on dev and test; returns what results.json holds."""
    device = choose_device(settings.device)
    best = fit(model.to(device), splits["train"], splits["dev"], settings)
    plan = {"plan": settings.plan, "tokens": settings.tokens}
    return best | plan | evaluate(load_pretrained(settings.out).to(device), splits, settings.tokens)


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
    call goes on from it and ends with the same weights. Under torchrun the processes share the
    work, and the first one writes. Returns {"best_epoch", "dev_score"}. Raises InputError where
    the loss is not finite.
    """
    steps_per_epoch = -(-len(train.windows) // settings.batch_size)  # rounded up
    steps = settings.epochs * steps_per_epoch
    stepper = Stepper(model, settings, steps)  # AdamW, the learning rate schedule, the loss scaler
    run = TrainingRun(settings.out, stepper, steps_per_epoch, save_every)  # resumes at run.step

    shown = None if distributed.rank() == 0 else True  # None: on a terminal only
    with tqdm(desc="train", unit="step", total=steps, initial=run.step, disable=shown) as bar:
        for epoch in range(run.step // steps_per_epoch, settings.epochs):
            model.train()
            windows = accumulation_windows(train, settings, epoch)

            # A resumed epoch skips the steps that are done.
            for batches in islice(windows, run.step % steps_per_epoch, None):
                started = time.monotonic()
                loss = training_step(model, stepper, run.step, batches)
                tokens = sum(len(window.input_ids) for b in batches for window in b.windows)
                speed = tokens / (time.monotonic() - started)
                run.end_step(loss, speed)
                bar.set_postfix(loss=f"{loss:.3f}", tokens_per_s=f"{speed:.0f}", refresh=False)
                bar.update()

            run.end_epoch(epoch, dev_score(model.eval(), dev, settings.tokens))
    return distributed.broadcast(run.best)  # after the first process has written everything


def training_step(
    model: BertForTokenClassification, stepper: Stepper, step: int, batches: Sequence[Batch]
) -> float:
    """One optimizer step on the micro-batches of an accumulation window; returns its loss per
    scored word."""
    stepper.set_rate(step)
    scored = scored_words(batches)

    if stepper.settings.plan == "layerwise":
        # The same update in less memory, one layer's gradient at a time.
        loss = stepper.layerwise_step(step, batches, scored)
    else:
        # Gradient accumulation: each backward pass adds to the gradients. The loss is summed over
        # the words of a micro-batch and divided by those of the whole window: the sum of the
        # micro-batches is the mean over the window, however it is cut.
        losses = []
        for batch in stepper.local(batches, step):
            with stepper.autocast():
                hidden = model.bert.encode(batch.input_ids, batch.packing).last_hidden_state
                logits = model.classify(hidden)  # (B, L, labels)
            micro_loss = summed_loss(logits, batch.labels) / scored
            stepper.scale(micro_loss).backward()  # scaled in fp16 only
            losses.append(micro_loss.detach())
        loss = stepper.check_loss(losses, step)

        # For each layer: sum over processes, unscale, clip, AdamW, free the gradient.
        stepper.apply()

    stepper.scaler.update()
    return loss


# Before and after it ----------------------------------------------------------------------------


def new_tagger(
    folder: Path, names: Sequence[str], settings: TrainSettings
) -> BertForTokenClassification:
    """The pretrained encoder with a classifier that is drawn from the seed."""
    torch.manual_seed(settings.seed)
    return load_pretrained(
        folder,
        names,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.attention_dropout,
    )


def check_labels(splits: dict[str, Split], names: Sequence[str], source: str) -> None:
    """Refuse a split that has nothing to learn, to choose by, or to report."""
    for name, split in splits.items():
        found = {label for target in split.targets for label in target}
        if len(found) < 2 and (name == "train" or OUTSIDE in names):
            label = names[found.pop()]
            why = ": no keyphrase stands in its text" if label == OUTSIDE else ""
            raise InputError(f"{source}: every word of {name} is labelled {label}{why}")


def describe(splits: dict[str, Split], names: Sequence[str]) -> str:
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


def sample_texts(
    model: BertForTokenClassification, split: Split, threshold: float, count: int, tokens: int
) -> list[dict]:
    """The first documents with the probability of every word to be in a keyphrase, the phrases
    that the tagger marks and the gold; of the first words of the first, what they receive of each
    head's attention."""
    first = first_documents(split, count)
    documents, windows, targets = first
    log_odds = by_document(predict(model, first, tokens=tokens).log_odds[0], documents)
    texts = []
    for document, odds, gold in zip(
        documents, log_odds, in_keyphrase(targets, model.config.labels)
    ):
        text = {"id": document.id, "text": document.text, "words": document.words}
        text |= {"weights": expit(odds).tolist(), "gold": gold.tolist()}
        texts.append(text | {"spans": predicted_spans(document, odds >= threshold)})
    own = [window for window in windows if window.document == 0]
    received = received_by_head(model.bert, own, documents[:1])[0][:BEGINNING]
    heads = model.config.present_heads
    texts[0]["heads"] = {head_name(head): received[:, *head].round(3).tolist() for head in heads}
    return texts


def show(results: dict, shown: Path) -> None:
    scores = {
        system: {measure: Score(**value) for measure, value in values.items()}
        for system, values in results["test"].items()
    }
    print(f"\nBest epoch on dev: {results['best_epoch'] + 1}. Test, 95 % intervals over documents:")
    print(as_text(score_rows(scores)))
    print(f"\nModel, settings and scores are in {shown.parent}; to look at: {shown}")


def show_texts(texts: Sequence[dict]) -> None:
    for text in texts:
        shown = marked(text["text"], text["spans"], colour=sys.stdout.isatty())
        print(f"\n{text['id']}:", shown)


if __name__ == "__main__":
    sys.exit(main())
