"""Results as HTML pages: one file each, which needs no other file and no network. Everything that
comes from data is escaped."""

import base64
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minibert.config import BertConfig, Head, head_name, parse_head
from minibert.data.documents import Document
from minibert.errors import InputError
from minibert.evaluation.intervals import Change, Score
from minibert.evaluation.metrics import Array
from minibert.files import read_json, write_text
from minibert.phrases.ranking import Keyphrase
from minibert.report import tables
from minibert.report.figures import draw_pareto
from minibert.report.results import Ablation, from_json, read_ablations, read_prunings
from minibert.text.words import Span

LEVELS = 9  # shades of a word
RED, BLUE, ORANGE = (178, 24, 43), (33, 102, 172), (194, 87, 26)


class Piece(NamedTuple):
    """A part of a text: a word, or the characters between two words."""

    text: str

    weight: str = ""

    level: int = 0
    """Of the shade: 1 to LEVELS, or 0 for none."""

    opens: bool = False
    """Whether a keyphrase begins here."""

    closes: bool = False

    gold: bool = False


class Cell(NamedTuple):
    """A head in a heat map."""

    description: str

    colour: str

    mark: str = ""


class HeatMap(NamedTuple):
    title: str

    key: str

    rows: list[list[Cell | None]]
    """By layer; None for a head that the model has lost."""


def texts_page(title: str, texts: Sequence[tuple[Document, Array, list[Keyphrase]]]) -> str:
    """A page of texts with the weights of their words, as shades, and their keyphrases, which are
    underlined and listed."""
    rows = []
    for document, weights, phrases in texts:
        spans = [span for phrase in phrases for span in phrase.spans]
        pieces = text_pieces(document.text, document.words, weights, spans)
        rows.append({"id": document.id, "pieces": pieces, "phrases": phrases})
    return _render("texts.html", title=title, texts=rows)


def write_report(run: str | Path) -> Path:
    """Write report.html in a run folder: settings, scores, ablation, pruning and sample texts, as
    far as train.py, ablate.py and prune.py have written them. Returns its path."""
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
        scores=_score_rows(results["test"]),
        training=_data_url(run / "training.png"),
        ablations=[_ablation(run / name, part, config) for name, part in ablations.items()],
        prunings=[
            {
                "name": name,
                "rows": tables.pruning_rows(models),
                "gates": _data_url(run / name / "gates.png"),
            }
            for name, models in prunings.items()
        ],
        pareto=_data_url(run / "pareto.png"),
        texts=[_sample(text) for text in texts],
        heads=_text_by_head(texts, ablations),
    )

    write_text(run / "report.html", page)
    return run / "report.html"


def update_report(run: str | Path, out: str | Path) -> None:
    """Rebuild report.html of `run` if `out` lies in it. If that fails, as when another process
    writes it at this moment, warn and return; the next call includes these results."""
    if Path(out).resolve().parent != Path(run).resolve():
        return

    try:
        print(f"Report: {write_report(run)}")
    except InputError as error:
        print(f"no report: {error}", file=sys.stderr)


def _render(template: str, **values: object) -> str:
    from jinja2 import Environment, FileSystemLoader  # here: an optional package

    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(levels=LEVELS, **values)


def _data_url(figure: Path) -> str:
    """A URL that contains the PNG file; empty if the file is missing."""
    if not figure.exists():
        return ""
    return "data:image/png;base64," + base64.b64encode(figure.read_bytes()).decode()


# The parts of a report ----------------------------------------------------------------------------


def _score_rows(test: Mapping[str, Any]) -> tables.Rows:
    """The table of "test" in results.json: {system: scores} of train.py, scores of prune.py."""
    if "loss" in test:
        test = {"this model": test}
    return tables.score_rows(from_json(dict[str, dict[str, Score]], test))


def _ablation(folder: Path, ablation: Ablation, config: BertConfig) -> dict[str, Any]:
    maps = [_effects_map(ablation, config)]
    if "AP" in next(iter(ablation.attention["test"].values())):
        maps.append(_attention_map(ablation.attention["test"], config))
    return {
        "name": folder.name,
        "answers": tables.ablation_answers(ablation),
        "maps": maps,
        "heads": tables.head_rows(ablation),
        "orders": tables.curve_rows(ablation.curves),
        "curves": _data_url(folder / "curves.png"),
    }


