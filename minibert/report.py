"""Results to look at: tables, marked texts and figures."""

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from minibert.config import BertConfig
from minibert.errors import InputError
from minibert.files import read_json, replacing, write_text
from minibert.metrics import Score, rank_correlation
from minibert.tokenizer import Span


def score_table(rows: Mapping[str, Mapping[str, Score]]) -> str:
    """Systems down, scores across: each value with its 95 % interval, in percent but for loss."""
    columns = list(dict.fromkeys(name for scores in rows.values() for name in scores))
    cells = [["", *columns]]
    for system, scores in rows.items():
        cells.append([system, *(_cell(name, scores.get(name)) for name in columns)])
    return _columns(cells)


def search_table(rows: Mapping[str, Mapping[str, Score | float]]) -> str:
    """Ways to search down, measures across, as they are usually given: from 0 to 1."""
    names = list(next(iter(rows.values())))
    cells = [["", *names]]
    for way, values in rows.items():
        cells.append([way, *map(_from_0_to_1, values.values())])
    return _columns(cells)


def _from_0_to_1(value: Score | float) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _columns(cells: Sequence[Sequence[str]]) -> str:
    """Rows of text as columns, a line below the first row."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


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


def ablation_summary(results: dict) -> str:
    """The answers in words, for the parts that ablate.py computes."""
    return "\n".join(
        [
            *(f"{split}: {_verdicts(results[f'single-{split}'])}" for split in ("dev", "test")),
            _agreement(results),
            _layers(results["alone-dev"], results["alone-test"]),
            *_gaze(results),
            "",
            _curve_table(results["curves"]),
        ]
    )


def _verdicts(part: dict) -> str:
    """How many heads hurt, help, or cannot be told from noise, by the loss."""
    changes = [head["loss"] for head in part["heads"].values()]
    hurt = sum(c["decided"] and c["value"] > 0 for c in changes)
    helps = sum(c["decided"] and c["value"] < 0 for c in changes)
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


def _main(scores: Mapping) -> str:
    return "AP" if "AP" in scores else "accuracy"


def _layers(dev: dict, test: dict) -> str:
    """Which layers can live with one head: each layer's best on dev, and what it costs on test."""
    measure = _main(test["full"])
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
    dev, test = results["gaze-dev"], results["gaze-test"]
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


def _curve_table(curves: dict) -> str:
    lines = [f"{'order':12}{'area under the curve':>28}{'heads gone within 1 %':>24}"]
    for name, curve in curves.items():
        area = "{value:.3f} [{low:.3f}, {high:.3f}]".format(**curve["area"])
        lines.append(f"{name:12}{area:>28}{curve['free']:>24}")
    return "\n".join(lines)


def ablation_figures(results: dict, config: BertConfig, folder: Path) -> None:
    """heads.txt, heads.png (what silencing each head does) and curves.png in `folder`."""
    single = results["single-dev"]["heads"]
    write_text(folder / "heads.txt", _head_table(results))
    changes = np.full((config.num_hidden_layers, config.num_attention_heads), np.nan)
    undecided = np.zeros_like(changes, dtype=bool)
    for (layer, head), change in zip(config.present_heads, single.values()):
        changes[layer, head] = change["loss"]["value"]
        undecided[layer, head] = not change["loss"]["decided"]
    heat_map(
        folder / "heads.png", changes, undecided, "What silencing a head does to the loss (dev)"
    )
    draw_curves(folder / "curves.png", results["curves"])


def _head_table(results: dict) -> str:
    dev, test = (results[f"single-{split}"]["heads"] for split in ("dev", "test"))
    measure = _main(results["single-dev"]["full"])
    lines = [
        "What silencing one head changes, with 95 % intervals; * told from noise",
        f"{'head':8}{'loss, dev':>30}{'loss, test':>30}{measure + ', dev':>30}",
    ]
    for head in sorted(dev, key=lambda head: -dev[head]["loss"]["value"]):
        cells = (dev[head]["loss"], test[head]["loss"], dev[head][measure])
        text = (
            "{value:+.4f} [{low:+.4f}, {high:+.4f}]".format(**c) + (" *" if c["decided"] else "  ")
            for c in cells
        )
        lines.append(f"{head:8}" + "".join(f"{cell:>30}" for cell in text))
    return "\n".join(lines) + "\n"


def heat_map(path: Path, values: np.ndarray, undecided: np.ndarray, title: str) -> None:
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


