"""Shared by the benchmarks: models, documents, the CPU's matrix speed, and tables of results."""

import platform
import random
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from minibert import (
    Bert,
    BertConfig,
    BertForTokenClassification,
    load_pretrained,
    save_pretrained,
)
from minibert.data.batches import Batch, Split, Window, collate, make_split
from minibert.data.corpus import read_documents
from minibert.data.documents import Document
from minibert.hub import DEFAULT_MODEL, find_model
from minibert.layers import HAS_KERNEL
from minibert.text.tokenizer import Tokenizer

LABELS = ("O", "I")
BERT_BASE = BertConfig(30522, 768, 12, 12, 3072, initializer_range=0.1).with_labels(LABELS)
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
ONE_LENGTH = 256  # word pieces

Shape = Literal["minilm", "bert-base"]
Lengths = Literal["mixed", "sorted", "one"]
Rows = list[list[str]]  # of a table; the first row is the header


# Models and documents ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    """The settings of the benchmarks that time models on documents."""

    data: Path | None = None
    """JSONL of documents; without it, random documents of 100 to 512 pieces, evenly mixed."""

    lengths: tuple[Lengths, ...] = ("mixed", "sorted", "one")
    """mixed: documents in their order; sorted: by length, which leaves little padding; one: half as
    many random documents of 256 pieces, no padding."""

    shape: Shape = "minilm"
    """minilm has its real weights, bert-base random ones: speed does not depend on them."""

    layers: int = 12
    """The first layers of the model; ratios hardly depend on their number."""

    documents: int = 16

    batch_size: int = 8

    rounds: int = 5
    """Number of timed rounds."""

    threads: int = 1

    def model(self) -> BertForTokenClassification:
        """Deterministic, in evaluation mode."""
        torch.manual_seed(0)
        if self.shape == "minilm":
            model = load_pretrained(DEFAULT_MODEL, labels=LABELS)
            assert isinstance(model, BertForTokenClassification)
        else:
            model = BertForTokenClassification(BERT_BASE)

        layers = model.bert.layers[: self.layers]
        config = replace(model.config, num_hidden_layers=len(layers))
        model.bert.layers, model.config, model.bert.config = layers, config, config
        return model.eval()

    def split(self, lengths: Lengths, config: BertConfig) -> Split:
        if lengths == "one":
            return random_split([ONE_LENGTH] * max(1, self.documents // 2), config)
        if self.data:
            split = read_split(self.data, self.documents, config)
        else:
            split = random_split(mixed_lengths(self.documents), config)
        if lengths == "sorted":
            windows = sorted(split.windows, key=lambda window: len(window.input_ids))
            split = split._replace(windows=windows)
        return split

    def batches(self, lengths: Lengths, config: BertConfig) -> list[Batch]:
        """The documents as batches, each padded to its longest."""
        split, size = self.split(lengths, config), self.batch_size
        return [
            collate(split.windows[start : start + size], split.targets)
            for start in range(0, len(split.windows), size)
        ]

    def describe(self) -> str:
        return f"{self.shape}, {self.threads} thread(s), medians of {self.rounds} rounds"


def describe_documents(lengths: Lengths, sizes: Sequence[int], batch_size: int) -> str:
    """The documents of one row of a table. `sizes`: their word pieces, in their order."""
    parts = [sizes[start : start + batch_size] for start in range(0, len(sizes), batch_size)]
    padding = 1 - sum(sizes) / sum(len(part) * max(part) for part in parts)
    name = {"mixed": "as they come", "sorted": "sorted by length", "one": "one length"}[lengths]
    return f"{name}: {len(sizes)} of {min(sizes)} to {max(sizes)}, {padding:.0%} padding"


def save(model: Bert | BertForTokenClassification, folder: Path) -> None:
    """Write a model folder with a tokenizer, from which ours and the peers are loaded."""
    save_pretrained(model, folder)
    for file in find_model(DEFAULT_MODEL).glob("tokenizer*.json"):
        shutil.copy(file, folder)


def read_split(data: Path, documents: int, config: BertConfig) -> Split:
    """The first documents of a JSONL file, in windows of at most 512 pieces."""
    tokenizer = Tokenizer.load(find_model(DEFAULT_MODEL), config.vocab_size)
    return make_split(read_documents(data)[:documents], tokenizer, "io", LABELS, 512)


def mixed_lengths(documents: int) -> list[int]:
    """Lengths of 100 to 512 pieces, evenly mixed; always the same."""
    draw = random.Random(0)
    return [draw.randint(100, 512) for _ in range(documents)]


def random_split(sizes: Sequence[int], config: BertConfig) -> Split:
    """Documents of so many random pieces, each a word with a random label; always the same."""
    draw = random.Random(1)
    documents, windows, targets = [], [], []
    for number, size in enumerate(sizes):
        words = list(range(size - 2))
        spans = [(2 * word, 2 * word + 1) for word in words]
        documents.append(Document(str(number), "x " * len(words), spans))
        ids = [101, *draw.choices(range(1000, config.vocab_size), k=len(words)), 102]
        windows.append(Window(number, ids, words, [w + 1 for w in words], [-1, *words, -1]))
        targets.append(draw.choices(range(len(LABELS)), k=len(words)))
    return Split(documents, windows, targets)


# The machine ------------------------------------------------------------------------------------


def machine() -> str:
    """The CPU's name, and the widest vector instructions that torch uses on it."""
    info = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    name = match[1] if match else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def has_bf16() -> bool:
    """Whether the CPU multiplies bf16. Others emulate it, which is slow."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def matrix_jobs(config: BertConfig, dtype: torch.dtype, tokens: int) -> dict[str, Callable]:
    """{library: the two products of one feed-forward network on so many tokens}. The better of
    them is the limit of what a model of these shapes can reach; they take turns with the models."""
    width, inner = config.hidden_size, config.intermediate_size
    shapes = ((inner, width), (width, inner))
    weights = [torch.randn(shape, dtype=dtype) for shape in shapes]
    biases = [torch.randn(shape[0], dtype=dtype) for shape in shapes]
    inputs = [torch.randn(tokens, shape[1], dtype=dtype) for shape in shapes]

    def onednn(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    libraries: dict[str, Callable] = {"MKL": lambda x, weight, _: x @ weight.T}
    if HAS_KERNEL:
        libraries["oneDNN"] = onednn

    def multiply(library: Callable) -> None:
        with torch.no_grad():
            for x, weight, bias in zip(inputs, weights, biases):
                library(x, weight, bias)

    name = next(name for name in DTYPES if DTYPES[name] == dtype)
    return {f"{title} {name}": partial(multiply, run) for title, run in libraries.items()}


def matrix_speed(
    seconds: Mapping[str, Sequence[float]], config: BertConfig, precision: str, tokens: int
) -> float:
    """FLOP/s of the faster of the `matrix_jobs`. `seconds`: of each job in each round."""
    flops = 4 * tokens * config.hidden_size * config.intermediate_size
    libraries = [name for name in (f"MKL {precision}", f"oneDNN {precision}") if name in seconds]
    return flops / min(median(seconds[name]) for name in libraries)


# Tables -----------------------------------------------------------------------------------------


def markdown(rows: Rows, texts: int = 1) -> str:
    """Rows as an aligned table in Markdown: the first `texts` columns to the left, the others to
    the right."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    for row, aligned in zip(rows, cells):
        aligned[texts:] = [cell.rjust(w) for cell, w in zip(row[texts:], widths[texts:])]

    rule = ["-" * width for width in widths[:texts]]
    rule += ["-" * (width - 1) + ":" for width in widths[texts:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in [cells[0], rule, *cells[1:]])


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """The ratio of their median to ours, and the range of the ratios of single rounds."""
    ratios = [time / our_time for time, our_time in zip(theirs, ours, strict=True)]
    return f"{median(theirs) / median(ours):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


SPEED_COLUMNS = ["time / ours", "tokens/s", "share of limit"]


def speed_cells(
    theirs: Sequence[float], ours: Sequence[float], tokens: int, flops: float, limit: float
) -> list[str]:
    """The cells of SPEED_COLUMNS. `flops`: what the answer needs, without padding; `limit`: the
    FLOP/s of matrix products."""
    speed = flops / median(theirs)
    return [ratio(theirs, ours), f"{tokens / median(theirs):,.0f}", f"{speed / limit:.0%}"]
