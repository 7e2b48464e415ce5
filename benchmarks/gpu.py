"""Speed and memory on one GPU, in at most ten minutes (downloads and imports not counted).

python -m benchmarks.gpu. Random documents of 100 to 512 pieces, in batches padded to the longest,
as they come. Four parts; each row appears as soon as it is measured:

1. forward pass and training step of MiniLM's and BERT-base's shape in float32, bf16 and fp16:
   tokens/s, and the share of the speed that this GPU reaches in a product of large matrices of the
   same precision. Below each, transformers (sdpa) on the same batches, if it is installed.
2. nested tensors beside torch.nn.attention.varlen (half precision only), forward and backward.
3. every head of BERT-base masked alone and cumulatively, in float32.
4. peak memory of two training steps of BERT-base beside the simulated one.

Weights are random: speed does not depend on them. Times are medians; a ratio above 1 means that
ours is faster.
"""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import accumulate
from statistics import median

import torch
from torch import Tensor

from benchmarks.workload import BERT_BASE, mixed_lengths, random_split
from minibert import BertConfig, BertForTokenClassification
from minibert.attention import attend_nested
from minibert.data.batches import Batch, Window, collate
from minibert.data.documents import Document
from minibert.errors import InputError
from minibert.heads.ablation import ablate, cumulative, masks_without
from minibert.heads.costs import flops_of, seconds_of, take_turns
from minibert.runtime import cli
from minibert.runtime.device import DTYPES
from minibert.runtime.peak import MIB
from minibert.training.memory import PLANS, predicted_peak
from minibert.training.settings import TrainSettings
from minibert.training.step import Stepper