def draw_curves(path: Path, curves: dict) -> None:
    """Score against heads masked, one line an order; random orders as a band."""
    figure, axes = _figure(7.5, 4.5)
    measure = _main(next(iter(curves.values()))["steps"])
    lines = {name: np.array(curve["steps"][measure]) for name, curve in curves.items()}
    masked = next(iter(curves.values()))["masked"]
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


# Pruning ----------------------------------------------------------------------------------------


def pruning_table(stages: Mapping[str, dict]) -> str:
    """A line for the dense model and each smaller one that prune.py made from it: what is left,
    what a forward pass costs, how good it is."""
    first = next(iter(stages.values()))
    main = _main(first["test"])
    costs = ["parameters", "MB", "peak MB", "ms", "tokens/s", "attention", "model (allowed)"]
    rows = [["", "heads", "by layer", "undecided", *costs, f"{main}, test, %", "of the dense, %"]]
    rows.append(["dense", *_size(first, "dense"), "-", *_costs(first, "dense")])
    rows[-1] += [_cell(main, Score(**first["dense"][main])), "100"]
    for name, stage in stages.items():
        undecided = str(stage["gates"][-1]["undecided"]) if stage["gates"] else "-"
        rows.append([name, *_size(stage, "pruned"), undecided, *_costs(stage, "pruned")])
        rows[-1] += [_cell(main, Score(**stage["test"][main]))]
        rows[-1] += [_cell("share", Score(**stage["share"]))]
    return _columns(rows) + "\n"


def _size(stage: dict, model: str) -> list[str]:
    layers = stage["costs"][model]["heads by layer"]
    return [str(sum(layers)), " ".join(map(str, layers))]


def _costs(stage: dict, model: str) -> list[str]:
    cost = stage["costs"][model]
    return [
        f"{cost['parameters'] / 1e6:.1f} M",
        f"{cost['bytes'] / 2**20:.0f}",
        f"{cost['peak bytes'] / 2**20:.0f}",
        f"{1000 * cost['seconds']:.0f}",
        f"{cost['tokens per second']:.0f}",
        f"{cost['attention speed-up']:.2f}x",
        f"{cost['speed-up']:.2f}x ({cost['allowed speed-up']:.2f}x)",
    ]


def draw_pareto(run: Path) -> Path:
    """pareto.png in a run folder: score against heads kept, a line for every folder of prune.py in
    it, random heads as a band."""
    ways: dict[str, dict[int, dict]] = {}
    for path in sorted(run.glob("*/*/results.json")):
        stage = read_json(path)
        if "share" in stage:
            ways.setdefault(path.parts[-3].removeprefix("prune-"), {})[len(stage["heads"])] = stage
    figure, axes = _figure(7.5, 4.5)
    random: dict[int, list[float]] = {}
    for way, stages in ways.items():
        kept = sorted(stages)
        main = _main(stages[kept[0]]["test"])
        scores = [stages[k]["test"][main] for k in kept]
        values, low, high = (np.array([s[end] for s in scores]) for end in ("value", "low", "high"))
        if re.fullmatch(r"random-\d+", way):
            for k, value in zip(kept, values):
                random.setdefault(k, []).append(value)
        else:
            bars = [values - low, high - values]
            axes.errorbar(kept, values, bars, label=way, capsize=2, marker="o")
        full = stages[kept[0]]["dense"][main]["value"]
    if random:
        kept = sorted(random)
        least, most = ([bound(random[k]) for k in kept] for bound in (min, max))
        axes.fill_between(kept, least, most, color="0.85", label="random heads")
        axes.plot(kept, most, ".", color="0.6")
        axes.plot(kept, least, ".", color="0.6")
    axes.axhline(full, color="0.5", linewidth=0.8, linestyle=":", label="all heads")
    axes.set(xlabel="heads kept", ylabel=f"{main} on test", title="Fewer heads, by every way tried")
    axes.legend(frameon=False)
    _save(figure, run / "pareto.png")
    return run / "pareto.png"


def require_figures() -> None:
    """Raises InputError where no figure can be drawn: better before a long job than after."""
    if not find_spec("matplotlib"):
        raise InputError("figures need matplotlib: pip install -e '.[report]'")


def _figure(width: float, height: float):
    from matplotlib.figure import Figure  # here: an extra, and half a second to import

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _save(figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
