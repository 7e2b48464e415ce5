"""Results to read: tables and marked texts."""

from collections.abc import Mapping, Sequence

import numpy as np

from minibert.evaluation import intervals
from minibert.evaluation.intervals import Score, rank_correlation
from minibert.evaluation.metrics import Array, main_measure
from minibert.heads.costs import Cost
from minibert.text.words import Span

Rows = list[list[str]]  # of a table, the first of them its head


def as_text(rows: Rows) -> str:
    """Rows as aligned columns, with a line below the first row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def score_rows(systems: Mapping[str, Mapping[str, Score]]) -> Rows:
    """Systems down, scores across: each value with its 95 % interval, in percent but for loss."""
    columns = list(dict.fromkeys(name for scores in systems.values() for name in scores))
    rows = [["", *columns]]
    for system, scores in systems.items():
        rows.append([system, *(_cell(name, scores.get(name)) for name in columns)])
    return rows


def search_rows(ways: Mapping[str, Mapping[str, Score | float]]) -> Rows:
    """Ways to search down, measures across, as they are usually given: from 0 to 1."""
    names = list(next(iter(ways.values())))
    return [["", *names], *([way, *map(_from_0_to_1, v.values())] for way, v in ways.items())]


def f1_lines(values: Mapping[str, Array], alone: Mapping[str, float]) -> list[str]:
    """How F1@10 of each way, (1 + R,), differs from the first's, and F1@10 of single heads."""
    first, *others = values
    changes = intervals.changes(np.stack([*values.values()], axis=1))
    lines = [
        f"F1@10, {way} less {first}: {100 * change.value:+.1f} "
        f"[{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
        for way, change in zip(others, changes)
    ]
    best = max(alone, key=alone.__getitem__)
    return [
        *lines,
        f"F1@10 of every head alone: mean {100 * np.mean([*alone.values()]):.1f}, highest "
        f"{100 * alone[best]:.1f} ({best}, chosen on this very set)",
    ]


def _from_0_to_1(value: Score | float) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _cell(name: str, score: Score | None) -> str:
    if score is None:
        return "-"
    if name == "loss":
        return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"
    return f"{100 * score.value:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def marked(text: str, spans: Sequence[Span], colour: bool) -> str:
    """The text with the spans, which must not overlap, in bold green or in [[brackets]]."""
    opening, closing = ("\033[1;32m", "\033[0m") if colour else ("[[", "]]")
    parts, at = [], 0
    for start, end in sorted(spans):
        parts += [text[at:start], opening, text[start:end], closing]
        at = end
    return "".join([*parts, text[at:]])


# Ablation ---------------------------------------------------------------------------------------


def ablation_answers(parts: Mapping) -> list[str]:
    """The answers in sentences, for the parts that ablate.py computes."""
    return [
        *(f"{split}: {_verdicts(parts[f'single-{split}'])}" for split in ("dev", "test")),
        _agreement(parts),
        _layers(parts["alone-dev"], parts["alone-test"]),
        *_gaze(parts),
    ]


def _verdicts(part: dict) -> str:
    """How many heads hurt, help, or cannot be told from noise, by the loss."""
    changes = [head["loss"] for head in part["heads"].values()]
    hurt = sum(c["significant"] and c["value"] > 0 for c in changes)
    helps = sum(c["significant"] and c["value"] < 0 for c in changes)
    return (
        f"of {len(changes)} heads, silencing one raises the loss for {hurt} and lowers it for "
        f"{helps}; for {len(changes) - hurt - helps} no difference can be told from noise"
    )


def _agreement(results: dict) -> str:
    """How well dev's effects of the heads foretell test's."""
    dev, test = (
        np.array([head["loss"]["value"] for head in results[f"single-{split}"]["heads"].values()])
        for split in ("dev", "test")
    )
    return f"rank correlation of the effects on dev and on test: {rank_correlation(dev, test):.2f}"


def _layers(dev: dict, test: dict) -> str:
    """Which layers can live with one head: each layer's best on dev, and what it costs on test."""
    measure = main_measure(test["full"])
    full = test["full"][measure]["value"]
    by_layer: dict[str, list[str]] = {}
    for head in dev["heads"]:
        by_layer.setdefault(head.split("H")[0], []).append(head)
    value = {head: changes[measure]["value"] for head, changes in dev["heads"].items()}
    best = [max(heads, key=value.__getitem__) for heads in by_layer.values()]
    costs = (f"{h} {100 * test['heads'][h][measure]['value'] / full:+.1f} %" for h in best)
    return f"one head left in a layer, the best by dev; {measure} on test: {', '.join(costs)}"