MINILM = replace(BERT_BASE, hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
SHAPES = {"MiniLM": MINILM, "BERT-base": BERT_BASE}


@dataclass(frozen=True)
class Settings:
    documents: int = 64
    """Documents of the speed rows; an eighth of them for the ablation."""

    batch_size: int = 8

    rounds: int = 5
    """Number of timed rounds, after one round of warming up."""

    device: str = "cuda"


def run(settings: Settings) -> None:
    device = torch.device(settings.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("this benchmark needs a CUDA device, and torch sees none")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU (a trial run)"
    versions = ", ".join(f"{p} {version(p)}" for p in ("torch", "transformers") if find_spec(p))
    print(f"{name}, {versions}; takes at most ten minutes", flush=True)

    began = time.monotonic()
    for part in (speed, attention, ablation, memory):
        part(settings, device)
        print(f"({time.monotonic() - began:.0f} s so far)\n", flush=True)


# Speed ------------------------------------------------------------------------------------------


def matrix_speed(dtype: torch.dtype, device: torch.device, rounds: int) -> float:
    """Floating-point operations a second of a product of square matrices."""
    size = 8192 if device.type == "cuda" else 256
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    seconds = take_turns({"product": lambda: left @ right}, rounds)["product"]
    return 2 * size**3 / median(seconds)


def speed(settings: Settings, device: torch.device) -> None:
    for name, config in SHAPES.items():
        batches = make_batches(settings, config)
        tokens = sum(sum(b.packing.lengths) for b in batches)
        padded = sum(b.input_ids.numel() for b in batches)
        model = new_model(config, device).eval()
        ids, packing = batches[0].input_ids.to(device), batches[0].packing.to(device)
        with torch.no_grad():
            counted = flops_of(lambda: model.bert.encode(ids, packing))  # noqa: B023
        flops = counted * tokens / sum(packing.lengths)  # as if all batches were like the first
        print(f"{name}, {tokens:,} tokens, {1 - tokens / padded:.0%} padding", flush=True)

        for precision, dtype in DTYPES.items():
            if device.type == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported():
                continue
            matrix = matrix_speed(dtype, device, settings.rounds)
            # The backward pass takes twice the arithmetic of the forward pass.
            for title, jobs, share in (
                ("forward", forward_jobs(config, batches, dtype, device), flops),
                ("training", training_jobs(config, batches, precision, device), 3 * flops),
            ):
                seconds = take_turns(jobs, settings.rounds)
                for job, times in seconds.items():
                    ratio = median(times) / median(seconds["minibert"])
                    line = f"{precision:8} {title:9} {job:18} {tokens / median(times):12,.0f}"
                    reached = share / median(times) / matrix if job == "minibert" else None
                    note = f"{reached:5.0%} of a product's speed" if reached is not None else ""
                    print(f"{line} tokens/s {ratio:6.2f}x {note}".rstrip(), flush=True)


def forward_jobs(
    config: BertConfig, batches: Sequence[Batch], dtype: torch.dtype, device: torch.device
) -> dict[str, Callable]:
    """A forward pass over all batches; weights are in `dtype`."""
    ours = new_model(config, device).to(dtype).eval()
    inputs = [(b.input_ids.to(device), b.attention_mask.to(device)) for b in batches]
    packings = [b.packing.to(device) for b in batches]

    @torch.no_grad()
    def run_ours() -> None:
        for (ids, _), packing in zip(inputs, packings):
            ours.classify(ours.bert.encode(ids, packing).last_hidden_state)

    jobs: dict[str, Callable] = {"minibert": run_ours}
    if find_spec("transformers"):
        theirs = peer(config, device).to(dtype).eval()

        @torch.no_grad()
        def run_theirs() -> None:
            for ids, mask in inputs:
                theirs(ids, attention_mask=mask)

        jobs["transformers sdpa"] = run_theirs
    return jobs


def training_jobs(
    config: BertConfig, batches: Sequence[Batch], precision: str, device: torch.device
) -> dict[str, Callable]:
    """An optimizer step on each batch: autocast, clipping and AdamW in both."""
    settings = TrainSettings(plan="plain", precision=precision)  # type: ignore[arg-type]
    stepper = Stepper(new_model(config, device).train(), settings, steps=1000)

    def run_ours() -> None:
        for batch in batches:
            stepper.queue(0, [batch])
            stepper.scaler.update()

    jobs: dict[str, Callable] = {"minibert": run_ours}
    if find_spec("transformers"):
        theirs = peer(config, device).train()
        jobs["transformers sdpa"] = partial(train_peer, theirs, batches, precision, device)
    return jobs


def train_peer(
    model: torch.nn.Module, batches: Sequence[Batch], precision: str, device: torch.device
) -> None:
    """The loop that a user of transformers writes. (AdamW's state is made anew in each call.)"""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    for batch in batches:
        ids, mask, labels = (
            x.to(device, non_blocking=True)
            for x in (batch.input_ids, batch.attention_mask, batch.labels)
        )
        half = precision != "float32"
        with torch.autocast(device.type, DTYPES[precision]) if half else nullcontext():
            loss = model(ids, attention_mask=mask, labels=labels).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


def new_model(config: BertConfig, device: torch.device) -> BertForTokenClassification:
    """With dropout .1 on hidden states and none on attention probabilities, as train.py has it."""
    torch.manual_seed(0)
    config = replace(config, attention_probs_dropout_prob=0.0)
    return BertForTokenClassification(config).to(device)


def peer(config: BertConfig, device: torch.device) -> torch.nn.Module:
    """The same shape in transformers, without dropout on attention probabilities too."""
    from transformers import BertConfig as TheirConfig
    from transformers import BertForTokenClassification as TheirModel

    theirs = TheirConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        attention_probs_dropout_prob=0.0,
        num_labels=len(config.labels),
        attn_implementation="sdpa",
    )
    return TheirModel(theirs).to(device)


def make_batches(settings: Settings, config: BertConfig) -> list[Batch]:
    windows, targets = random_split(mixed_lengths(settings.documents), config)[1:]
    size = settings.batch_size
    return [collate(windows[i : i + size], targets) for i in range(0, len(windows), size)]


# Attention --------------------------------------------------------------------------------------


def attend_varlen(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], dropout: float
) -> Tensor:
    """As `attention.attend_nested`, by torch.nn.attention.varlen (torch 2.10 and newer, half
    precision, a GPU of compute capability 8.0)."""
    from torch.nn.attention.varlen import varlen_attn

    assert dropout == 0  # it has none
    offsets = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(query.device)
    return varlen_attn(query, key, value, offsets, offsets, max(lengths), max(lengths))


