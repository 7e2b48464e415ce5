"""The cost of a forward pass, models side by side: size, arithmetic, time and memory."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from minibert.data.batches import Window, collate
from minibert.layers import HAS_KERNEL
from minibert.model import BertForTokenClassification
from minibert.runtime.peak import PeakMeter


@dataclass(frozen=True)
class Cost:
    """The cost of one forward pass of one model over a batch. Ratios above 1 mean that this model
    is faster than the first of those that were measured with it."""

    heads_by_layer: list[int]
    """Number of heads in each layer."""

    parameters: int

    bytes: int
    """Size of the parameters in memory."""

    flops: int
    """Floating-point operations of the forward pass."""

    peak_bytes: int
    """Most bytes that tensors take at once during the pass, weights included."""

    seconds: float
    """Median time of the forward pass."""

    attention_seconds: float
    """Median time of the attention of every layer, with its projections, and of nothing else."""

    tokens_per_second: float

    speedup: float
    """Median over the rounds: time of the first model / time of this one."""

    attention_speedup: float
    """The same for the attention alone."""

    allowed_speedup: float
    """The speed-up that FLOPs predict: `flops` of the first model / `flops` of this one."""


@torch.no_grad()
def compare_costs(
    models: Mapping[str, BertForTokenClassification], windows: Sequence[Window], rounds: int = 7
) -> dict[str, Cost]:
    """The cost of one forward pass of each model over `windows` as one batch. The models take
    turns, `rounds` times. Speed-ups are relative to the first model."""
    batch = collate(list(windows))
    device = next(iter(models.values())).classifier.weight.device
    ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)

    forward_passes = {name: partial(model.eval(), ids, mask) for name, model in models.items()}
    attentions = {name: _attention_job(model, ids, mask) for name, model in models.items()}
    model_times = take_turns(forward_passes, rounds)
    attention_times = take_turns(attentions, rounds)
    flops = {name: flops_of(compute) for name, compute in forward_passes.items()}

    first = next(iter(models))
    costs = {}
    for name, model in models.items():
        seconds = statistics.median(model_times[name])

        costs[name] = Cost(
            heads_by_layer=[len(layer.attention.heads) for layer in model.bert.layers],
            parameters=sum(p.numel() for p in model.parameters()),
            bytes=sum(p.nbytes for p in model.parameters()),
            flops=flops[name],
            peak_bytes=_peak_bytes(model, ids, mask),
            seconds=seconds,
            attention_seconds=statistics.median(attention_times[name]),
            tokens_per_second=int(mask.sum()) / seconds,
            speedup=_median_ratio(model_times[first], model_times[name]),
            attention_speedup=_median_ratio(attention_times[first], attention_times[name]),
            allowed_speedup=flops[first] / flops[name],
        )
    return costs


def take_turns(jobs: Mapping[str, Callable], rounds: int) -> dict[str, list[float]]:
    """The seconds that each job takes in each of `rounds`, after one round of warming up. The jobs
    take turns, so that other load on the machine slows all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(1 + rounds):
        for name, job in jobs.items():
            elapsed = seconds_of(job)
            if number > 0:
                seconds[name].append(elapsed)
    return seconds


def seconds_of(compute: Callable) -> float:
    """The time that one call takes, including work that it queued on the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    compute()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def flops_of(compute: Callable) -> int:
    """The floating-point operations of one call."""
    # The fused attention kernel is not counted on every device; its plain form is.
    mapping = {torch.ops.mkldnn._linear_pointwise: _linear_flops} if HAS_KERNEL else {}
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with counter, sdpa_kernel(SDPBackend.MATH):
        compute()
    return counter.get_total_flops()


def _linear_flops(x: Sequence[int], weight: Sequence[int], *_: Any, out_shape: Any) -> int:
    """Of the fused kernel of minibert.layers, from the shapes of its arguments."""
    return 2 * prod(x) * weight[0]


def _attention_job(
    model: BertForTokenClassification, ids: Tensor, mask: Tensor
) -> Callable[[], list[Tensor]]:
    """A function that runs the attention of every layer on the input of the first layer."""
    packing = model.bert.packing(mask)
    hidden = model.bert.start(ids, packing)
    return lambda: [layer.attention(hidden, packing) for layer in model.bert.layers]


def _peak_bytes(model: BertForTokenClassification, ids: Tensor, mask: Tensor) -> int:
    with PeakMeter([*model.parameters(), ids, mask]) as meter:
        model(ids, mask)
    return meter.peak


def _median_ratio(first: Sequence[float], other: Sequence[float]) -> float:
    return statistics.median(f / o for f, o in zip(first, other))