def _effects_map(ablation: Ablation, config: BertConfig) -> HeatMap:
    """The change of the loss on dev when each head is masked."""
    changes = {
        parse_head(name): effect["loss"] for name, effect in ablation.single["dev"].heads.items()
    }
    limit = max(abs(change.value) for change in changes.values()) or 1.0
    cells = {head: _effect_cell(head, change, limit) for head, change in changes.items()}
    key = (
        f"red: the loss rises, by at most {limit:.4f}; blue: it falls; dot: the change is not "
        "significant"
    )
    return HeatMap("Effect of masking one head on the loss (dev)", key, _grid(cells, config))


def _effect_cell(head: Head, change: Change, limit: float) -> Cell:
    colour = _tint(RED if change.value > 0 else BLUE, abs(change.value) / limit)
    verdict, mark = ("significant", "") if change.significant else ("not significant", "·")
    return Cell(f"{head_name(head)}: loss {tables.signed(change)}, {verdict}", colour, mark)


def _attention_map(profile: Mapping[str, Mapping[str, float]], config: BertConfig) -> HeatMap:
    """How well the attention that words receive from one head ranks keyphrase words first."""
    precisions = {name: head["AP"] for name, head in profile.items()}
    low, high = min(precisions.values()), max(precisions.values())
    width = (high - low) or 1.0
    cells = {
        parse_head(name): Cell(f"{name}: AP {100 * ap:.1f}", _tint(ORANGE, (ap - low) / width))
        for name, ap in precisions.items()
    }
    key = f"average precision, from {100 * low:.1f} (white) to {100 * high:.1f}"
    title = "Keyphrase words ranked by the attention they receive from one head (test)"
    return HeatMap(title, key, _grid(cells, config))


def _grid(cells: Mapping[Head, Cell], config: BertConfig) -> list[list[Cell | None]]:
    heads = range(config.num_attention_heads)
    return [[cells.get((layer, h)) for h in heads] for layer in range(config.num_hidden_layers)]


def _tint(colour: tuple[int, int, int], fraction: float) -> str:
    """The CSS colour between white (fraction 0) and `colour` (1)."""
    red, green, blue = (round(255 + fraction * (part - 255)) for part in colour)
    return f"rgb({red}, {green}, {blue})"


# Texts ------------------------------------------------------------------------------------------


def _sample(text: Mapping[str, Any]) -> dict[str, Any]:
    """A text of texts.json, shaded by the tagger's probability."""
    spans = [(start, end) for start, end in text["spans"]]
    pieces = text_pieces(
        text["text"], text["words"], text["weights"], spans, text["gold"], largest=1.0
    )
    return {"id": text["id"], "pieces": pieces}


def _text_by_head(
    texts: Sequence[Mapping[str, Any]], ablations: Mapping[str, Ablation]
) -> list[dict[str, Any]]:
    """The beginning of the first text, shaded by the attention that its words receive from each
    head. The heads with the highest AP on test come first, if an ablation study has measured it."""
    if not texts or not texts[0]["heads"]:
        return []

    text = texts[0]
    received_by_head = text["heads"]

    # Only the first words have their attention in the file.
    words = text["words"][: len(next(iter(received_by_head.values())))]
    beginning = text["text"][: words[-1][1]]

    profiles = [ablation.attention["test"] for ablation in ablations.values()][:1]
    precisions = {
        name: head["AP"] for profile in profiles for name, head in profile.items() if "AP" in head
    }
    return [
        {
            "name": name,
            "AP": precisions.get(name),
            "pieces": text_pieces(beginning, words, received_by_head[name], []),
        }
        for name in sorted(received_by_head, key=lambda name: -precisions.get(name, 0.0))
    ]


def text_pieces(
    text: str,
    words: Sequence[Span],
    weights: Sequence[float] | Array,
    spans: Iterable[Span],
    gold: Sequence[bool] = (),
    largest: float = 0.0,
) -> list[Piece]:
    """The text cut at its words. Of two spans that overlap, the first is marked. `largest`: the
    weight of the darkest shade; 0 for the largest of this text."""
    marked: list[Span] = []
    for span in sorted(spans):
        if not marked or span[0] >= marked[-1][1]:
            marked.append(span)
    starts, ends = {start for start, _ in marked}, {end for _, end in marked}
    largest = largest or max(weights, default=0.0) or 1.0

    pieces, offset = [], 0
    for i, ((start, end), weight) in enumerate(zip(words, weights)):
        level = round(LEVELS * weight / largest)
        marks = (start in starts, end in ends, bool(gold) and gold[i])
        pieces.append(Piece(text[offset:start]))
        pieces.append(Piece(text[start:end], f"{weight:.3g}", level, *marks))
        offset = end

    return [*pieces, Piece(text[offset:])]
