"""Fine-tune a tagger: which words of a text are in a keyphrase, or any other label per word.

Reads documents, trains from pretrained weights, keeps the epoch that is best on dev, chooses the
threshold on dev, reports on test beside two baselines, and leaves a folder that transformers loads.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from minibert import cli
from minibert.data import OUTSIDE, Split, first_documents, label_names, load_corpus, make_splits
from minibert.errors import InputError
from minibert.evaluation import evaluate, positive_score, predict, predicted_spans
from minibert.files import read_json, sha256, write_json
from minibert.metrics import Score
from minibert.model import BertForTokenClassification
from minibert.report import marked, score_table
from minibert.runs import open_run
from minibert.tokenizer import Tokenizer
from minibert.training import CHECKPOINT, TrainSettings, choose_device, choose_precision, fit
from minibert.weights import find_model, load_pretrained


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(train, TrainSettings, __doc__, argv)


def train(settings: TrainSettings) -> None:
    device = choose_device(settings.device)
    corpus = load_corpus(settings.data)
    every = [document for split in corpus.splits.values() for document in split]
    names = label_names(every, settings.labels)
    folder = find_model(settings.model)
    torch.manual_seed(settings.seed)  # of the new classifier
    model = load_pretrained(
        folder,
        names,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.attention_dropout,
    ).to(device)
    tokenizer = Tokenizer.load(folder, model.config.vocab_size)
    splits = make_splits(corpus, tokenizer, settings.labels, model.config, settings.max_length)
    check_labels(splits, names, settings.data)
    files = [*folder.glob("*.safetensors"), *folder.glob("*.json"), *folder.glob("vocab.txt")]
    weights = {f"{settings.model} {file.name}": sha256(file) for file in sorted(files)}
    settings = replace(settings, precision=choose_precision(settings.precision, device))
    lock = open_run(settings.out, settings, corpus.checksums | weights)
    results = settings.out / "results.json"
    if not results.exists():
        print(describe(splits, names), *filter(None, [corpus.note]), sep="\n")
        tokenizer.save(settings.out)
        with tqdm(desc="train", unit="step", disable=None) as bar:
            best = fit(model, splits["train"], splits["dev"], settings, lambda *s: advance(bar, *s))
        model = load_pretrained(settings.out).to(device)
        write_json(results, best | evaluate(model, splits))
    (settings.out / CHECKPOINT).unlink(missing_ok=True)
    results = read_json(results)
    show(results, settings.out)
    if OUTSIDE in names and settings.show:
        model = load_pretrained(settings.out).to(device)
        show_documents(model, splits["test"], results["threshold"], settings.show)
    lock.close()


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
        inside = sum(names[i] != OUTSIDE for target in split.targets for i in target)
        share = f", {inside / words:.1%} of them in a keyphrase" if OUTSIDE in names else ""
        lines.append(
            f"{name}: {len(split.documents)} documents, {words} words{share}, "
            f"{len(split.windows)} windows"
        )
    return "\n".join(lines)


def advance(bar: tqdm, step: int, steps: int, loss: float, speed: float) -> None:
    bar.total = steps
    bar.set_postfix(loss=f"{loss:.3f}", tokens_per_s=f"{speed:.0f}", refresh=False)
    bar.update(step - bar.n)


def show(results: dict, folder: Path) -> None:
    scores = {
        system: {measure: Score(**value) for measure, value in values.items()}
        for system, values in results["test"].items()
    }
    print(f"\nBest epoch on dev: {results['best_epoch'] + 1}. Test, 95 % intervals over documents:")
    print(score_table(scores))
    print(f"\nModel, settings and scores are in {folder}")


def show_documents(
    model: BertForTokenClassification, split: Split, threshold: float, count: int
) -> None:
    documents, windows, _ = first_documents(split, count)
    for document, log_probs in zip(documents, predict(model, windows, documents)):
        inside = positive_score(log_probs, model.config.labels) >= threshold
        spans = predicted_spans(document, inside)
        print(f"\n{document.id}:", marked(document.text, spans, colour=sys.stdout.isatty()))


if __name__ == "__main__":
    sys.exit(main())
