"""The settings of an optimizer step and of train.py."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from minibert.data.batches import TOKENS
from minibert.data.documents import Scheme
from minibert.errors import check, check_fields
from minibert.hub import DEFAULT_MODEL
from minibert.runtime.device import Precision

Plan = Literal["auto", "plain", "layerwise"]
States = Literal["float32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """The settings of an optimizer step, which train.py and prune.py share."""

    batch_size: int = 8
    """Windows in one optimizer step."""

    learning_rate: float = 2e-4
    """Peak of the schedule: linear warm-up, then linear decay to zero."""

    warmup: float = 0.1
    """Share of all steps that warms up."""

    weight_decay: float = 0.01
    """AdamW's, on matrices only, not on norms and biases."""

    clip: float = 1.0
    """Largest norm of the gradient of the embeddings, of each layer, and of the classifier."""

    freeze_embeddings: bool = False
    """Do not train the embeddings, which saves their gradient and optimizer states."""

    states: States = "float32"
    """Of AdamW's two moments. bf16 takes half the memory, and is rounded stochastically, so that
    small changes are right on average."""

    tokens: int = TOKENS
    """Word pieces computed at a time. Fewer take less memory, and change only the dropout drawn."""

    plan: Plan = "auto"
    """plain: fastest. layerwise: recompute each layer in the backward pass, for all micro-batches
    together, so that only one layer's gradient exists at a time. auto: the fastest plan that fits.
    All plans give the same update."""

    memory_limit: float = 0
    """MiB that tensors may take, for --plan auto; 0: what the GPU has free. A CUDA context takes
    some hundred MiB more."""

    precision: Precision = "auto"
    """auto: bf16 (else fp16) on a GPU, float32 on a CPU; a resumed run keeps its precision."""

    device: str = "auto"
    """auto: a GPU if there is one."""

    seed: int = 0
    """Seed of everything that is drawn: new weights, dropout, the order of the documents."""

    def __post_init__(self) -> None:
        check_fields(self)
        check(self.batch_size >= 1, "--batch-size must be at least 1")
        check(self.tokens >= 1, "--tokens must be at least 1")
        check(0 < self.learning_rate < math.inf, "--learning-rate must be above 0")
        check(0 < self.clip < math.inf, "--clip must be above 0")
        check(0 <= self.warmup < 1, "--warmup must be in [0, 1)")
        check(0 <= self.weight_decay <= 1, "--weight-decay must be in [0, 1]")
        check(0 <= self.memory_limit < math.inf, "--memory-limit must be at least 0")
        check(0 <= self.seed < 2**32, "--seed must be from 0 to 4294967295")


@dataclass(frozen=True)
class TrainSettings(StepSettings):
    """The command line of train.py, and its record in run.json."""

    data: str = "sample"
    """"sample"; a folder with train.jsonl, dev.jsonl, test.jsonl; a path with {split} in it; one
    JSONL file, zip or docsutf8/keys folder, which is split 70/10/20; or a Hub data set's id."""

    out: Path = Path("runs/train")
    """Run folder. The same command again resumes a run that was stopped."""

    model: str = DEFAULT_MODEL
    """Folder or Hub id of the pretrained encoder, e.g. google-bert/bert-base-uncased."""

    labels: Scheme = "io"
    """io: in a keyphrase or not; bio: B, I, O; given: the labels that the documents carry."""

    epochs: int = 3
    """Passes over the training documents. The epoch with the best dev AP is kept (with the best
    accuracy if no label is O)."""

    dropout: float = 0.1
    """On hidden states and embeddings."""

    attention_dropout: float = 0.0
    """On attention probabilities. With 0 the fused attention kernel stays in use."""

    max_length: int = 512
    """Longest window in word pieces; longer texts are cut into overlapping windows."""

    show: int = 3
    """Test documents to print at the end with their predicted keyphrases marked."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.epochs >= 1, "--epochs must be at least 1")
        check(0 <= self.dropout < 1, "--dropout must be in [0, 1)")
        check(0 <= self.attention_dropout < 1, "--attention-dropout must be in [0, 1)")
        check(self.show >= 0, "--show must be at least 0")
