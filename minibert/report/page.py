"""Results as HTML pages: one file each, which needs no other file and no network. Everything that
comes from data is escaped."""

import base64
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minibert.config import BertConfig
from minibert.data.documents import Document
from minibert.errors import InputError
from minibert.evaluation.metrics import Array, main_measure
from minibert.files import read_json, read_object, write_text
from minibert.output.heat_maps import attention_map, effects_map
from minibert.output.pieces import LEVELS, text_pieces
from minibert.phrases.ranking import Keyphrase
from minibert.report import story, tables
from minibert.report.figures import draw_pareto
from minibert.report.results import Ablation, read_ablations, read_prunings, read_scores


def texts_page(title: str, texts: Sequence[tuple[Document, Array, list[Keyphrase]]]) -> str:
    """A page of texts with the weights of their words, as shades, and their keyphrases, which are
    underlined and listed."""
    rows = []
    for document, weights, phrases in texts:
        spans = [span for phrase in phrases for span in phrase.spans]
        pieces = text_pieces(document.text, document.words, weights, spans)
        rows.append({"id": document.id, "pieces": pieces, "phrases": phrases})
    return _render("texts.html", title=title, texts=rows)


def write_report(run: str | Path, models: Sequence[story.RunModel] | None = None) -> Path:
    """Write report.html in a run folder: what was asked, the answers of train.py, ablate.py,
    prune.py and rank.py compare, as far as they have written them, and a table of all models.
    `models`: of `story.read_models`, if they are read already. Returns its path. Raises InputError
    for results of another version."""
    run = Path(run)
    results, record = read_json(run / "results.json"), read_json(run / "run.json")
    texts = read_json(run / "texts.json") if (run / "texts.json").exists() else []
    ablations, prunings = read_ablations(run), read_prunings(run)
    config = BertConfig.load(run / "config.json")
    scores, models = read_scores(run), models or story.read_models(run)
    measure = main_measure(next(iter(scores.values())))

    if prunings:
        draw_pareto(run / "pareto.png", prunings)

    page = _render(
        "report.html",
        title=run.resolve().name,
        record=record,
        config=config,
        data=results.get("data", []),
        measure=measure,
        best_epoch=results.get("best_epoch"),
        tagger_answers=story.tagger_answers(scores),
        scores=tables.score_rows(scores),
        training=_data_url(run / "training.png"),
        ablations=[_ablation(run / name, part, config) for name, part in ablations.items()],
        selections=sorted({model.pruned.selection for model in models if model.pruned}),
        pruning_answers=story.pruning_answers(models, measure),
        prunings=[
            {
                "name": name,
                "rows": tables.pruning_rows(of_folder),
                "gates": _data_url(run / name / "gates.png"),
            }
            for name, of_folder in prunings.items()
        ],
        pareto=_data_url(run / "pareto.png"),
        keyphrase_answers=story.keyphrase_answers(models),
        keyphrases=story.keyphrase_rows(models),
        texts=[_sample(text, models) for text in texts],
        heads=_text_by_head(texts, ablations),
        closing=story.closing_rows(models, scores),
        has_other_documents=any(" documents)" in model.title for model in models),
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


def _ablation(folder: Path, ablation: Ablation, config: BertConfig) -> dict[str, Any]:
    effects, profile = ablation.single["dev"].heads, ablation.attention["test"]
    maps = [effects_map({name: effect["loss"] for name, effect in effects.items()}, config)]
    if "AP" in next(iter(profile.values())):
        maps.append(attention_map({name: head["AP"] for name, head in profile.items()}, config))
    return {
        "name": _name_of_study(folder),
        "answers": tables.ablation_answers(ablation),
        "maps": maps,
        "heads": tables.head_rows(ablation),
        "orders": tables.curve_rows(ablation.curves),
        "curves": _data_url(folder / "curves.png"),
    }


def _name_of_study(folder: Path) -> str:
    """The folder of a study, and the settings that make its numbers others than those of the run.
    Older versions did not record them."""
    settings = read_object(folder / "run.json").get("settings", {})
    parts = [folder.name]
    if count := settings.get("documents"):
        parts.append(f"first {count} documents")
    if settings.get("precision", "float32") != "float32":
        parts.append(settings["precision"])
    return ", ".join(parts)


# Texts ------------------------------------------------------------------------------------------


def _sample(text: Mapping[str, Any], models: Sequence[story.RunModel]) -> dict[str, Any]:
    """A text of texts.json, shaded by the tagger's probability, and the phrases that the attention
    of each model ranks first in it."""
    spans = [(start, end) for start, end in text["spans"]]
    pieces = text_pieces(
        text["text"], text["words"], text["weights"], spans, text["gold"], largest=1.0
    )
    ranked = {
        model.title: model.keyphrases.texts.get(text["id"], [])
        for model in models
        if model.keyphrases
    }
    return {"id": text["id"], "pieces": pieces, "ranked": ranked}


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