def _gaze(results: dict) -> list[str]:
    """Does attending to keyphrases foretell mattering for them?"""
    dev, test = results["attention-dev"], results["attention-test"]
    if "AP" not in next(iter(dev.values())):
        return []
    impact = np.array([h["loss"]["value"] for h in results["single-test"]["heads"].values()])
    alone = np.array([head["AP"] for head in test.values()])
    best = max(dev, key=lambda head: dev[head]["AP"])
    return [
        f"attention received, alone, tells keyphrase words best in {best} by dev: AP on test "
        f"{100 * test[best]['AP']:.1f} (median head {100 * np.median(alone):.1f}); its rank "
        f"correlation with a head's effect on the loss, on test: "
        f"{rank_correlation(alone, impact):+.2f}"
    ]


def curve_rows(curves: Mapping[str, dict]) -> Rows:
    """How well each order of the heads keeps the score while they go."""
    rows = [["order", "area under the curve", "heads gone within 1 %"]]
    for name, curve in curves.items():
        area = "{value:.3f} [{low:.3f}, {high:.3f}]".format(**curve["area"])
        rows.append([name, area, str(curve["free"])])
    return rows


def head_rows(parts: Mapping) -> Rows:
    """What silencing each head changes, with its 95 % interval; * told from noise. The heads that
    matter most on dev first."""
    dev, test = (parts[f"single-{split}"]["heads"] for split in ("dev", "test"))
    measure = main_measure(parts["single-dev"]["full"])
    rows = [["head", "loss, dev", "loss, test", f"{measure}, dev"]]
    for head in sorted(dev, key=lambda head: -dev[head]["loss"]["value"]):
        cells = (dev[head]["loss"], test[head]["loss"], dev[head][measure])
        text = (
            "{value:+.4f} [{low:+.4f}, {high:+.4f}]".format(**c) + " *" * c["significant"]
            for c in cells
        )
        rows.append([head, *text])
    return rows


# Pruning ----------------------------------------------------------------------------------------


def pruning_rows(stages: Mapping[str, dict]) -> Rows:
    """One row for the dense model and one for each smaller model that prune.py made from it: the
    heads left, the cost of a forward pass and the score on test."""
    first = next(iter(stages.values()))
    measure = main_measure(first["test"])
    costs = ["parameters", "MB", "peak MB", "ms", "tokens/s", "attention", "model (allowed)"]
    scores = [f"{measure}, test, %", "of the dense, %"]
    rows = [["", "heads", "by layer", "undecided", *costs, *scores]]

    dense_cost = Cost(**first["costs"]["dense"])
    dense_score = _cell(measure, Score(**first["dense"][measure]))
    rows.append(["dense", *_size(dense_cost), "-", *_costs(dense_cost), dense_score, "100"])

    for name, stage in stages.items():
        cost = Cost(**stage["costs"]["pruned"])
        undone = stage["recovered"] is False
        title = f"{name}, not fine-tuned: dev was worse" if undone else name
        undecided = str(stage["gates"][-1]["undecided"]) if stage["gates"] else "-"
        score = _cell(measure, Score(**stage["test"][measure]))
        share = _cell("share", Score(**stage["share"]))
        rows.append([title, *_size(cost), undecided, *_costs(cost), score, share])
    return rows


def _size(cost: Cost) -> list[str]:
    return [str(sum(cost.heads_by_layer)), " ".join(map(str, cost.heads_by_layer))]


def _costs(cost: Cost) -> list[str]:
    return [
        f"{cost.parameters / 1e6:.1f} M",
        f"{cost.bytes / 2**20:.0f}",
        f"{cost.peak_bytes / 2**20:.0f}",
        f"{1000 * cost.seconds:.0f}",
        f"{cost.tokens_per_second:.0f}",
        f"{cost.attention_speedup:.2f}x",
        f"{cost.speedup:.2f}x ({cost.allowed_speedup:.2f}x)",
    ]
