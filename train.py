"""Fine-tune a tagger: which words of a text are in a keyphrase, or any other label per word.

Reads documents, trains from pretrained weights, keeps the epoch that is best on dev, chooses the
threshold on dev, reports on test beside two baselines, and leaves a folder that transformers loads.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from scipy.special import expit
from tqdm import tqdm

from minibert.config import head_name
from minibert.data.batches import Split, first_documents, make_splits
from minibert.data.corpus import load_corpus
from minibert.data.documents import OUTSIDE, label_names, share_in_text
from minibert.errors import InputError
from minibert.evaluation.intervals import Score
from minibert.evaluation.tagger import evaluate, in_keyphrase, log_odds, predict, predicted_spans
from minibert.files import read_json, sha256, write_json
from minibert.heads.links import received_by_head
from minibert.hub import find_model
from minibert.model import BertForTokenClassification
from minibert.report import figures, page
from minibert.report.tables import as_text, marked, score_rows
from minibert.runtime import cli, distributed
from minibert.runtime.folder import open_run, read_log
from minibert.tokenizer import Tokenizer
from minibert.training.loop import CHECKPOINT, fit
from minibert.training.memory import choose_plan, stepping_down
from minibert.training.settings import (
    TrainSettings,
    choose_device,
    choose_precision,
    slow_precision,
)
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
    lock = open_run(settings.out, settings, inputs, device=device) if writes else None
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
        found = stepping_down(settings, lambda s: learn(new_tagger(folder, names, s), splits, s))
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
    if lock:
        lock.close()


def learn(
    model: BertForTokenClassification, splits: dict[str, Split], settings: TrainSettings
) -> dict:
    """Train, keep the best, score it: what results.json is to hold."""
    device = choose_device(settings.device)
    with tqdm(desc="train", unit="step", disable=None if distributed.rank() == 0 else True) as bar:
        advance = partial(show_step, bar)
        best = fit(model.to(device), splits["train"], splits["dev"], settings, advance)
    plan = {"plan": settings.plan, "tokens": settings.tokens}
    return best | plan | evaluate(load_pretrained(settings.out).to(device), splits, settings.tokens)


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


def show_step(bar: tqdm, step: int, steps: int, loss: float, speed: float) -> None:
    bar.total = steps
    bar.set_postfix(loss=f"{loss:.3f}", tokens_per_s=f"{speed:.0f}", refresh=False)
    bar.update(step - bar.n)


def sample_texts(
    model: BertForTokenClassification, split: Split, threshold: float, count: int, tokens: int
) -> list[dict]:
    """The first documents with the probability of every word to be in a keyphrase, the phrases
    that the tagger marks and the gold; of the first words of the first, what they receive of each
    head's attention."""
    documents, windows, targets = first_documents(split, count)
    labels = model.config.labels
    texts = []
    for document, log_probs, gold in zip(
        documents, predict(model, windows, documents, tokens=tokens), in_keyphrase(targets, labels)
    ):
        odds = log_odds(log_probs, labels)
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
