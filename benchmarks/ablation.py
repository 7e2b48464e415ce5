"""All heads silenced in turn: our one pass against the loop that users of transformers write.

python -m benchmarks.ablation --data FILE. Ours and each peer run interleaved on the same documents
with the same threads; a peer's loop is timed on a few heads spread over the layers, and multiplied.
Prints the median of the ratios. --peers names Python interpreters: one with transformers 5, and one
with 4.57.6, which make peers builds.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from minibert import BertConfig, BertForTokenClassification, cli, save_pretrained
from minibert.ablation import ablate, cumulative, masks_without
from minibert.data import make_split, read_documents
from minibert.tokenizer import Tokenizer
from minibert.weights import DEFAULT_MODEL, find_model

SHAPES = {"minilm": (384, 6, 12, 1536), "bert-base": (768, 12, 12, 3072)}


@dataclass(frozen=True)
class Settings:
    data: Path
    """JSONL of documents, e.g. a dev.jsonl."""
    shape: str = "minilm"
    """minilm or bert-base; weights are random, speed does not depend on them."""
    peers: tuple[Path, ...] = (Path(sys.executable), Path(".venv-transformers4/bin/python"))
    """Interpreters to run the peers' loop in."""
    documents: int = 16
    heads: int = 3
    """Heads on which a peer's loop is timed."""
    repeats: int = 5
    threads: int = 1


class Peer:
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

    def run(self, heads: int) -> tuple[float, list[int], list[float]]:
        print(heads, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


def run(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    hidden, layers, heads, inner = SHAPES[settings.shape]
    torch.manual_seed(0)
    config = BertConfig(30522, hidden, layers, heads, inner).with_labels(("O", "I"))
    config = replace(config, initializer_range=0.1)  # so that a head's effect shows in the logits
    model = BertForTokenClassification(config).eval()
    tokenizer = Tokenizer.load(find_model(DEFAULT_MODEL), config.vocab_size)
    documents = read_documents(settings.data)[: settings.documents]
    split = make_split(documents, tokenizer, "io", config.labels, 512)
    order = config.present_heads
    torch.manual_seed(0)
    shuffled = [order[i] for i in torch.randperm(len(order))]
    masks = masks_without(config, [[head] for head in order])
    jobs = {
        "every head alone": lambda: ablate(model, split, masks),
        "cumulative, random order": lambda: cumulative(model, split, shuffled),
    }
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, Path(folder))
        windows = Path(folder) / "windows.json"
        windows.write_text(json.dumps([w.input_ids for w in split.windows]))
        peers = {str(p): Peer(p, Path(folder), windows, settings.threads) for p in settings.peers}
        for peer in peers.values():
            peer.run(1)
        ratios: dict[tuple[str, str], list[float]] = {}
        for _ in range(settings.repeats):
            theirs = {}
            for name, peer in peers.items():
                seconds, _, _ = peer.run(settings.heads)
                theirs[name] = seconds * len(order) / settings.heads
            for job, compute in jobs.items():
                began = time.perf_counter()
                compute()
                ours = time.perf_counter() - began
                for name, seconds in theirs.items():
                    ratios.setdefault((job, name), []).append(seconds / ours)
        for peer in peers.values():
            peer.process.stdin.close()
            peer.process.wait()
    tokens = sum(len(w.input_ids) for w in split.windows)
    print(
        f"{settings.shape}, float32, {len(documents)} documents, {tokens} tokens, "
        f"{settings.threads} thread(s); median ratio [range] of {settings.repeats} rounds"
    )
    for (job, name), values in ratios.items():
        print(f"{job:26} {name:40} {statistics.median(values):5.1f}x "
              f"[{min(values):.1f}, {max(values):.1f}]")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, Settings, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
