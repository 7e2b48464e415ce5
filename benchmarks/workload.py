"""What the benchmarks share: models, documents, the machine, and the table of times."""

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

from minibert import BertConfig, BertForTokenClassification, load_pretrained, save_pretrained
from minibert.data.batches import Batch, Split, Window, collate, make_split
from minibert.data.corpus import read_documents
from minibert.hub import DEFAULT_MODEL, find_model
from minibert.text.tokenizer import Tokenizer

LABELS = ("O", "I")
BERT_BASE = BertConfig(30522, 768, 12, 12, 3072, initializer_range=0.1).with_labels(LABELS)
Shape = Literal["minilm", "bert-base"]


@dataclass(frozen=True)
class Workload:
    """The settings of every benchmark that times models on documents."""

    data: Path | None = None
    """JSONL of documents; without it they are random, of 100 to 512 pieces, evenly mixed."""
    shape: Shape = "minilm"
    """minilm has its real weights, bert-base random ones: speed does not depend on them."""
    documents: int = 64
    batch_size: int = 8
    by_length: bool = False
    """Sort the documents by length first, which leaves little padding."""
    rounds: int = 7
    """Times that everything is computed, after one round that warms up."""
    threads: int = 1

    def batches(self, config: BertConfig) -> list[Batch]:
        """Each padded to its longest document."""
        if self.data:
            split = read_split(self.data, self.documents, config)
        else:
            split = drawn(self.documents, config)
        windows = split.windows
        if self.by_length:
            windows = sorted(windows, key=lambda w: len(w.input_ids))
        return [
            collate(windows[at : at + self.batch_size], split.targets)
            for at in range(0, len(windows), self.batch_size)
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
    if shape == "minilm":
        return load_pretrained(DEFAULT_MODEL, labels=LABELS)
    return BertForTokenClassification(BERT_BASE).eval()


def save(model: torch.nn.Module, folder: Path) -> None:
    """Write a model folder, with a tokenizer, from which ours and every peer is loaded."""
    save_pretrained(model, folder)
    for file in find_model(DEFAULT_MODEL).glob("tokenizer*.json"):
        shutil.copy(file, folder)


def read_split(data: Path, documents: int, config: BertConfig) -> Split:
    """The first documents of a JSONL, in windows of at most 512 pieces."""
    tokenizer = Tokenizer.load(find_model(DEFAULT_MODEL), config.vocab_size)
    return make_split(read_documents(data)[:documents], tokenizer, "io", LABELS, 512)


def drawn(documents: int, config: BertConfig) -> Split:
    """Documents of 100 to 512 random pieces, a word and a random label each; always the same."""
    draw = random.Random(0)
    windows, targets = [], []
    for number in range(documents):
        words = list(range(draw.randint(100, 512) - 2))
        ids = [101, *draw.choices(range(1000, config.vocab_size), k=len(words)), 102]
        windows.append(Window(number, ids, words, [w + 1 for w in words], [-1, *words, -1]))
        targets.append(draw.choices(range(len(LABELS)), k=len(words)))
    return Split([], windows, targets)


def machine() -> str:
    """The CPU's name, and the widest instructions that torch finds on it."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    name = named[1] if named else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def row(
    name: str,
    seconds: Mapping[str, Sequence[float]],
    ours: str,
    tokens: int,
    note: str = "",
) -> str:
    """One line: speed, the ratio of its median time to ours, and that ratio's range by round."""
    middle = median(seconds[name])
    ratios = [theirs / own for theirs, own in zip(seconds[name], seconds[ours])]
    return (
        f"{name:36}{tokens / middle:8,.0f} tokens/s{middle / median(seconds[ours]):7.2f}x "
        f"[{min(ratios):.2f}, {max(ratios):.2f}]  {note}"
    ).rstrip()
