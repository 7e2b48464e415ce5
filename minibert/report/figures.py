"""Figures of a run, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from minibert.evaluation.metrics import main_measure
from minibert.files import atomic_path

ENDS = ("value", "low", "high")  # of a score


def draw_training(path: str | Path, log: Sequence[Mapping]) -> None:
    """The lines of metrics.jsonl: loss by step, and the score on dev after each epoch."""
    figure, axes = _figure(7.5, 3.5)
    losses = np.array([(x["step"], x["loss"]) for x in log if "loss" in x])
    width = max(1, len(losses) // 50)
    means = losses[: len(losses) // width * width].reshape(-1, width, 2).mean(1)
    axes.plot(
        *means.T,
        ".-",
        color="0.4",
        markersize=2,
        label="loss" if width == 1 else f"loss, mean of {width} steps",
    )
    axes.set(xlabel="step", ylabel="loss per word", ylim=(0, None), title="Training")
    score = axes.twinx()
    steps, scores = zip(*((x["step"], x["dev_score"]) for x in log if "dev_score" in x))
    score.plot(steps, scores, "o-", color="C1", label="dev after each epoch")
    score.set(ylabel="score on dev", ylim=(0, 1))
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    _save(figure, path)


def heat_map(path: str | Path, values: np.ndarray, undecided: np.ndarray, title: str) -> None:
    """(layers, heads) as colours about zero; a dot marks the undecided, missing ones are blank."""
    figure, axes = _figure(0.55 * values.shape[1] + 1.8, 0.5 * values.shape[0] + 1.4)
    limit = float(np.nanmax(np.abs(values))) or 1.0
    image = axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
    rows, columns = np.nonzero(undecided)
    axes.scatter(columns, rows, s=12, color="0.35")
    key = "   (dot: not told from noise)" if undecided.any() else ""
    axes.set(xlabel=f"head{key}", ylabel="layer", title=title)
    axes.set_xticks(range(values.shape[1]))
    axes.set_yticks(range(values.shape[0]))
    figure.colorbar(image, ax=axes, shrink=0.9)
    _save(figure, path)


def draw_curves(path: str | Path, curves: Mapping[str, dict]) -> None:
    """Score against heads masked, one line an order; random orders as a band."""
    figure, axes = _figure(7.5, 4.5)
    first = next(iter(curves.values()))
    measure, masked = main_measure(first["steps"]), first["masked"]
    lines = {name: np.array(curve["steps"][measure]) for name, curve in curves.items()}
    random = [line for name, line in lines.items() if name.startswith("random")]
    if random:
        axes.fill_between(
            masked, np.min(random, 0), np.max(random, 0), color="0.85", label="random orders"
        )
    for name, line in lines.items():
        if not name.startswith("random"):
            axes.plot(masked, line, label=name)
    full = next(iter(lines.values()))[0]
    axes.axhline(0.99 * full, color="0.5", linewidth=0.8, linestyle=":", label="full less 1 %")
    axes.set(
        xlabel="heads masked", ylabel=f"{measure} on test", title="Masking more and more heads"
    )
    axes.legend(frameon=False)
    _save(figure, path)


def draw_gates(path: str | Path, stages: Mapping[str, dict]) -> None:
    """How gate training went, one stage of prune.py after the other: heads open, undecided and
    expected open, by step."""
    figure, axes = _figure(7.5, 3.5)
    steps = [step for stage in stages.values() for step in stage["gates"]]
    names = ("open", "undecided", "closed")
    axes.stackplot(
        range(1, len(steps) + 1),
        *([step[name] for step in steps] for name in names),
        labels=names,
        colors=("#7fb3d5", "#f5cba7", "0.9"),
    )
    axes.plot(range(1, len(steps) + 1), [s["expected"] for s in steps], "k", label="expected open")
    ends = np.cumsum([len(stage["gates"]) for stage in stages.values()])
    for name, end in zip(stages, ends):
        axes.axvline(end, color="0.3", linewidth=0.8)
        axes.annotate(name, (end, 0), (-3, 3), textcoords="offset points", ha="right", rotation=90)
    axes.set(
        xlabel="step", ylabel="heads", xlim=(0.5, len(steps) + 0.5), title="Gates while they learn"
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    _save(figure, path)


def draw_pareto(path: str | Path, ways: Mapping[str, Mapping[str, dict]]) -> None:
    """Score against heads kept: one line for every folder of prune.py, and a band for random heads
    without fine-tuning."""
    lines: dict[str, dict[int, list[float]]] = {}
    random: dict[int, list[float]] = {}
    for way, stages in ways.items():
        measure = main_measure(next(iter(stages.values()))["test"])
        for stage in stages.values():
            kept, score = len(stage["heads"]), stage["test"][measure]
            if stage["selection"] == "random" and stage["recovered"] is None:
                random.setdefault(kept, []).append(score["value"])
            else:
                line = lines.setdefault(way.removeprefix("prune-"), {})
                line[kept] = [score[end] for end in ENDS]
        full = next(iter(stages.values()))["dense"][measure]["value"]

    draw_kept(path, lines, random, full, f"{measure} on test")


def draw_kept(
    path: str | Path,
    lines: Mapping[str, Mapping[int, Sequence[float]]],
    random: Mapping[int, Sequence[float]],
    full: float,
    label: str,
) -> None:
    """A measure against heads kept: {way: {heads kept: (value, low, high)}} as lines, the values
    of random draws, {heads kept: values}, as a band, and what all heads have."""
    figure, axes = _figure(7.5, 4.5)
    for way, points in lines.items():
        kept = sorted(points)
        values, low, high = np.array([points[k] for k in kept]).T
        bars = np.maximum([values - low, high - values], 0)
        axes.errorbar(kept, values, bars, label=way, capsize=2, marker="o")
    if random:
        kept = sorted(random)
        least, most = ([bound(random[k]) for k in kept] for bound in (min, max))
        axes.fill_between(kept, least, most, color="0.85", label="random heads")
        axes.plot(kept, most, ".", color="0.6")
        axes.plot(kept, least, ".", color="0.6")
    axes.axhline(full, color="0.5", linewidth=0.8, linestyle=":", label="all heads")
    axes.set(xlabel="heads kept", ylabel=label, title="Fewer heads, by every way tried")
    axes.legend(frameon=False)
    _save(figure, path)


def _figure(width: float, height: float):
    from matplotlib.figure import Figure  # here: an extra, and half a second to import

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _save(figure, path: str | Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
