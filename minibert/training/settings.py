"""The settings of training, the device and the precision."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from minibert.config import check_fields
from minibert.data.documents import Scheme
from minibert.errors import InputError
from minibert.hub import DEFAULT_MODEL
from minibert.runtime.folder import recorded_precision

Plan = Literal["auto", "plain", "layerwise"]


Precision = Literal["auto", "float32", "bf16", "fp16"]


States = Literal["float32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What an optimizer step depends on: shared by the command lines of train.py and prune.py."""

    batch_size: int = 8
    """Windows in one optimizer step."""

    learning_rate: float = 2e-4
    """Peak of the schedule: linear warm-up, then linear decay to zero."""

    warmup: float = 0.1
    """Share of all steps that warms up."""

    weight_decay: float = 0.01
    """AdamW's, on matrices only: not on norms and biases."""

    clip: float = 1.0
    """Largest norm of the gradient of the embeddings, of each layer, and of the classifier."""

    freeze_embeddings: bool = False
    """Leave the embeddings as they are: less memory for their gradient and optimizer states."""

    states: States = "float32"
    """Of AdamW's two moments. bf16 takes half the memory; rounded at random, so that small changes
    are right on average."""

    tokens: int = 4096
    """Word pieces computed at a time. Memory depends on it; results only by the dropout drawn."""

    plan: Plan = "auto"
    """plain: fastest. layerwise: recompute each layer in the backward pass, for all micro-batches
    together, so that only one layer's gradient exists at a time. auto: the fastest plan that fits.
    All plans give the same update."""

    memory_limit: float = 0
    """MiB that tensors may take, for --plan auto; 0: what the GPU has free. A CUDA context takes
    some hundred MiB more."""

    precision: Precision = "auto"
    """auto: bf16 (else fp16) on a GPU, float32 on a CPU; a run goes on as it began."""

    device: str = "auto"
    """auto: the GPU if there is one."""

    seed: int = 0
    """Of everything that is drawn: new weights, dropout, the order of the documents."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("batch_size", "tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"--{name.replace('_', '-')} must be above 0")
        if not 0 <= self.warmup < 1:
            raise InputError("--warmup must be in [0, 1)")
        if not 0 <= self.weight_decay <= 1:
            raise InputError("--weight-decay must be in [0, 1]")
        if not 0 <= self.memory_limit < float("inf"):
            raise InputError("--memory-limit must be at least 0")
        if not 0 <= self.seed < 2**32:
            raise InputError("--seed must be from 0 to 4294967295")


@dataclass(frozen=True)
class TrainSettings(StepSettings):
    """The command line of train.py, its record in run.json, and the defaults of both."""

    data: str = "sample"
    """"sample"; a folder with train.jsonl, dev.jsonl, test.jsonl; a path with {split} in it; one
    JSONL file, zip or docsutf8/keys folder (then split 70/10/20); or a Hub data set's id."""

    out: Path = Path("runs/train")
    """Run folder. Given again with the same settings, the run goes on where it stopped."""

    model: str = DEFAULT_MODEL
    """Folder or Hub id of the pretrained encoder, e.g. google-bert/bert-base-uncased."""

    labels: Scheme = "io"
    """io: in a keyphrase or not; bio: B, I, O; given: the labels that the documents carry."""

    epochs: int = 3
    """Passes over the training documents; the best by dev AP (accuracy without O) is kept."""

    dropout: float = 0.1
    """On hidden states and embeddings."""

    attention_dropout: float = 0.0
    """On attention probabilities. Zero keeps the fused attention kernel in use."""

    max_length: int = 512
    """Longest window in word pieces; longer texts are cut into overlapping windows."""

    show: int = 3
    """Test documents to print at the end with their predicted keyphrases marked."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs < 1:
            raise InputError("--epochs must be at least 1")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be in [0, 1)")
        if self.show < 0:
            raise InputError("--show must be at least 0")


def choose_device(name: str) -> torch.device:
    try:
        if name == "auto":  # under torchrun, each process its own GPU
            own = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
            name = own if torch.cuda.is_available() else "cpu"
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


def choose_precision(
    name: Precision, device: torch.device, folder: str | Path | None = None
) -> Precision:
    """The precision that "auto" stands for: the recorded one of the run in `folder`, or, where none
    has begun, bf16 or fp16 on a GPU, and float32 on a CPU, whatever the processor could do."""
    if name != "auto":
        return name
    if folder and (recorded := recorded_precision(folder)):
        return recorded
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "float32"


def slow_precision(name: Precision, device: torch.device) -> str | None:
    """A sentence, where this CPU has no instructions for the precision; None otherwise."""
    if device.type != "cpu" or name not in ("bf16", "fp16"):
        return None
    native = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported")()
    return None if native else f"this CPU has no {name}: a run with --precision float32 is faster"
