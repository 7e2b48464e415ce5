"""What the study measures: its encoders, tasks and sizes, and the list of experiments."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from minibert.data.documents import Scheme
from minibert.evaluation.duration import GATE_STEP, STEP
from minibert.keyphrases.choice import Kind

HERE = Path(__file__).parent
PARENT = "MINIBERT_STUDY"  # environment variable: the process that runs the experiments

EncoderName = Literal["minilm", "e5"]
ENCODERS: dict[EncoderName, str] = {"minilm": "MiniLM", "e5": "multilingual-e5-small"}
HEADS: dict[EncoderName, int] = {"minilm": 72, "e5": 144}


class Task(NamedTuple):
    """A tagger to train. Every option was chosen on dev."""

    title: str

    data: str
    """In the folder of the collections: a folder, or a pattern of files, as train.py takes them."""

    labels: Scheme

    epochs: int

    kind: Kind | None = None
    """The score of keyphrases is fitted to dev of all collections of a kind."""

    learning_rate: float = 2e-4

    batch_size: int = 4
    """Windows in a step of gates."""

    candidates: str = "content"
    """The candidates, as rank.py names them, when the tagger ranks keyphrases."""


TASKS = {
    "kpcrowd500": Task("500N-KPCrowd", "kpcrowd500", "io", 3, "tags", batch_size=2),
    "inspec-bio": Task("Inspec", "inspec", "bio", 2, "keyphrases", candidates="tagger"),
    "semeval2017": Task("SemEval-2017", "semeval2017", "io", 2, "keyphrases", candidates="tagger"),
    "inspec-pos": Task(
        "Inspec, part of speech", "inspec/{split}.pos.jsonl", "given", 2, learning_rate=5e-4
    ),
}
PRUNED_TASKS = ("kpcrowd500", "inspec-bio")
KEYPHRASES = [name for name, task in TASKS.items() if task.kind]
KINDS: tuple[Kind, ...] = ("keyphrases", "tags")
SEARCHES = {"ir_cranfield": "Cranfield", "ir_scifact": "SciFact"}


class Counts(NamedTuple):
    """Documents of each split; None: all."""

    train: int | None = None

    dev: int | None = None

    test: int | None = None


class Recovery(NamedTuple):
    """The fine-tuning of a pruned tagger. Chosen on dev: docs/log.md."""

    steps: tuple[int, ...]
    """For each number of heads of RECOVERED. The first model needs the most steps: it starts from
    the weights of the dense tagger, the others from a model that is already fine-tuned."""

    learning_rate: float

    batch_size: int
    """Windows in a step."""


class Size(NamedTuple):
    """How much is measured."""

    documents: dict[tuple[EncoderName, str], Counts]
    """By encoder and task; other tasks have all documents."""

    seeds: dict[EncoderName, int]
    """Taggers of a task, each with a seed of its own, which are pruned too."""

    draws: int
    """Of random heads, divided among the seeds."""

    paired: int
    """The least important heads, of which all pairs are masked."""

    steps: int
    """Of gate training for each number of heads, at most."""

    recover: dict[str, Recovery]
    """By task."""

    searched: dict[EncoderName, tuple[str, ...]]
    """Collections to search."""

    corpus: int | None
    """Documents to search in; None: all."""


FULL = Size(
    documents={("e5", "inspec-bio"): Counts(None, 200, 200)},
    seeds={"minilm": 3, "e5": 1},
    draws=20,
    paired=20,
    steps=200,
    recover={
        "kpcrowd500": Recovery((150, 50, 50), 2e-4, 8),
        "inspec-bio": Recovery((250, 50, 50), 5e-4, 8),
    },
    searched={"minilm": ("ir_cranfield", "ir_scifact"), "e5": ("ir_cranfield",)},
    corpus=None,
)
FEW = {
    "kpcrowd500": Counts(6, 2, 4),
    "inspec-bio": Counts(30, 8, 12),
    "semeval2017": Counts(20, 4, 8),
    "inspec-pos": Counts(30, 8, 12),
}
QUICK = Size(
    documents={(encoder, task): FEW[task] for encoder in ENCODERS for task in TASKS},
    seeds={"minilm": 2, "e5": 1},
    draws=4,
    paired=6,
    steps=5,
    recover=dict.fromkeys(PRUNED_TASKS, Recovery((2, 1, 1), 5e-4, 2)),
    searched={"minilm": ("ir_cranfield",), "e5": ()},
    corpus=300,
)

# Shares of the heads that are kept: 36, 18, 12 and 6 of 72 heads.
SHARES = (1 / 2, 1 / 4, 1 / 6, 1 / 12)
RECOVERED = SHARES[1:]  # those that are fine-tuned


def budgets(encoder: EncoderName, shares: tuple[float, ...] = SHARES) -> list[int]:
    """Numbers of heads to keep, falling."""
    return [round(share * HEADS[encoder]) for share in shares]


@dataclass(frozen=True)
class Settings:
    """The command line of the study, and of each of its experiments."""

    data: Path
    """Folder with the collections: kpcrowd500, inspec, semeval2017, and for search ir_cranfield and
    ir_scifact."""

    quick: bool = False
    """Every table from a part of the documents, in half an hour."""

    out: Path | None = None
    """Folder for the models, the results and the page. By default models are in runs/study, results
    in study/results, and the page is docs/study.md; with --quick all are in runs/study-quick."""

    @property
    def size(self) -> Size:
        return QUICK if self.quick else FULL

    @property
    def folder(self) -> Path:
        name = "study-quick" if self.quick else "study"
        return self.out.resolve() if self.out else HERE.parent / "runs" / name

    @property
    def results(self) -> Path:
        return self.folder / "results" if self.out or self.quick else HERE / "results"

    @property
    def page(self) -> Path:
        apart = self.out or self.quick
        return self.folder / "study.md" if apart else HERE.parent / "docs" / "study.md"


# The time ---------------------------------------------------------------------------------------

# Minutes of one forward pass of MiniLM over train, dev and test, by one thread of a processor with
# AVX2; and the windows of train.
PASS = {
    "kpcrowd500": (6.0, 0.6, 1.6),
    "inspec-bio": (2.6, 1.2, 1.2),
    "semeval2017": (1.3, 0.2, 0.5),
}
PASS["inspec-pos"] = PASS["inspec-bio"]
WINDOWS = {"kpcrowd500": 677, "inspec-bio": 1002, "inspec-pos": 1002}
OF_ENCODER = {"fit": 12, "ranked": 4, "searched": 20}  # minutes


def minutes(experiment: "Experiment", size: Size) -> float:
    """About how long an experiment of the full study takes. In the quick one all count alike."""
    kind, encoder, task = experiment.kind, experiment.encoder, experiment.subject
    layers = HEADS[encoder] / HEADS["minilm"]
    if size is QUICK:
        return 0.3 * layers
    if kind in OF_ENCODER:
        return OF_ENCODER[kind] * layers

    train, dev, test = PASS[task]
    if (encoder, task) in size.documents:
        dev, test = 0.4 * dev, 0.4 * test
    epoch_share = TASKS[task].batch_size / WINDOWS.get(task, 1)
    is_random = experiment.way == "random"
    recovery = size.recover.get(task, Recovery((), 0.0, 0))
    recovery_epochs = sum(recovery.steps) * recovery.batch_size / WINDOWS.get(task, 1)
    passes = {
        "tagger": (STEP + 0.3) * TASKS[task].epochs * train,
        "scratch": (STEP + 0.3) * TASKS[task].epochs * train,
        "importance": 3 * dev,
        "single": layers * 38 * dev + 5 * test,
        "pairs": 105 * dev,
        "gates": len(SHARES) * size.steps * epoch_share * GATE_STEP * train,
        "recovered": recovery_epochs * (STEP + 1) * train + 6 * dev,
        "frozen": 2.9 * test * (size.draws / size.seeds[encoder] if is_random else 1),
        "marked": 3 * test,
    }
    return layers * passes[kind]


# The experiments --------------------------------------------------------------------------------

UNTRAINED = tuple(OF_ENCODER)  # kinds of experiments without a tagger


class Experiment(NamedTuple):
    """One file of results."""

    kind: str
    """A function of study/experiments.py."""

    encoder: EncoderName

    subject: str
    """A task; a kind of keyphrases (fit); a collection (search)."""

    way: str = ""
    """How heads are masked, or chosen."""

    seed: int = 0

    @property
    def name(self) -> str:
        parts = (self.kind, self.way, self.encoder, self.subject, str(self.seed))
        return "-".join(part for part in parts if part)

    @property
    def needs(self) -> str | None:
        """The name of the experiment whose result this one reads."""
        if self.kind in ("ranked", "searched"):
            kind = TASKS[self.subject].kind if self.kind == "ranked" else "keyphrases"
            return Experiment("fit", self.encoder, str(kind)).name
        need = NEEDS.get((self.kind, self.way))
        return self._replace(kind=need[0], way=need[1]).name if need else None


TAGGER, GRADIENTS, GATES = ("tagger", ""), ("importance", ""), ("gates", "")
NEEDS = {
    GRADIENTS: TAGGER,
    GATES: TAGGER,
    ("single", "zero"): TAGGER,
    ("single", "mean"): TAGGER,
    ("pairs", ""): GRADIENTS,
    ("frozen", "gradient"): GRADIENTS,
    ("frozen", "zero"): ("single", "zero"),
    ("frozen", "mean"): ("single", "mean"),
    ("frozen", "random"): TAGGER,
    ("recovered", "gates"): GATES,
    ("recovered", "gradient"): GRADIENTS,
    ("recovered", "random"): TAGGER,
    ("scratch", ""): GATES,
    ("marked", ""): TAGGER,
}

# The experiments with one tagger.
MASKED = (TAGGER, GRADIENTS, ("frozen", "gradient"), ("frozen", "random"))
PRUNED = (GATES, ("recovered", "gates"))
SINGLE = (("single", "zero"), ("frozen", "zero"))
MEAN = (("single", "mean"), ("frozen", "mean"), ("pairs", ""))


def experiments(size: Size, encoders: Sequence[EncoderName]) -> list[Experiment]:
    """All experiments, each after the one that it needs, and the most important ones first."""
    planned = with_minilm(size)
    return planned + with_e5(size) if "e5" in encoders else planned


def with_minilm(size: Size) -> list[Experiment]:
    add = partial(of_tasks, "minilm")
    first, *others = range(size.seeds["minilm"])
    planned = untrained("minilm", size)
    planned += add(PRUNED_TASKS, *MASKED, *PRUNED, seed=first)
    planned += add(["semeval2017"], *MASKED, seed=first)
    planned += add(PRUNED_TASKS, ("recovered", "random"), seed=first)
    planned += add(["semeval2017"], *SINGLE, *MEAN)

    for seed in others:
        planned += add(PRUNED_TASKS, *MASKED, *PRUNED, seed=seed)
        planned += add(["semeval2017"], *MASKED, seed=seed)
    for seed in others:
        planned += add(PRUNED_TASKS, ("recovered", "random"), seed=seed)

    planned += add(PRUNED_TASKS, *SINGLE)
    planned += add(KEYPHRASES, ("marked", ""))
    planned += add(["inspec-pos"], *MASKED, *SINGLE)
    planned += add(["inspec-bio"], ("scratch", ""))
    return planned + add(PRUNED_TASKS, ("recovered", "gradient"))


def with_e5(size: Size) -> list[Experiment]:
    """Fewer experiments, because the second encoder has twice the layers."""
    add = partial(of_tasks, "e5")
    planned = untrained("e5", size)
    planned += add(["semeval2017"], *MASKED, *SINGLE)
    planned += add(["inspec-bio"], *MASKED, GATES, *SINGLE)
    return planned + add(["kpcrowd500"], *MASKED)


def untrained(encoder: EncoderName, size: Size) -> list[Experiment]:
    """The experiments with the encoder as it is: heads chosen for keyphrases, and search."""
    fits = of_tasks(encoder, KINDS, ("fit", ""))
    ranked = of_tasks(encoder, KEYPHRASES, ("ranked", ""))
    return fits + ranked + of_tasks(encoder, size.searched[encoder], ("searched", ""))


def of_tasks(
    encoder: EncoderName, subjects: Sequence[str], *kinds: tuple[str, str], seed: int = 0
) -> list[Experiment]:
    """Experiments of these kinds and ways, for one subject after the other."""
    return [Experiment(k, encoder, subject, way, seed) for subject in subjects for k, way in kinds]
