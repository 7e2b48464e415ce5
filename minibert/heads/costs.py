"""What models cost, measured side by side: size, arithmetic, time and memory of a forward pass."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from minibert.data.batches import Window, collate
from minibert.model import BertForTokenClassification
from minibert.training.memory import PeakMeter


@torch.no_grad()
def compare_costs(
    models: Mapping[str, BertForTokenClassification], windows: Sequence[Window], rounds: int = 7
) -> dict[str, dict]:
    """What one forward pass over `windows` as one batch costs each model.

    The models take turns, `rounds` times. Per model: "heads by layer"; "parameters", "bytes";
    "flops"; "seconds" and "attention seconds" (all attentions with their projections, alone), the
    medians; "tokens per second"; "peak bytes" that tensors take, weights included; and "speed-up",
    "attention speed-up", medians of the ratios to the first model, and "allowed speed-up", the
    ratio of the arithmetic.
    """
    batch = collate(list(windows))
    device = next(iter(models.values())).classifier.weight.device
    ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
    whole = {name: partial(model.eval(), ids, mask) for name, model in models.items()}
    alone = {name: _attentions(model, ids, mask) for name, model in models.items()}
    whole, alone = take_turns(whole, rounds), take_turns(alone, rounds)
    first = next(iter(models))
    out = {}
    for name, model in models.items():
        seconds = statistics.median(whole[name])
        out[name] = {
            "heads by layer": [len(layer.attention.heads) for layer in model.bert.layers],
            "parameters": sum(p.numel() for p in model.parameters()),
            "bytes": sum(p.nbytes for p in model.parameters()),
            "flops": flops_of(lambda model=model: model(ids, mask)),
            "peak bytes": _peak(model, ids, mask),
            "seconds": seconds,
            "attention seconds": statistics.median(alone[name]),
            "tokens per second": int(mask.sum()) / seconds,
            "speed-up": _ratio(whole[first], whole[name]),
            "attention speed-up": _ratio(alone[first], alone[name]),
        }
        out[name]["allowed speed-up"] = out[first]["flops"] / out[name]["flops"]
    return out


def _ratio(base: Sequence[float], other: Sequence[float]) -> float:
    return statistics.median(b / o for b, o in zip(base, other))


def take_turns(jobs: Mapping[str, Callable], rounds: int) -> dict[str, list[float]]:
    """The seconds of each job in each of `rounds`, after one that only warms up. The jobs take
    turns, so that whatever else the machine does strikes all of them."""
    turns = [{name: seconds_of(job) for name, job in jobs.items()} for _ in range(1 + rounds)]
    return {name: [turn[name] for turn in turns[1:]] for name in jobs}


def seconds_of(compute: Callable) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    compute()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _attentions(model: BertForTokenClassification, ids: torch.Tensor, mask: torch.Tensor):
    """Runs every layer's attention on the first layer's input."""
    packing = model.bert.packing(mask)
    hidden = model.bert.start(ids, packing)
    return lambda: [layer.attention(hidden, packing) for layer in model.bert.layers]


def flops_of(compute: Callable) -> int:
    # The fused attention kernel is not counted on every device; its plain form is.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        compute()
    return counter.get_total_flops()


def _peak(model: BertForTokenClassification, ids: torch.Tensor, mask: torch.Tensor) -> int:
    with PeakMeter([*model.parameters(), ids, mask]) as meter:
        model(ids, mask)
    return meter.peak
