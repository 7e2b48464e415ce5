"""Costs against sizes and operations counted by hand; speed-ups under a replaced clock."""

import pytest

import prune
from minibert.heads import costs as costs_module
from minibert.heads.costs import compare_costs
from minibert.pruning import without_heads

pytestmark = pytest.mark.numeric


def test_speedups_are_medians_of_ratios(model, split, monkeypatch):
    """The clock is replaced: one warm-up and three rounds for each model."""
    smaller = without_heads(model, [(0, 0)])
    dense, pruned = [9.0, 4.0, 6.0, 8.0], [9.0, 2.0, 2.0, 2.0]
    model_times = [t for d, p in zip(dense, pruned) for t in (d, p)]
    attention_times = [t for d, p in zip(dense, pruned) for t in (10 * d, 2 * p)]
    clock = iter(model_times + attention_times)
    monkeypatch.setattr(costs_module, "seconds_of", lambda _: next(clock))

    costs = compare_costs({"dense": model, "pruned": smaller}, split.windows[:1], rounds=3)
    assert (costs["dense"].speedup, costs["dense"].seconds) == (1, 6)
    assert (costs["pruned"].speedup, costs["pruned"].attention_speedup) == (3, 15)
    tokens = len(split.windows[0].input_ids)
    assert costs["pruned"].tokens_per_second == tokens / 2


def test_costs_count_the_heads_that_are_left(model, split):
    smaller = without_heads(model, [(0, 0), (0, 1), *((1, head) for head in range(5))])
    costs = compare_costs({"dense": model, "pruned": smaller}, split.windows[:3], rounds=1)
    dense, pruned = costs["dense"], costs["pruned"]

    assert (dense.heads_by_layer, pruned.heads_by_layer) == ([5, 5, 5], [3, 0, 5])
    assert dense.parameters - pruned.parameters == 7 * 6 * (4 * 30 + 3)
    assert dense.bytes == 8 * dense.parameters

    lengths = [len(window.input_ids) for window in split.windows[:3]]
    tokens = sum(lengths)
    per_head = 2 * tokens * 4 * 30 * 6 + sum(4 * n * n * 6 for n in lengths)
    assert dense.flops - pruned.flops == 7 * per_head
    feed_forward = 3 * 2 * tokens * 2 * 30 * 37
    classifier = 2 * 3 * max(lengths) * 30 * 3
    assert dense.flops == 15 * per_head + feed_forward + classifier

    assert pruned.allowed_speedup > 1
    assert pruned.bytes < pruned.peak_bytes < dense.peak_bytes


def test_passes_of_costs_are_those_that_prune_estimates(model, split):
    """Of each model: whole passes, and those of the attention alone, a third of the arithmetic."""
    models = {"dense": model, "pruned": without_heads(model, [(0, 0)])}
    counts = {"whole": 0, "attention": 0}

    def count(name):
        counts[name] += 1

    for copy in models.values():
        copy.classifier.register_forward_hook(lambda *_: count("whole"))
        copy.bert.layers[0].attention.register_forward_hook(lambda *_: count("attention"))
    compare_costs(models, split.windows[:2])

    alone = counts["attention"] - counts["whole"]
    assert alone == 2 * 8
    assert pytest.approx(counts["whole"] + alone / 3) == prune.COST
