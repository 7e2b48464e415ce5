"""Lists of heads, and the greedy choice against a slow one."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from tiny import TINY

from minibert import InputError
from minibert.data.corpus import parse_document
from minibert.evaluation.metrics import f1
from minibert.keyphrases.choice import Task, choose_heads, f1_of_all, make_task, read_heads
from minibert.keyphrases.ranking import rank_phrases
from minibert.phrases.candidates import content_runs, group
from minibert.phrases.scores import phrase_counts


def test_heads_are_read_from_names_and_files(tmp_path):
    assert read_heads("all", TINY) == dict.fromkeys([(i, h) for i in range(3) for h in range(5)], 1)
    assert read_heads("L2H4, L0H1", TINY) == {(2, 4): 1, (0, 1): 1}
    chosen, order = tmp_path / "chosen.json", tmp_path / "order.json"
    chosen.write_text(json.dumps({"heads": {"L1H3": 2, "L0H0": 1}}))
    assert read_heads(str(chosen), TINY) == {(1, 3): 2, (0, 0): 1}
    chosen.write_text(json.dumps({"heads": ["L1H3"]}))
    assert read_heads(str(chosen), TINY) == {(1, 3): 1}
    order.write_text(json.dumps(["L0H0", "L0H1", "L2H2", "L1H1"]))
    assert read_heads(f"{order}:2", TINY) == {(2, 2): 1, (1, 1): 1}
    for count in (0, 5):
        with pytest.raises(InputError, match="take 1 to 4"):
            read_heads(f"{order}:{count}", TINY)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("L3H0", "no L3H0: it has 3 layers of 5 heads"),
        ("L0H5", "another model"),
        ("heads", "names no heads"),
        ("", "no heads"),
        ("L1", "names no heads"),
        ("gone.json", "not readable"),
        ("gone.json:3", "not readable"),
    ],
)
def test_invalid_head_lists_are_rejected(source, why):
    with pytest.raises(InputError, match=why):
        read_heads(source, TINY)


@pytest.mark.parametrize("text", ['{"heads": {"L0H0": 0}}', '{"heads": {}}', '["L0H0"]', "{}"])
def test_files_without_heads_are_rejected(tmp_path, text):
    path = tmp_path / "heads.json"
    path.write_text(text)
    with pytest.raises(InputError, match="heads"):
        read_heads(str(path), TINY)


TEXT = "quick sort of the large file; a merge sort, a quick sort. The file and its sort order"


@pytest.fixture
def document():
    gold = ["quick sort", "sort orders", "index"]
    return parse_document(json.dumps({"id": 1, "text": TEXT, "keyphrases": gold}), "x:1")


def test_task_scores_candidates_as_rank_phrases(document):
    received = np.random.default_rng(0).random((len(document.words), 2, 3))
    candidates = group(document, content_runs(document, 5))
    for aggregate in ("sum", "mean", "often"):
        task = make_task(document, candidates, received, aggregate)
        assert task.wanted == 3
        assert [c.stems for c, g in zip(candidates, task.gold) if g] == [
            ("quick", "sort"),
            ("sort", "order"),
        ]
        for head in range(6):
            weights = received[:, head // 3, head % 3]
            ranked = rank_phrases(document, candidates, weights, aggregate)
            expected = sorted(task.scores[:, head], reverse=True)
            assert [phrase.score for phrase in ranked] == pytest.approx(expected, abs=1e-12)


def tasks(seed: int, count: int = 7, heads: int = 5) -> list[Task]:
    draw = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        candidates = int(draw.integers(0, 9))
        gold = (draw.random(candidates) < 0.4).astype(float)
        wanted = int(gold.sum()) + int(draw.integers(1, 3))
        out.append(Task(draw.random((candidates, heads)), gold, wanted))
    return out


def slow_f1(documents: list[Task], heads: Sequence[int], k: int) -> float:
    """By sorting and counting, phrase by phrase."""
    values = []
    for task in documents:
        score = [sum(row[h] for h in heads) for row in task.scores]
        first = sorted(range(len(score)), key=lambda i: (-round(score[i], 9), i))[:k]
        ranked = [[(str(i),) for i in first]]
        gold = [(str(i),) for i in np.flatnonzero(task.gold)]
        gold += [(f"absent {i}",) for i in range(task.wanted - len(gold))]
        values.append(f1(phrase_counts(ranked, [gold], k))[0])
    return float(np.mean(values))


@pytest.mark.parametrize("seed", range(12))
def test_choice_is_greedy_and_stops_at_its_best(seed):
    """Five heads, or no more than may be chosen."""
    heads = 5 if seed % 2 else 3
    documents = tasks(seed, heads=heads)
    steps = choose_heads(documents, 3, k=3)
    chosen: list[int] = []
    for step in steps:
        free = [h for h in range(heads) if h not in chosen]
        scores = {h: slow_f1(documents, [*chosen, h], 3) for h in free}
        assert step.score == pytest.approx(max(scores.values()), abs=1e-12)
        assert step.head == next(h for h in free if scores[h] == pytest.approx(step.score))
        chosen.append(step.head)
    scores = [step.score for step in choose_heads(documents, 3, k=3)]
    assert scores[-1] == max(scores)
    assert all(score < scores[-1] for score in scores[:-1])
    assert f1_of_all(documents, 3) == pytest.approx(slow_f1(documents, range(heads), 3))
