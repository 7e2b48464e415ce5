"""Which heads do a job: named, read from what the scripts wrote, or chosen for keyphrases."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minibert.config import BertConfig, Head, head_name, parse_head
from minibert.data.documents import Document
from minibert.errors import InputError
from minibert.evaluation import metrics
from minibert.evaluation.metrics import Array
from minibert.files import read_json
from minibert.keyphrases.phrases import Aggregate, Candidate, phrase_score
from minibert.keyphrases.scores import distinct


def read_heads(source: str | Path, config: BertConfig) -> dict[Head, float]:
    """Heads with their weights.

    `source`: "all"; names, as in "L5H10,L4H2"; a JSON file with "heads", which are names or
    {name: weight}, as rank.py fit and prune.py write it; or, with ":12" behind it, an order of
    ablate.py, of which the 12 most important are taken. Raises InputError for anything else, and
    for a head that the model never had.
    """
    source = str(source)
    if source == "all":
        return dict.fromkeys(config.present_heads, 1.0)
    path, _, count = source.rpartition(":")
    try:
        if path and count.isdigit():
            named = read_json(Path(path))
            if not 1 <= int(count) <= len(named):
                raise InputError(f"{source}: it ranks {len(named)} heads; take 1 to {len(named)}")
            named = named[-int(count) :]
        elif source.endswith(".json"):
            named = read_json(Path(source))["heads"]
        else:
            named = source.replace(",", " ").split()
        weights = named if isinstance(named, dict) else dict.fromkeys(named, 1.0)
        heads = {parse_head(name): float(weight) for name, weight in weights.items()}
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{source}: names no heads, such as L3H7") from None
    if not heads or not all(0 < weight < float("inf") for weight in heads.values()):
        raise InputError(f"{source}: no heads, or weights that are not above 0")
    layers, width = config.num_hidden_layers, config.num_attention_heads
    for layer, head in heads:
        if not (0 <= layer < layers and 0 <= head < width):
            raise InputError(
                f"{source}: the model has no {head_name((layer, head))}: it has {layers} layers of "
                f"{width} heads; the list belongs to another model"
            )
    return heads


def recorded_choice(source: str | Path) -> dict:
    """What a file of rank.py fit records beside its heads: "model", "strength" and more; empty
    where `source` is none."""
    record = read_json(source) if str(source).endswith(".json") else None
    return record if isinstance(record, dict) else {}


class Task(NamedTuple):
    """Candidates of one document, to be ranked by a sum over heads of what they receive."""

    scores: Array  # (candidates, heads), in the order of the text
    gold: Array  # (candidates,) 1 where the candidate is a gold phrase
    wanted: int  # gold phrases of the document


def make_task(
    document: Document, candidates: Sequence[Candidate], received: Array, aggregate: Aggregate
) -> Task:
    """`received`: (words, ...) of every head; the heads are flattened."""
    gold = set(distinct(document.keyphrases))
    by_head = received.reshape(len(received), -1).T.tolist()
    rows = [[phrase_score(c, words, aggregate) for words in by_head] for c in candidates]
    found = np.array([float(c.stems in gold) for c in candidates])
    return Task(np.array(rows).reshape(len(candidates), len(by_head)), found, len(gold))


class Step(NamedTuple):
    """A head that was added, and the mean F1@k with it."""

    head: int
    score: float


def choose_heads(tasks: Sequence[Task], most: int, again: bool = False, k: int = 10) -> list[Step]:
    """Greedy forward selection: always next is the head with which F1@k (macro) is highest, the
    first of equals; at most `most`, and none after the highest score.

    With `again` a head may be taken more than once; how often is its weight (Caruana et al. 2004).
    """
    heads = tasks[0].scores.shape[1]
    together = [np.zeros(len(task.gold)) for task in tasks]
    steps: list[Step] = []
    for _ in range(most):
        total = np.zeros(heads)
        for task, so_far in zip(tasks, together):
            total += _f1(so_far[:, None] + task.scores, task, k)
        if not again:
            total[[step.head for step in steps]] = -np.inf
        steps.append(Step(int(total.argmax()), float(total.max()) / len(tasks)))
        for task, so_far in zip(tasks, together):
            so_far += task.scores[:, steps[-1].head]
    best = max(range(len(steps)), key=lambda i: steps[i].score)
    return steps[: best + 1]


def f1_of_all(tasks: Sequence[Task], k: int = 10) -> float:
    """The mean F1@k of all heads together."""
    return float(np.mean([_f1(t.scores.sum(1, keepdims=True), t, k)[0] for t in tasks]))


def _f1(scores: Array, task: Task, k: int) -> Array:
    """(candidates, heads) -> (heads,) F1 of the first k candidates by each column."""
    first = np.argsort(-scores, axis=0, kind="stable")[:k]
    hits = task.gold[first].sum(0)
    none = np.zeros_like(hits)
    return metrics.f1(np.stack([hits, len(first) - hits, task.wanted - hits, none], axis=-1))
