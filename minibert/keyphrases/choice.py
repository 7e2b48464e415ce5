"""Which heads to use: read from names or files, or chosen for keyphrases."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minibert.config import BertConfig, Head, head_name, parse_head
from minibert.data.documents import Document
from minibert.errors import InputError, check
from minibert.evaluation import metrics
from minibert.evaluation.metrics import Array
from minibert.files import read_json
from minibert.keyphrases.ranking import Aggregate, phrase_score
from minibert.phrases.candidates import Candidate
from minibert.phrases.scores import gold_stems

# Heads as they are given ------------------------------------------------------------------------


def read_heads(
    source: str | Path, config: BertConfig, model: str | None = None
) -> dict[Head, float]:
    """Heads with their weights. `source` is one of

    - "all";
    - names, as in "L5H10,L4H2";
    - a JSON file with "heads", names or {name: weight}, as rank.py fit and prune.py write it;
    - an order of ablate.py with ":12" behind its path: its last, most important 12 heads.

    Raises InputError for anything else, for a head outside the model's layers and heads, and for a
    file of rank.py fit that records another model than `model` (folder or Hub id).
    """
    source = str(source)
    if source == "all":
        return dict.fromkeys(config.present_heads, 1.0)

    path, _, count = source.rpartition(":")
    if path and count.isdigit():
        named = _end_of_order(source, path, int(count))
    elif source.endswith(".json"):
        named = _recorded_heads(source, model)
    else:
        named = source.replace(",", " ").split()

    heads = _parse_heads(source, named)
    _check_heads(source, heads, config)
    return heads


def full_name(model: str) -> str:
    """The model in any working directory: an absolute path, or a Hub id."""
    folder = os.path.expanduser(model)
    return os.path.realpath(folder) if os.path.isdir(folder) else model


def _recorded_heads(path: str, model: str | None) -> Any:
    """What a JSON file has as "heads"; None if it has none."""
    record = read_json(path)
    if not isinstance(record, dict):
        return None
    chosen_for = record.get("model")
    check(
        not model or not chosen_for or full_name(str(chosen_for)) == full_name(model),
        f"{path}: its heads were chosen for {chosen_for}, not for {model}: "
        "choose others with rank.py fit, or name heads, as in --heads L3H7,L5H10",
    )
    return record.get("heads")


def _end_of_order(source: str, path: str, count: int) -> list[str]:
    """The last `count` heads of an order of ablate.py."""
    order = read_json(path)
    check(isinstance(order, list), f"{source}: names no heads, such as L3H7")
    is_in_range = 1 <= count <= len(order)
    check(is_in_range, f"{source}: it ranks {len(order)} heads; take 1 to {len(order)}")
    return order[-count:]


def _parse_heads(source: str, named: Any) -> dict[Head, float]:
    """{head: weight} from names, or from {name: weight}."""
    try:
        weights = named if isinstance(named, Mapping) else dict.fromkeys(named, 1.0)
        return {parse_head(name): float(weight) for name, weight in weights.items()}
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{source}: names no heads, such as L3H7") from None


def _check_heads(source: str, heads: Mapping[Head, float], config: BertConfig) -> None:
    are_positive = heads and all(0 < weight < float("inf") for weight in heads.values())
    check(are_positive, f"{source}: no heads, or weights that are not above 0")
    layers, width = config.num_hidden_layers, config.num_attention_heads
    for layer, head in heads:
        check(
            0 <= layer < layers and 0 <= head < width,
            f"{source}: the model has no {head_name((layer, head))}: it has {layers} layers of "
            f"{width} heads; the list belongs to another model",
        )


# Greedy choice ----------------------------------------------------------------------------------


class Task(NamedTuple):
    """Candidates of one document, to be ranked by a sum over heads of what they receive."""

    scores: Array  # (candidates, heads), in the order of the text
    gold: Array  # (candidates,) 1 where the candidate is a gold phrase
    wanted: int  # gold phrases of the document


def make_task(
    document: Document, candidates: Sequence[Candidate], received: Array, aggregate: Aggregate
) -> Task:
    """`received`: (words, ...) of every head; the heads are flattened."""
    gold = set(gold_stems(document))
    by_head = received.reshape(len(received), -1).T.tolist()
    rows = [[phrase_score(c, words, aggregate) for words in by_head] for c in candidates]
    scores = np.array(rows).reshape(len(candidates), len(by_head))
    is_gold = np.array([float(candidate.stems in gold) for candidate in candidates])
    return Task(scores, is_gold, len(gold))


class Step(NamedTuple):
    """A head that was added, and the mean F1@k with it."""

    head: int
    score: float


def choose_heads(tasks: Sequence[Task], most: int, k: int = 10) -> list[Step]:
    """Greedy forward selection of at most `most` heads: always add the head that gives the highest
    F1@k (macro), of equals the first. Heads after the highest score are left out."""
    heads = tasks[0].scores.shape[1]
    sums = [np.zeros(len(task.gold)) for task in tasks]  # the candidates' scores by chosen heads
    steps: list[Step] = []
    for _ in range(min(most, heads)):
        total = np.zeros(heads)
        for task, chosen in zip(tasks, sums):
            total += _f1(chosen[:, None] + task.scores, task, k)
        total[[step.head for step in steps]] = -np.inf
        best = int(total.argmax())
        steps.append(Step(best, float(total[best]) / len(tasks)))
        for task, chosen in zip(tasks, sums):
            chosen += task.scores[:, best]

    highest = max(range(len(steps)), key=lambda i: steps[i].score)
    return steps[: highest + 1]


def f1_of_all(tasks: Sequence[Task], k: int = 10) -> float:
    """The mean F1@k of all heads together."""
    return float(np.mean([_f1(t.scores.sum(1, keepdims=True), t, k)[0] for t in tasks]))


def _f1(scores: Array, task: Task, k: int) -> Array:
    """(candidates, heads) -> (heads,) F1 of the first k candidates by each column."""
    first = np.argsort(-scores, axis=0, kind="stable")[:k]
    hits = task.gold[first].sum(0)
    unused = np.zeros_like(hits)
    return metrics.f1(np.stack([hits, len(first) - hits, task.wanted - hits, unused], axis=-1))
