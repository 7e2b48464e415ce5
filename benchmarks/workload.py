"""Shared by the benchmarks: models, documents, the machine's name, and the table of times."""

import platform
import random
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import torch

from minibert import (
    Bert,
    BertConfig,
    BertForTokenClassification,
    load_pretrained,
    save_pretrained,
)
from minibert.data.batches import Batch, Split, Window, collate, make_split
from minibert.data.corpus import read_documents
from minibert.hub import DEFAULT_MODEL, find_model
from minibert.text.tokenizer import Tokenizer

LABELS = ("O", "I")
BERT_BASE = BertConfig(30522, 768, 12, 12, 3072, initializer_range=0.1).with_labels(LABELS)
Shape = Literal["minilm", "bert-base"]


@dataclass(frozen=True)
class Workload:
    """The settings of the benchmarks that time models on documents."""

    data: Path | None = None
    """JSONL of documents; without it, random documents of 100 to 512 pieces, evenly mixed."""

    shape: Shape = "minilm"
    """minilm has its real weights, bert-base random ones: speed does not depend on them."""

    documents: int = 64

    batch_size: int = 8

    by_length: bool = False
    """Sort the documents by length first, which leaves little padding."""

    rounds: int = 7
    """Number of timed rounds, after one round of warming up."""

    threads: int = 1

    def batches(self, config: BertConfig) -> list[Batch]:
        """The documents as batches, each padded to its longest."""
        if self.data:
            split = read_split(self.data, self.documents, config)
        else:
            split = random_split(self.documents, config)
        windows = split.windows
        if self.by_length:
            windows = sorted(windows, key=lambda w: len(w.input_ids))
        return [
            collate(windows[start : start + self.batch_size], split.targets)
            for start in range(0, len(windows), self.batch_size)
        ]

    def describe(self, batches: Sequence[Batch]) -> str:
        lengths = [len(w.input_ids) for b in batches for w in b.windows]
        padding = 1 - sum(lengths) / sum(b.input_ids.numel() for b in batches)
        return (
            f"{self.shape}, {len(lengths)} sequences of {min(lengths)} to {max(lengths)} pieces, "
            f"{sum(lengths)} in all, {self.batch_size} a batch, which is {padding:.0%} padding; "
            f"{machine()}, {self.threads} thread(s); medians of {self.rounds} rounds"
        )


def make_model(shape: Shape) -> BertForTokenClassification:
    torch.manual_seed(0)
    if shape == "bert-base":
        return BertForTokenClassification(BERT_BASE).eval()
    model = load_pretrained(DEFAULT_MODEL, labels=LABELS)
    assert isinstance(model, BertForTokenClassification)
    return model


def save(model: Bert | BertForTokenClassification, folder: Path) -> None:
    """Write a model folder with a tokenizer, from which ours and the peers are loaded."""
    save_pretrained(model, folder)
    for file in find_model(DEFAULT_MODEL).glob("tokenizer*.json"):
        shutil.copy(file, folder)


def read_split(data: Path, documents: int, config: BertConfig) -> Split:
    """The first documents of a JSONL file, in windows of at most 512 pieces."""
    tokenizer = Tokenizer.load(find_model(DEFAULT_MODEL), config.vocab_size)
    return make_split(read_documents(data)[:documents], tokenizer, "io", LABELS, 512)


def random_split(documents: int, config: BertConfig) -> Split:
    """Documents of 100 to 512 random pieces, each a word with a random label; always the same."""
    draw = random.Random(0)
    windows, targets = [], []
    for number in range(documents):
        words = list(range(draw.randint(100, 512) - 2))
        ids = [101, *draw.choices(range(1000, config.vocab_size), k=len(words)), 102]
        windows.append(Window(number, ids, words, [w + 1 for w in words], [-1, *words, -1]))
        targets.append(draw.choices(range(len(LABELS)), k=len(words)))
    return Split([], windows, targets)


def machine() -> str:
    """The CPU's name, and the widest vector instructions that torch uses on it."""
    info = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    name = match[1] if match else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def row(
    name: str,
    seconds: Mapping[str, Sequence[float]],
    ours: str,
    tokens: int,
    note: str = "",
) -> str:
    """A line of the table: the speed of `name`, the ratio of its median time to that of `ours`, and
    the range of the ratios of single rounds."""
    middle = median(seconds[name])
    ratios = [time / our_time for time, our_time in zip(seconds[name], seconds[ours])]
    return (
        f"{name:36}{tokens / middle:8,.0f} tokens/s{middle / median(seconds[ours]):7.2f}x "
        f"[{min(ratios):.2f}, {max(ratios):.2f}]  {note}"
    ).rstrip()
