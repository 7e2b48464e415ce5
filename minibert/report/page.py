"""Results as pages: one HTML file each, which needs nothing from outside and opens from disk.
Everything that comes from data is escaped."""

import base64
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from minibert.config import BertConfig, Head, head_name, parse_head
from minibert.data.documents import Document
from minibert.errors import InputError
from minibert.evaluation.intervals import Score
from minibert.evaluation.metrics import Array
from minibert.files import read_json, write_text
from minibert.keyphrases.phrases import Keyphrase
from minibert.report import tables
from minibert.report.figures import draw_pareto
from minibert.report.results import read_ablations, read_prunings
from minibert.text.words import Span

LEVELS = 9  # shades of a word


class Piece(NamedTuple):
    """A stretch of text: a word, or what stands between two."""

    text: str
    weight: str = ""
    level: int = 0  # of its shade, 1 to LEVELS; 0 for none
    opens: bool = False  # a keyphrase begins here
    closes: bool = False
    gold: bool = False


class Cell(NamedTuple):
    """A head in a heat map."""

    told: str
    colour: str
    mark: str


class HeatMap(NamedTuple):
    title: str
    key: str
    rows: list[list[Cell | None]]  # by layer; None for a head that the model has lost


def texts_page(title: str, texts: Sequence[tuple[Document, Array, list[Keyphrase]]]) -> str:
    """A page of texts: every word shaded by its weight, keyphrases underlined."""
    shown = []
    for document, weights, phrases in texts:
        spans = [span for phrase in phrases for span in phrase.spans]
        pieces = _pieces(document.text, document.words, weights, spans)
        shown.append({"id": document.id, "pieces": pieces, "phrases": phrases})
    return _render("texts.html", title=title, texts=shown)


def write_report(run: str | Path) -> Path:
    """report.html in a run folder: settings, scores, heads, curves, pruning and sample texts, as
    far as train.py, ablate.py and prune.py have left them there."""
    run = Path(run)
    results = read_json(run / "results.json")
    texts = read_json(run / "texts.json") if (run / "texts.json").exists() else []
    ablations, prunings = read_ablations(run), read_prunings(run)
    config = BertConfig.load(run / "config.json")
    if prunings:
        draw_pareto(run / "pareto.png", prunings)
    page = _render(
        "report.html",
        title=run.resolve().name,
        record=read_json(run / "run.json"),
        best_epoch=results.get("best_epoch"),
        scores=_scores(results["test"]),
        training=_embedded(run / "training.png"),
        ablations=[_ablation(run / name, parts, config) for name, parts in ablations.items()],
        prunings=[_pruning(run / way, stages) for way, stages in prunings.items()],
        pareto=_embedded(run / "pareto.png"),
        texts=[_sample(text) for text in texts],
        heads=_by_head(texts, ablations),
    )
    write_text(run / "report.html", page)
    return run / "report.html"


def update_report(run: str | Path, out: str | Path) -> None:
    """Add results in the folder `out` to the report of the run, if they are in the run folder.
    Another process may be at it: nothing is lost, the next report has them."""
    if Path(out).resolve().parent != Path(run).resolve():
        return
    try:
        print(f"To look at: {write_report(run)}")
    except InputError as error:
        print(f"no report: {error}", file=sys.stderr)


def _render(template: str, **values: object) -> str:
    from jinja2 import Environment, FileSystemLoader  # here: an extra

    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(levels=LEVELS, **values)


def _embedded(figure: Path) -> str:
    """A PNG file as an address that holds it; empty where there is none."""
    if not figure.exists():
        return ""
    return "data:image/png;base64," + base64.b64encode(figure.read_bytes()).decode()


# The parts of a report ----------------------------------------------------------------------------


def _scores(test: Mapping) -> list[list[str]]:
    if not all(isinstance(next(iter(scores.values())), Mapping) for scores in test.values()):
        test = {"this model": test}  # of prune.py
    return tables.score_rows(
        {system: {m: Score(**v) for m, v in scores.items()} for system, scores in test.items()}
    )


def _ablation(folder: Path, parts: Mapping, config: BertConfig) -> dict:
    effects = parts["single-dev"]["heads"]
    maps = [_effects_map(effects, config)]
    if "AP" in next(iter(parts["attention-test"].values())):
        maps.append(_gaze_map(parts["attention-test"], config))
    return {
        "name": folder.name,
        "answers": tables.ablation_answers(parts),
        "maps": maps,
        "heads": tables.head_rows(parts),
        "orders": tables.curve_rows(parts["curves"]),
        "curves": _embedded(folder / "curves.png"),
    }


