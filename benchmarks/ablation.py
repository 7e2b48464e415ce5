"""Each head masked in turn: our one pass against the loop that users of transformers write.

python -m benchmarks.ablation --data FILE. Ours and each peer take turns on the same documents with
the same threads, and must give the same logits. A peer's loop is timed on a few heads spread over
the layers, and its time is scaled to all heads. Prints the median of the ratios, the fraction of
this machine's matrix speed that ours reaches, and the error of each head's effect in bfloat16.
--peers names Python interpreters: one with transformers 5, and one with 4.57.6, which `make peers`
builds.
"""

import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from benchmarks.workload import Shape, machine, make_model, read_split
from minibert import BertForTokenClassification, save_pretrained
from minibert.config import Head
from minibert.data.batches import Split
from minibert.errors import InputError
from minibert.heads.ablation import ablate, cumulative, masks_without
from minibert.heads.costs import flops_of, seconds_of
from minibert.runtime import cli


@dataclass(frozen=True)
class Settings:
    data: Path
    """JSONL of documents, e.g. a dev.jsonl."""

    shape: Shape = "minilm"
    """minilm has its real weights, bert-base random ones: speed does not depend on them."""

    precisions: tuple[Literal["float32", "bfloat16"], ...] = ("float32",)
    """Precisions of ours; the peers run in float32."""

    peers: tuple[Path, ...] = (Path(sys.executable), Path(".venv-transformers4/bin/python"))
    """Interpreters to run the peers' loop in."""

    documents: int = 8

    heads: int = 3
    """Heads on which a peer's loop is timed."""

    repeats: int = 3

    threads: int = 1


