"""Which memory plan fits: a training step is run on fake tensors, which have shapes and no values,
and the most that they would take is held against the limit."""

import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Generic, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from minibert.attention import Packing
from minibert.config import BertConfig
from minibert.data.batches import Batch, Window, make_batches
from minibert.errors import InputError
from minibert.gates import HardConcreteGates
from minibert.model import BertForTokenClassification
from minibert.runtime import distributed
from minibert.training.settings import Plan, StepSettings
from minibert.training.step import Stepper

BLOCK = 512  # bytes; CUDA's allocator gives multiples of it


class PeakMeter(TorchDispatchMode):
    """A context in which `peak` is the most bytes that were alive at once: those of `tensors`, made
    before, and of every tensor made inside. Views count once, and temporary memory inside a kernel
    is not seen."""

    def __init__(self, tensors: Iterable[Tensor] = ()):
        super().__init__()
        self.now = self.peak = 0
        self._alive = WeakIdKeyDictionary()
        for tensor in tensors:
            self._count(tensor)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and not leaf.is_meta:
                self._count(leaf)
        return out

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._alive:
            size = -(-storage.nbytes() // BLOCK) * BLOCK
            self._alive[storage] = size
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


PLANS: tuple[Plan, ...] = get_args(Plan)[1:]  # after "auto": the fastest first


MIB = 2**20


Result = TypeVar("Result")


Settings = TypeVar("Settings", bound=StepSettings)


class Simulated(Stepper):
    def _finite(self, losses: Sequence[Tensor], number: int) -> float:
        return 0.0  # fake tensors have no value to look at


def predicted_peak(
    config: BertConfig,
    settings: StepSettings,
    windows: Sequence[Window],
    device: str = "cuda",
    frozen: bool = False,
    gates: bool = False,
    dtype: torch.dtype = torch.float32,
) -> float:
    """MiB that tensors take at most while a model is trained on a window of these `windows`.

    Counted are weights (in `dtype`), optimizer states, gradients and activations, in blocks of
    CUDA's allocator; not its fragments, nor the CUDA context of some hundred MiB. For a GPU, what
    `layerwise` parks in the host's memory is not counted.
    """
    half = settings.precision == "fp16"  # as large as bf16, but its scaler looks at values
    settings = replace(settings, precision="bf16" if half else settings.precision)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            model = BertForTokenClassification(config).requires_grad_(not frozen)
            drawn = HardConcreteGates(config) if gates else None
            stepper = Simulated(model.train(not frozen), settings, 10, drawn)
            if settings.plan == "layerwise" and device != "cpu":
                stepper.passes.parking = torch.device("meta")
            groups = make_batches(windows, settings.tokens)
            if settings.plan != "layerwise":
                groups = groups[:2]  # the longest, and another on top of its gradients
            batches = [_shapes(group) for group in groups]
            price = torch.zeros(config.num_hidden_layers, config.num_attention_heads)
            with PeakMeter(model.parameters()) as meter:
                for number in range(2):  # the first makes the optimizer's states
                    stepper.step(number, batches, price)
    finally:
        torch.set_default_dtype(usual)
    return meter.peak / MIB


def _shapes(windows: list[Window]) -> Batch:
    lengths = [len(window.input_ids) for window in windows]
    shape = torch.Size((len(lengths), max(lengths)))
    columns = [row * shape[1] + at for row, n in enumerate(lengths) for at in range(n)]
    ids = torch.zeros(shape, dtype=torch.long)
    return Batch(ids, ids, ids, windows, Packing(torch.tensor(columns), lengths, shape))


class Choice(NamedTuple, Generic[Settings]):
    """Settings that fit, and why these."""

    settings: Settings
    reason: str


def choose_plan(
    config: BertConfig,
    settings: Settings,
    windows: Sequence[Window],
    device: torch.device,
    frozen: bool = False,
    gates: bool = False,
    beside: float = 0.0,
) -> Choice[Settings]:
    """The fastest plan, and the most `tokens` at a time, whose predicted peak is within the memory
    limit, for the longest of `windows`; a plan that is named is taken as it is.

    `beside`: MiB that other tensors take. Without a limit a GPU's is what is free there less a
    tenth, and a CPU has none. Raises InputError, with the least that would do, where nothing fits.
    """
    limit = settings.memory_limit
    if not limit and device.type == "cuda":
        limit = 0.9 * torch.cuda.mem_get_info(device)[0] / MIB + beside
    if settings.plan != "auto":
        return Choice(settings, "as asked")
    if not limit:
        return Choice(replace(settings, plan="plain"), "no memory limit")
    longest = sorted(windows, key=lambda w: -len(w.input_ids))[: settings.batch_size]
    most = settings.tokens
    least = min(most, len(longest[0].input_ids))
    for plan in PLANS:
        asked = replace(settings, plan=plan, tokens=least)
        peak = beside + predicted_peak(config, asked, longest, device.type, frozen, gates)
        while peak <= limit and asked.tokens < most:  # room for more at a time
            more = replace(asked, tokens=min(most, 2 * asked.tokens))
            larger = beside + predicted_peak(config, more, longest, device.type, frozen, gates)
            if larger > limit:
                break
            asked, peak = more, larger
        if peak <= limit:
            why = f"{peak:.0f} MiB predicted of {limit:.0f}, {asked.tokens} tokens at a time"
            return Choice(asked, why)
    raise InputError(
        f"{limit:.0f} MiB of memory are too little: this model takes {peak:.0f} at least, with "
        f"--plan {plan}; try a smaller --max-length"
    )


def stepping_down(settings: Settings, attempt: Callable[[Settings], Result]) -> Result:
    """`attempt(settings)`, with the next lower plan again whenever memory runs out. One of several
    processes cannot step down alone: there the run ends, to be taken up again."""
    if distributed.size() > 1:
        return attempt(settings)
    for lower in PLANS[PLANS.index(settings.plan) + 1 :]:
        try:
            return attempt(settings)
        except torch.OutOfMemoryError:
            pass  # the failed attempt's tensors are free once this clause is left
        print(f"out of memory with --plan {settings.plan}; {lower} goes on", file=sys.stderr)
        settings = replace(settings, plan=lower)
    return attempt(settings)
