"""How long a job on a model will take: its forward passes are counted, and a few are timed."""

import time
from collections.abc import Sequence

import torch

from minibert.data.batches import Window, embed_windows, make_batches
from minibert.model import BertForTokenClassification

TIMED = 3  # batches
SMALL = 512  # word pieces

# A training step takes as long as so many forward passes over its windows, of all weights and of
# gates alone, where one pass is without gates (measured on a CPU). The plan `layerwise` adds one.
STEP, GATE_STEP = 3.2, 3.5


@torch.no_grad()
def seconds_per_pass(
    model: BertForTokenClassification, windows: Sequence[Window], tokens: int = 1024
) -> float:
    """The seconds of one forward pass over all `windows`, `tokens` word pieces at a time. A few
    batches, spread over the lengths, are timed. On a CPU they are small: the time of a word piece
    hardly depends on the size of its batch there."""
    on_cpu = model.classifier.weight.device.type == "cpu"
    batches = make_batches(windows, min(tokens, SMALL) if on_cpu else tokens)
    timed = batches[:: -(-len(batches) // TIMED)]  # rounded up
    _forward_seconds(model, timed[0])  # the first pass is slower

    seconds = sum(_forward_seconds(model, batch) for batch in timed)
    pieces = sum(len(window.input_ids) for batch in timed for window in batch)
    return seconds / pieces * sum(len(window.input_ids) for window in windows)


def _forward_seconds(model: BertForTokenClassification, windows: list[Window]) -> float:
    began = time.perf_counter()
    embedded, packing = embed_windows(model.bert, windows)
    for hidden in model.bert.hidden_states(embedded, packing):
        last = hidden
    last.sum().item()  # waits for a GPU
    return time.perf_counter() - began


def describe_seconds(seconds: float) -> str:
    """A duration as people say it: "about 40 s", "about 3 min", "about 2.5 h"."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h"
