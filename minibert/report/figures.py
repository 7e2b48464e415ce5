"""Figures of a run, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from minibert.evaluation.intervals import Score
from minibert.evaluation.metrics import Array, main_measure
from minibert.output.plots import GREY, draw_kept, new_figure, save_figure
from minibert.report.results import Curve, PrunedModel, Prunings


def draw_training(path: str | Path, log: Sequence[Mapping]) -> None:
    """Loss by step and score on dev after each epoch, from the lines of metrics.jsonl."""
    figure, axes = new_figure(7.5, 3.5)

    losses = np.array([(line["step"], line["loss"]) for line in log if "loss" in line])
    width = max(1, len(losses) // 50)  # a long run as about 50 points
    means = losses[: len(losses) // width * width].reshape(-1, width, 2).mean(1)
    label = "loss" if width == 1 else f"loss, mean of {width} steps"
    axes.plot(*means.T, ".-", color="0.4", markersize=2, label=label)
    axes.set(xlabel="step", ylabel="loss per word", ylim=(0, None), title="Training")

    scores = np.array([(line["step"], line["dev_score"]) for line in log if "dev_score" in line])
    score_axes = axes.twinx()
    score_axes.plot(*scores.T, "o-", color="C1", label="dev after each epoch")
    score_axes.set(ylabel="score on dev", ylim=(0, 1))

    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    save_figure(figure, path)


def draw_heat_map(path: str | Path, values: Array, insignificant: np.ndarray, title: str) -> None:
    """(layers, heads) as colours, white at zero. A dot marks insignificant values; missing heads
    are NaN and stay blank."""
    figure, axes = new_figure(0.55 * values.shape[1] + 1.8, 0.5 * values.shape[0] + 1.4)
    limit = float(np.nanmax(np.abs(values))) or 1.0
    image = axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)

    layers, heads = np.nonzero(insignificant)
    axes.scatter(heads, layers, s=12, color="0.35")
    xlabel = "head   (dot: not significant)" if insignificant.any() else "head"
    axes.set(xlabel=xlabel, ylabel="layer", title=title)
    axes.set_xticks(range(values.shape[1]))
    axes.set_yticks(range(values.shape[0]))

    figure.colorbar(image, ax=axes, shrink=0.9)
    save_figure(figure, path)


def draw_curves(path: str | Path, curves: Mapping[str, Curve]) -> None:
    """Score by number of heads masked: one line for each order, and a band for random orders."""
    figure, axes = new_figure(7.5, 4.5)
    first = next(iter(curves.values()))
    measure, masked = main_measure(first.steps), first.masked
    lines = {name: np.array(curve.steps[measure]) for name, curve in curves.items()}

    random = [line for name, line in lines.items() if name.startswith("random")]
    if random:
        low, high = np.min(random, 0), np.max(random, 0)
        axes.fill_between(masked, low, high, color=GREY, label="random orders")
    for name, line in lines.items():
        if not name.startswith("random"):
            axes.plot(masked, line, label=name)

    full = next(iter(lines.values()))[0]
    axes.axhline(0.99 * full, color="0.5", linewidth=0.8, linestyle=":", label="full less 1 %")
    axes.set(xlabel="heads masked", ylabel=f"{measure} on test", title="Heads masked cumulatively")
    axes.legend(frameon=False)
    save_figure(figure, path)


def draw_gates(path: str | Path, models: Mapping[str, PrunedModel]) -> None:
    """Numbers of open, undecided, closed and expected open gates by step of their training, for
    one smaller model after the other."""
    figure, axes = new_figure(7.5, 3.5)
    states = [state for model in models.values() for state in model.gates]
    steps = range(1, len(states) + 1)

    counts = {
        "open": [state.open for state in states],
        "undecided": [state.undecided for state in states],
        "closed": [state.closed for state in states],
    }
    colours = ("#7fb3d5", "#f5cba7", "0.9")
    axes.stackplot(steps, *counts.values(), labels=list(counts), colors=colours)
    axes.plot(steps, [state.expected for state in states], "k", label="expected open")

    last_steps = np.cumsum([len(model.gates) for model in models.values()])
    for name, step in zip(models, last_steps):
        axes.axvline(step, color="0.3", linewidth=0.8)
        axes.annotate(name, (step, 0), (-3, 3), textcoords="offset points", ha="right", rotation=90)

    limits = (0.5, len(states) + 0.5)
    axes.set(xlabel="step", ylabel="heads", xlim=limits, title="Gates during training")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    save_figure(figure, path)


def draw_pareto(path: str | Path, prunings: Prunings) -> None:
    """Score by number of heads: one line for every folder of prune.py, and a band for random heads
    without fine-tuning. A line of fewer documents than the others has their number in its name."""
    lines: dict[str, dict[int, Score]] = {}
    random: dict[int, list[float]] = {}
    most = max(model.documents for models in prunings.values() for model in models.values())
    for folder, models in prunings.items():
        for model in models.values():
            measure = main_measure(model.test)
            score, name = model.test[measure], folder.removeprefix("prune-")
            if model.documents == most:
                full = model.dense[measure].value
            else:
                name += f" ({model.documents} documents)"

            if model.selection == "random" and not model.weight_steps and model.documents == most:
                random.setdefault(len(model.heads), []).append(score.value)
            else:
                lines.setdefault(name, {})[len(model.heads)] = score

    draw_kept(path, lines, random, full, f"{measure} on test")