class Peer:
    """A process that runs the loop of ablation_peer.py."""

    def __init__(self, python: Path, model: Path, windows: Path, threads: int):
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        script = Path(__file__).parent / "ablation_peer.py"
        self.process = subprocess.Popen(
            [python, script, model, windows],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout
        self.name = "transformers " + json.loads(self.output.readline())

    def run(self, heads: Sequence[Head]) -> tuple[float, list[float]]:
        """Seconds, and for each masked head the sum of the logits' absolute values."""
        print(json.dumps(heads), file=self.input, flush=True)
        return json.loads(self.output.readline())

    def close(self) -> None:
        self.input.close()
        self.process.wait()


@dataclass
class Job:
    """A computation of ours with its times."""

    name: str

    compute: Callable

    ratios: dict[str, list[float]] = field(default_factory=dict)
    """{peer: its seconds over ours, in each round}"""

    seconds: list[float] = field(default_factory=list)

    def time(self, theirs: dict[str, float]) -> None:
        """Run it once. `theirs`: the seconds of each peer in this round."""
        self.seconds.append(seconds_of(self.compute))
        for peer, seconds in theirs.items():
            self.ratios.setdefault(peer, []).append(seconds / self.seconds[-1])


def run(settings: Settings) -> None:
    if not 1 <= settings.heads <= 72:
        raise InputError("--heads must be from 1 to 72")
    if missing := [str(python) for python in settings.peers if not python.exists()]:
        raise InputError(f"{missing[0]}: no such interpreter; make peers, or name others")

    torch.set_num_threads(settings.threads)
    model = make_model(settings.shape)
    split = read_split(settings.data, settings.documents, model.config)
    jobs = [job for name in settings.precisions for job in make_jobs(model, split, name)]
    time_jobs(settings, model, split, jobs)

    lengths = [len(w.input_ids) for w in split.windows]
    print(
        f"{settings.shape}, {len(split.documents)} documents, {sum(lengths)} tokens, {machine()}, "
        f"{settings.threads} thread(s); logits equal; median ratio [range] of {settings.repeats} "
        "rounds"
    )
    for job in jobs:
        for name, ratios in job.ratios.items():
            low, high = min(ratios), max(ratios)
            middle = statistics.median(ratios)
            print(f"{job.name:34} {name:20} {middle:5.1f}x [{low:.1f}, {high:.1f}]")

    if "float32" in settings.precisions:
        report_arithmetic(model, split, jobs[2 * settings.precisions.index("float32")])
    if "bfloat16" in settings.precisions:
        report_precision(model, split)


def time_jobs(
    settings: Settings, model: BertForTokenClassification, split: Split, jobs: Sequence[Job]
) -> None:
    """Check the peers' logits, then run the peers and our jobs in turn."""
    heads = model.config.present_heads
    timed = heads[:: len(heads) // settings.heads][: settings.heads]
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, Path(folder))
        windows = Path(folder) / "windows.json"
        windows.write_text(json.dumps([w.input_ids for w in split.windows]))
        peers = [Peer(p, Path(folder), windows, settings.threads) for p in settings.peers]

        check(peers, model, split, timed)
        for _ in range(settings.repeats):
            theirs = {p.name: p.run(timed)[0] * len(heads) / len(timed) for p in peers}
            for job in jobs:
                job.time(theirs)

        for peer in peers:
            peer.close()


def make_jobs(model: BertForTokenClassification, split: Split, precision: str) -> list[Job]:
    model = copy.deepcopy(model).to(getattr(torch, precision))
    heads = model.config.present_heads
    masks = masks_without(model.config, [[head] for head in heads])
    shuffled = [heads[i] for i in torch.randperm(len(heads))]
    return [
        Job(f"every head alone, {precision}", lambda: ablate(model, split, masks)),
        Job(f"cumulative, random, {precision}", lambda: cumulative(model, split, shuffled)),
    ]


@torch.no_grad()
def check(
    peers: Sequence[Peer], model: BertForTokenClassification, split: Split, heads: Sequence[Head]
) -> None:
    """Raises AssertionError unless each peer gives our logits for each of the heads."""
    masks = masks_without(model.config, [[head] for head in heads])
    inputs = [torch.tensor([window.input_ids]) for window in split.windows]
    ours = [
        float(sum(model(ids, head_mask=mask).logits.double().abs().sum() for ids in inputs))
        for mask in masks
    ]
    for peer in peers:
        _, theirs = peer.run(heads)
        torch.testing.assert_close(torch.tensor(theirs), torch.tensor(ours), rtol=1e-5, atol=0)


@torch.no_grad()
def report_arithmetic(model: BertForTokenClassification, split: Split, job: Job) -> None:
    """The ratio of the arithmetic, and our speed beside that of a product of matrices."""
    inputs = [torch.tensor([window.input_ids]) for window in split.windows]
    naive = flops_of(lambda: [model(ids) for ids in inputs])
    exact = flops_of(job.compute)
    bound = naive * len(model.config.present_heads) / exact

    # The product of the feed-forward network takes most of the time of a forward pass.
    weight = model.bert.layers[0].expand.weight
    hidden = torch.randn(1024, weight.shape[1])
    seconds = statistics.median(seconds_of(lambda: hidden @ weight.T) for _ in range(30))
    matrix = 2 * len(hidden) * weight.numel() / seconds

    reached = exact / statistics.median(job.seconds)
    print(
        f"arithmetic: the naive loop computes {bound:.2f}x ours without padding; ours runs at "
        f"{reached / 1e9:.0f} GFLOP/s, {reached / matrix:.0%} of a matrix product's"
    )


def report_precision(model: BertForTokenClassification, split: Split) -> None:
    """The relative error of each head's effect on the summed loss in bfloat16."""
    masks = masks_without(model.config, [[head] for head in model.config.present_heads])
    losses = [
        ablate(copy.deepcopy(model).to(dtype), split, masks).loss.sum(1)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    exact, rounded = (loss[1:] - loss[0] for loss in losses)
    error = statistics.median(abs(rounded - exact) / abs(exact))
    print(f"bfloat16 moves a head's effect on the loss by {error:.0%} (median)")


main = partial(cli.run, run, Settings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