def attention(settings: Settings, device: torch.device) -> None:
    """Forward and backward pass of one layer's attention, in the two ways."""
    for name, config in SHAPES.items():
        lengths = make_batches(settings, config)[0].packing.lengths
        for precision in ("bf16", "fp16"):
            shape = (3, sum(lengths), config.num_attention_heads, config.head_size)
            qkv = torch.randn(shape, device=device).to(DTYPES[precision]).requires_grad_()
            try:
                check_equal(qkv, lengths)
            except (ImportError, RuntimeError) as error:
                reason = str(error).splitlines()[0].partition(". ")[0]
                print(f"{name}, attention in {precision}: varlen does not run here ({reason})")
                continue

            for title, backward in (("forward", False), ("and backward", True)):
                jobs = {
                    way.__name__: partial(attend_once, way, qkv, lengths, backward)
                    for way in (attend_nested, attend_varlen)
                }
                nested, varlen = map(median, take_turns(jobs, 10 * settings.rounds).values())
                print(
                    f"{name}, attention in {precision}, {title}: nested tensors "
                    f"{nested * 1e6:.0f} us, varlen {varlen * 1e6:.0f} us, {nested / varlen:.2f}x",
                    flush=True,
                )


def check_equal(qkv: Tensor, lengths: list[int]) -> None:
    """Raises AssertionError if the two ways differ by more than half precision does."""
    nested, varlen = (way(*qkv, lengths, 0.0) for way in (attend_nested, attend_varlen))
    torch.testing.assert_close(varlen, nested, rtol=0, atol=2e-2)


def attend_once(way: Callable, qkv: Tensor, lengths: list[int], backward: bool) -> None:
    with torch.set_grad_enabled(backward):
        context = way(*qkv, lengths, 0.0)
    if backward:
        torch.autograd.grad(context, qkv, torch.ones_like(context))


# Ablation and memory ----------------------------------------------------------------------------


def ablation(settings: Settings, device: torch.device) -> None:
    model = new_model(BERT_BASE, device).eval()
    split = random_split(mixed_lengths(max(1, settings.documents // 8)), BERT_BASE)
    words = [[(i, i + 1) for i in range(len(target))] for target in split.targets]
    split = split._replace(documents=[Document("", "", spans) for spans in words])
    heads = BERT_BASE.present_heads
    masks = masks_without(BERT_BASE, [[head] for head in heads])
    pieces = sum(len(window.input_ids) for window in split.windows)

    first = split._replace(windows=split.windows[:1])
    for tokens in (768, 8192):
        jobs = {
            "every head alone": partial(ablate, model, split, masks, tokens=tokens),
            "cumulative": partial(cumulative, model, split, [[h] for h in heads], tokens=tokens),
        }
        cumulative(model, first, [heads[:1]])  # a warm-up
        for name, job in jobs.items():
            elapsed = seconds_of(job)
            print(
                f"BERT-base, {name}, {len(heads)} heads, {pieces} pieces, {tokens} at a time: "
                f"{elapsed:.1f} s, {len(heads) * pieces / elapsed:,.0f} tokens/s over all heads",
                flush=True,
            )


def memory(settings: Settings, device: torch.device) -> None:
    config = replace(BERT_BASE, attention_probs_dropout_prob=0.0)
    length = 512 if device.type == "cuda" else 16
    window = Window(0, [0] * length, [0], [1], [])
    for plan in PLANS:
        for documents in (1, 8):
            step = TrainSettings(tokens=length, precision="float32", plan=plan)
            windows = [window] * documents
            line = f"BERT-base, {plan:10} {documents} documents: "
            line += f"{predicted_peak(config, step, windows):.0f} MiB simulated"
            if device.type == "cuda":
                line += f", {measured_peak(config, step, windows, device):.0f} measured"
            print(line, flush=True)


def measured_peak(
    config: BertConfig, settings: TrainSettings, windows: Sequence[Window], device: torch.device
) -> float:
    """MiB of two steps. The blocks of jobs before are given back first."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    stepper = Stepper(new_model(config, device).train(), settings, steps=10)
    for number in range(2):
        stepper.queue(number, [collate([window]) for window in windows])
    return (torch.cuda.max_memory_allocated(device) - before) / MIB


main = partial(cli.run, run, Settings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
