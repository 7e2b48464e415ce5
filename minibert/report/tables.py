"""Results as tables and sentences."""

from collections.abc import Mapping, Sequence

import numpy as np

from minibert.evaluation.intervals import Change, Score, rank_correlation
from minibert.evaluation.metrics import main_measure
from minibert.heads.costs import Cost
from minibert.output.numbers import percent, points, signed, with_interval
from minibert.report.results import (
    Ablation,
    Curve,
    HeadEffects,
    PrunedModel,
    best_of_layers,
    significant_heads,
)

Rows = list[list[str]]  # of a table; the first row is the header


def as_text(rows: Rows) -> str:
    """Rows as aligned columns, with a line below the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def score_rows(systems: Mapping[str, Mapping[str, Score]]) -> Rows:
    """One row for each system, one column for each measure: value and 95 % interval, in percent
    except for the loss."""
    columns = list(dict.fromkeys(name for scores in systems.values() for name in scores))
    rows = [["", *columns]]
    for system, scores in systems.items():
        shown = {n: (with_interval if n == "loss" else percent)(s) for n, s in scores.items()}
        cells = [shown.get(name, "-") for name in columns]
        rows.append([system, *cells])
    return rows


def search_rows(ways: Mapping[str, Mapping[str, Score | float]]) -> Rows:
    """One row for each way to search, one column for each measure, from 0 to 1 as usual there, and
    for its p-value; "-" where a way has none."""
    names = list(next(iter(ways.values())))
    rows = [["", *names]]
    for way, values in ways.items():
        cells = (values.get(name, "-") for name in names)
        rows.append([way, *(_search_cell(cell) for cell in cells)])
    return rows


def _search_cell(cell: Score | float | str) -> str:
    if isinstance(cell, Score):
        return with_interval(cell)
    return f"{cell:.4f}" if isinstance(cell, float) else cell


# Ablation ---------------------------------------------------------------------------------------


def ablation_answers(ablation: Ablation) -> list[str]:
    """What an ablation study shows, in sentences."""
    dev, test = ablation.single["dev"], ablation.single["test"]
    answers = [f"On dev, masking one head {_effects_on_loss(dev, [*dev.heads])}."]

    # Older versions measured all heads on test, and `significant_heads` falls back on one.
    chosen = [head for head in significant_heads(dev) if dev.heads[head]["loss"].significant]
    if chosen:
        effects = _effects_on_loss(test, chosen)
        answers.append(f"On test, of the heads that are significant on dev, masking one {effects}.")
    else:
        answers.append("On dev no head is significant, so that none is counted on test.")

    answers.append(_single_heads_of_layers(ablation))
    has_keyphrases = "AP" in next(iter(ablation.attention["dev"].values()))
    if has_keyphrases:
        answers.append(_attention_and_importance(ablation))
    return answers


def _effects_on_loss(effects: HeadEffects, heads: Sequence[str]) -> str:
    """For how many of these heads masking changes the loss significantly, by direction."""
    changes = [effects.heads[head]["loss"] for head in heads]
    rises = sum(change.significant and change.value > 0 for change in changes)
    falls = sum(change.significant and change.value < 0 for change in changes)
    return f"raises the loss significantly for {rises} of {len(changes)} and lowers it for {falls}"


def _single_heads_of_layers(ablation: Ablation) -> str:
    """For each layer, the head that serves best alone on dev, and the change of the main score on
    test when only this head is left in the layer."""
    test, best_heads = ablation.alone["test"], best_of_layers(ablation.alone["dev"])
    measure = main_measure(test.full)
    cells = [f"{head} {points(test.heads[head][measure])}" for head in best_heads]
    return (
        f"With one head left in a layer, the best of it on dev, {measure} on test changes by so "
        f"many points: {', '.join(cells)}."
    )


def _attention_and_importance(ablation: Ablation) -> str:
    """How well one head's attention finds keyphrase words, and whether such heads matter more."""
    dev, test = ablation.attention["dev"], ablation.attention["test"]
    precisions = np.array([head["AP"] for head in test.values()])
    best = max(dev, key=lambda head: dev[head]["AP"])
    on_dev = np.array([head["AP"] for head in dev.values()])
    correlation = rank_correlation(on_dev, _loss_changes(ablation.single["dev"]))
    return (
        f"The attention that words receive from {best}, the best head on dev, finds keyphrase "
        f"words with an AP of {100 * test[best]['AP']:.1f} on test; that of the median head is "
        f"{100 * np.median(precisions):.1f}. On dev, its rank correlation with a head's effect on "
        f"the loss is {correlation:+.2f}."
    )


def _loss_changes(effects: HeadEffects) -> np.ndarray:
    return np.array([head["loss"].value for head in effects.heads.values()])


def curve_rows(curves: Mapping[str, Curve]) -> Rows:
    """How well each order of the heads preserves the score as heads are masked."""
    rows = [["order", "area under the curve", "heads gone within 1 %"]]
    for name, curve in curves.items():
        rows.append([name, with_interval(curve.area), str(curve.free)])
    return rows


def head_rows(ablation: Ablation) -> Rows:
    """The effect of masking each head, with its 95 % interval; * significant; "-" for what is not
    measured on test. The heads whose masking raises the loss on dev most come first."""
    dev, test = ablation.single["dev"], ablation.single["test"]
    measure = main_measure(dev.full)
    rows = [["head", "loss, dev", "loss, test", f"{measure}, dev"]]
    for head in sorted(dev.heads, key=lambda head: -dev.heads[head]["loss"].value):
        on_test = test.heads[head]["loss"] if head in test.heads else None
        changes = (dev.heads[head]["loss"], on_test, dev.heads[head][measure])
        rows.append([head, *map(_change_cell, changes)])
    return rows


def _change_cell(change: Change | None) -> str:
    if change is None:
        return "-"
    return f"{signed(change)} *" if change.significant else signed(change)


# Pruning ----------------------------------------------------------------------------------------


def pruning_rows(models: Mapping[str, PrunedModel]) -> Rows:
    """One row for the dense model and one for each smaller model that prune.py made from it: the
    heads left, the cost of a forward pass and the score on test."""
    first = next(iter(models.values()))
    measure = main_measure(first.test)
    costs = ["parameters", "MB", "peak MB", "ms", "tokens/s", "attention", "model (allowed)"]
    scores = [f"{measure}, test, %", "of the dense, %"]
    rows = [["", "heads", "by layer", "undecided", *costs, *scores]]

    cost = first.costs["dense"]
    rows.append(["dense", *_size(cost), "-", *_costs(cost), percent(first.dense[measure]), "100"])

    for name, model in models.items():
        cost = model.costs["pruned"]
        title = f"{name}, not fine-tuned: dev was worse" if model.recovered is False else name
        undecided = str(model.gates[-1].undecided) if model.gates else "-"
        scores = [percent(model.test[measure]), percent(model.share)]
        rows.append([title, *_size(cost), undecided, *_costs(cost), *scores])
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
