"""Which memory plan fits: a training step is simulated on fake tensors, which have shapes and no
values, and its peak is compared with the limit."""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TypeVar, get_args

import torch
from torch._subclasses.fake_tensor import FakeTensorMode  # private; checked with 2.13

from minibert.config import BertConfig
from minibert.data.batches import Window, collate, make_batches
from minibert.errors import InputError
from minibert.gates import HardConcreteGates
from minibert.model import BertForTokenClassification
from minibert.runtime import distributed
from minibert.runtime.peak import MIB, PeakMeter
from minibert.training.settings import Plan, StepSettings
from minibert.training.step import Stepper

PLANS: tuple[Plan, ...] = get_args(Plan)[1:]  # after "auto": the fastest first

Result = TypeVar("Result")
Settings = TypeVar("Settings", bound=StepSettings)


def predicted_peak(
    config: BertConfig,
    settings: StepSettings,
    windows: Sequence[Window],
    device: str = "cuda",
    frozen: bool = False,
    gates: bool = False,
    dtype: torch.dtype = torch.float32,
) -> float:
    """MiB of tensors at the peak of training a model on one accumulation window of `windows`.

    Counted are weights (in `dtype`), optimizer states, gradients and activations, in blocks of
    CUDA's allocator. Not counted are its fragments, the CUDA context of some hundred MiB, and, for
    a GPU, what `layerwise` offloads to the host's memory.
    """
    if settings.precision == "fp16":  # as large as bf16, but its loss scaler reads values
        settings = replace(settings, precision="bf16")
    groups = make_batches(windows, settings.tokens)
    if settings.plan != "layerwise":
        groups = groups[:2]  # the longest, and a second one on top of the first one's gradients
    batches = [collate(group) for group in groups]

    with FakeTensorMode(allow_non_fake_inputs=True), ExitStack() as stack:
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(dtype)
        model = BertForTokenClassification(config).requires_grad_(not frozen)
        head_masks = HardConcreteGates(config).sample if gates else None
        teacher = model if frozen and gates else None  # as in gate training
        stepper = Stepper(model.train(not frozen), settings, steps=10, teacher=teacher)
        if settings.plan == "layerwise" and device != "cpu":
            stepper.passes.offload_device = torch.device("meta")  # which PeakMeter skips

        # Two steps: the first one creates the optimizer's states.
        with PeakMeter(model.parameters()) as meter:
            for step in range(2):
                stepper.queue(step, batches, head_masks)
    return meter.peak / MIB


def choose_plan(
    config: BertConfig,
    settings: Settings,
    windows: Sequence[Window],
    device: torch.device,
    frozen: bool = False,
    gates: bool = False,
    other_mib: float = 0.0,
) -> tuple[Settings, str]:
    """Settings with a plan, and the reason for it: the fastest plan, with the most `tokens` at a
    time, whose predicted peak on the longest of `windows` is within the memory limit. A plan that
    the settings name is taken unchecked.

    `other_mib`: MiB of other tensors. Without a limit, a GPU's is nine tenths of what is free, and
    a CPU has none. Raises InputError, with the least that would do, where nothing fits.
    """
    limit = settings.memory_limit
    if not limit and device.type == "cuda":
        limit = 0.9 * torch.cuda.mem_get_info(device)[0] / MIB + other_mib
    if settings.plan != "auto":
        return settings, "as asked"
    if not limit:
        return replace(settings, plan="plain"), "no memory limit"

    longest = sorted(windows, key=lambda w: -len(w.input_ids))[: settings.batch_size]

    def peak_of(candidate: Settings) -> float:
        return other_mib + predicted_peak(config, candidate, longest, device.type, frozen, gates)

    # One window at a time first; tokens are doubled while the next candidate fits too.
    fewest = min(settings.tokens, len(longest[0].input_ids))
    for plan in PLANS:
        candidate = replace(settings, plan=plan, tokens=fewest)
        peak = peak_of(candidate)
        while peak <= limit and candidate.tokens < settings.tokens:
            more = replace(candidate, tokens=min(settings.tokens, 2 * candidate.tokens))
            if (larger := peak_of(more)) > limit:
                break
            candidate, peak = more, larger
        if peak <= limit:
            tokens = f"{candidate.tokens} tokens at a time"
            return candidate, f"{peak:.0f} MiB predicted of {limit:.0f}, {tokens}"

    raise InputError(
        f"{limit:.0f} MiB of memory are too little: this model takes {peak:.0f} at least, with "
        f"--plan {plan}; try a smaller --max-length"
    )


def stepping_down(settings: Settings, attempt: Callable[[Settings], Result]) -> Result:
    """`attempt(settings)`, again with the next plan whenever memory runs out.

    With several processes there is one attempt: one of them cannot change the plan of the others.
    """
    if distributed.size() > 1:
        return attempt(settings)
    for next_plan in PLANS[PLANS.index(settings.plan) + 1 :]:
        try:
            return attempt(settings)
        except torch.OutOfMemoryError:
            pass  # retry outside this clause, which keeps the failed attempt's tensors alive
        message = f"out of memory with --plan {settings.plan}; continuing with {next_plan}"
        print(message, file=sys.stderr)
        settings = replace(settings, plan=next_plan)
    return attempt(settings)