def _effects_map(effects: Mapping[str, Mapping], config: BertConfig) -> HeatMap:
    """What silencing each head does to the loss: red where it rises, blue where it falls."""
    limit = max(abs(change["loss"]["value"]) for change in effects.values()) or 1.0
    cells = {}
    for name, change in effects.items():
        loss = change["loss"]
        told = "{value:+.4f} [{low:+.4f}, {high:+.4f}]".format(**loss)
        sure = "told from noise" if loss["significant"] else "not told from noise"
        ends = (178, 24, 43) if loss["value"] > 0 else (33, 102, 172)
        colour = _mixed(ends, abs(loss["value"]) / limit)
        cells[parse_head(name)] = Cell(
            f"{name}: loss {told}, {sure}", colour, "" if loss["significant"] else "·"
        )
    key = f"red: the loss rises, by at most {limit:.4f}; blue: it falls; dot: not told from noise"
    return HeatMap("What silencing a head does (dev)", key, _grid(cells, config))


def _gaze_map(gaze: Mapping[str, Mapping], config: BertConfig) -> HeatMap:
    """How well what a word receives from each head alone tells keyphrase words."""
    values = {parse_head(name): head["AP"] for name, head in gaze.items()}
    low, high = min(values.values()), max(values.values())
    cells = {
        head: Cell(
            f"{head_name(head)}: AP {100 * value:.1f}",
            _mixed((194, 87, 26), (value - low) / ((high - low) or 1.0)),
            "",
        )
        for head, value in values.items()
    }
    key = f"average precision, from {100 * low:.1f} (white) to {100 * high:.1f}"
    title = "How well the attention that words receive tells keyphrases (test)"
    return HeatMap(title, key, _grid(cells, config))


def _grid(cells: Mapping[Head, Cell], config: BertConfig) -> list[list[Cell | None]]:
    heads = range(config.num_attention_heads)
    return [[cells.get((layer, h)) for h in heads] for layer in range(config.num_hidden_layers)]


def _mixed(colour: tuple[int, int, int], share: float) -> str:
    """White with a share of a colour in it."""
    return "rgb({}, {}, {})".format(*(round(255 + share * (c - 255)) for c in colour))


def _pruning(folder: Path, stages: Mapping[str, dict]) -> dict:
    rows = tables.pruning_rows(stages)
    return {"name": folder.name, "rows": rows, "gates": _embedded(folder / "gates.png")}


def _sample(text: Mapping) -> dict:
    """A text of texts.json: shaded by the tagger's probability."""
    pieces = _pieces(
        text["text"], text["words"], text["weights"], map(tuple, text["spans"]), text["gold"], 1.0
    )
    return {"id": text["id"], "pieces": pieces}


def _by_head(texts: Sequence[Mapping], ablations: Mapping) -> list[dict]:
    """The first text as each head weighs it; the heads that tell keyphrases best first."""
    if not texts or not texts[0]["heads"]:
        return []
    gaze = next(iter(ablations.values()), {}).get("attention-test", {})
    aps = {name: head["AP"] for name, head in gaze.items() if "AP" in head}
    text = texts[0]
    words = text["words"][: len(next(iter(text["heads"].values())))]
    shown = text["text"][: words[-1][1]]
    return [
        {"name": name, "AP": aps.get(name), "pieces": _pieces(shown, words, received, [])}
        for name, received in sorted(text["heads"].items(), key=lambda h: -aps.get(h[0], 0.0))
    ]


def _pieces(
    text: str,
    words: Sequence[Span],
    weights: Sequence[float],
    spans: Iterable[Span],
    gold: Sequence[bool] = (),
    largest: float = 0.0,
) -> list[Piece]:
    """`largest`: the weight of the darkest shade; by default the text's own."""
    apart: list[Span] = []
    for span in sorted(spans):
        if not apart or span[0] >= apart[-1][1]:  # the first of two that overlap
            apart.append(span)
    starts, ends = {start for start, _ in apart}, {end for _, end in apart}
    largest = largest or max(weights, default=0.0) or 1.0
    pieces, at = [], 0
    for i, ((start, end), weight) in enumerate(zip(words, weights)):
        level = round(LEVELS * weight / largest)
        marks = (start in starts, end in ends, bool(gold) and gold[i])
        pieces.append(Piece(text[at:start]))
        pieces.append(Piece(text[start:end], f"{weight:.3g}", level, *marks))
        at = end
    return [*pieces, Piece(text[at:])]
