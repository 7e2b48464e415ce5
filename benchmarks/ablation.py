"""Each head masked in turn: our one pass against the loop that users of transformers write.

python -m benchmarks.ablation. Ours and each peer take turns on the same documents with the same
threads, and must give the same logits. A peer's loop is timed on a few heads spread over the
layers, and its time is scaled to all heads. Prints the median of the ratios, the share of this
machine's matrix speed, and the error of each head's effect in bf16. --peers names Python
interpreters: one with transformers 5, and one with 4.57.6, which `make bench` builds.
"""

import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.workload import (
    DTYPES,
    SPEED_COLUMNS,
    Lengths,
    Rows,
    Workload,
    describe_documents,
    has_bf16,
    markdown,
    matrix_jobs,
    matrix_speed,
    speed_cells,
)
from minibert import BertForTokenClassification, save_pretrained
from minibert.config import Head
from minibert.data.batches import Split
from minibert.data.corpus import SAMPLE
from minibert.errors import check
from minibert.files import write_json
from minibert.heads.ablation import ablate, cumulative, masks_without
from minibert.heads.costs import flops_of, take_turns
from minibert.runtime import cli


@dataclass(frozen=True)
class Settings(Workload):
    data: Path | None = SAMPLE / "test.jsonl"
    """JSONL of documents, e.g. a dev.jsonl."""

    lengths: tuple[Lengths, ...] = ("mixed", "one")

    documents: int = 4

    batch_size: int = 8
    """Of the peers' loop."""

    precisions: tuple[Literal["float32", "bf16"], ...] = tuple(
        name for name in DTYPES if name == "float32" or has_bf16()
    )
    """Precisions of ours; the peers run in float32."""

    peers: tuple[Path, ...] = (Path(sys.executable), Path(".venv-transformers4/bin/python"))
    """Interpreters to run the peers' loop in."""

    heads: int = 3
    """Heads on which a peer's loop is timed."""


class Peer:
    """A process that runs the loop of ablation_peer.py."""

    def __init__(self, python: Path, folder: Path, settings: Settings):
        script = Path(__file__).parent / "ablation_peer.py"
        self.process = subprocess.Popen(
            [python, script, folder, folder / "windows.json", str(settings.batch_size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(settings.threads)},
        )
        self.name = "transformers " + self._answer()

    def run(self, heads: Sequence[Head]) -> list[float]:
        """For each masked head the sum of the logits' absolute values."""
        assert self.process.stdin is not None
        print(json.dumps(heads), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


@contextmanager
def started(
    model: BertForTokenClassification, split: Split, settings: Settings
) -> Iterator[list[Peer]]:
    """The peers, with the model and the documents."""
    peers = []
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder)
        write_json(Path(folder) / "windows.json", [window.input_ids for window in split.windows])
        try:
            for python in settings.peers:
                peers.append(Peer(python, Path(folder), settings))
            yield peers
        finally:
            for peer in peers:
                peer.process.kill()
                peer.process.wait()


def run(settings: Settings) -> None:
    check(1 <= settings.heads <= 72, "--heads must be from 1 to 72")
    missing = [str(python) for python in settings.peers if not python.exists()]
    check(not missing, f"{missing}: no such interpreter; make bench, or name others")

    torch.set_num_threads(settings.threads)
    model = settings.model()
    rows = [["documents", "heads masked, precision of ours", "loop", *SPEED_COLUMNS]]
    for lengths in settings.lengths:
        rows += time_loops(model, lengths, settings)

    print(f"Logits equal; {settings.describe()}\n\n{markdown(rows, 3)}")
    if "bf16" in settings.precisions:
        report_precision(model, settings.split(settings.lengths[0], model.config))


def time_loops(model: BertForTokenClassification, lengths: Lengths, settings: Settings) -> Rows:
    """The rows of one arrangement of the documents."""
    split = settings.split(lengths, model.config)
    sizes = [len(window.input_ids) for window in split.windows]
    heads = model.config.present_heads
    timed = heads[:: len(heads) // settings.heads][: settings.heads]
    ours = {p: make_jobs(model, split, DTYPES[p]) for p in settings.precisions}

    with started(model, split, settings) as peers:
        check_logits(peers, model, split, timed)
        jobs: dict[str, Callable] = {peer.name: partial(peer.run, timed) for peer in peers}
        for precision, computations in ours.items():
            jobs |= {f"{name}, {precision}": job for name, job in computations.items()}
            jobs |= matrix_jobs(model.config, DTYPES[precision], sum(sizes))
        seconds = take_turns(jobs, settings.rounds)

    rows = []
    for precision, computations in ours.items():
        limit = matrix_speed(seconds, model.config, precision, sum(sizes))
        for name, job in computations.items():
            title = f"{name}, {precision}"
            times = {"ours": seconds[title]}
            for peer in peers:
                times[peer.name] = [s * len(heads) / len(timed) for s in seconds[peer.name]]
            flops = flops_of(job)
            for loop, spent in times.items():
                work = len(heads) * sum(sizes)
                cells = speed_cells(spent, times["ours"], work, flops, limit)
                rows.append(["", title, loop, *cells])
    rows[0][0] = describe_documents(lengths, sizes, settings.batch_size)
    return rows


def make_jobs(
    model: BertForTokenClassification, split: Split, dtype: torch.dtype
) -> dict[str, Callable]:
    model = copy.deepcopy(model).to(dtype)
    heads = model.config.present_heads
    masks = masks_without(model.config, [[head] for head in heads])
    generator = torch.Generator().manual_seed(0)
    shuffled = [[heads[i]] for i in torch.randperm(len(heads), generator=generator)]
    return {
        "each alone": partial(ablate, model, split, masks),
        "cumulative, random": partial(cumulative, model, split, shuffled),
    }


@torch.no_grad()
def check_logits(
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
        theirs = torch.tensor(peer.run(heads))
        torch.testing.assert_close(theirs, torch.tensor(ours), rtol=1e-5, atol=0)


def report_precision(model: BertForTokenClassification, split: Split) -> None:
    """The relative error of each head's effect on the summed loss in bf16."""
    masks = masks_without(model.config, [[head] for head in model.config.present_heads])
    losses = [
        ablate(copy.deepcopy(model).to(dtype), split, masks).loss.sum(1)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    exact, rounded = (loss[1:] - loss[0] for loss in losses)
    error = statistics.median(abs(rounded - exact) / abs(exact))
    print(f"\nbf16 moves a head's effect on the loss by {error:.0%} (median).")


main = partial(cli.run, run, Settings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
