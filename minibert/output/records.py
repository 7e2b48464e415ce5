"""What rank.py extract writes of each document: a JSON line, and a row of the page."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

from scipy.sparse import csc_array

from minibert.data.documents import Document
from minibert.evaluation.metrics import Array
from minibert.heads.links import strongest_links
from minibert.keyphrases.ranker import Ranker
from minibert.phrases.ranking import Keyphrase
from minibert.search.bm25 import impacts, whole_vector

Layout = Literal["keyphrases", "weights", "vectors", "graph"]
PageRow = tuple[Document, Array, list[Keyphrase]]  # word weights (words,), ranked phrases
WritePhrases = Callable[[Document, Sequence[Keyphrase]], str]

# A terminal may obey these, and json.dumps does not escape them.
CONTROLS = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}


def make_lines(
    documents: Sequence[Document],
    ranker: Ranker,
    layout: Layout,
    strongest: int,
    mixing: float,
    has_page: bool,
    write_phrases: WritePhrases,
) -> tuple[list[str], list[PageRow]]:
    """A JSON line and a row of the page for each document; no rows with the layout "graph".

    `strongest`: links from each word in a graph. `mixing`: see `impacts`. `has_page`: the rows need
    phrases whatever the layout. `write_phrases`: `keyphrases_line`, or another for "keyphrases".
    """
    if layout == "graph":
        graphs = [
            graph_record(document, links, strongest)
            for document, links in zip(documents, ranker.links(documents))
        ]
        return list(map(_to_line, graphs)), []

    rows = []
    for document, analysis in zip(documents, ranker.analyse(documents)):
        needs_phrases = has_page or layout == "keyphrases"
        phrases = ranker.keyphrases(analysis) if needs_phrases else []
        rows.append((document, analysis.weights, phrases))

    if layout == "keyphrases":
        return [write_phrases(document, phrases) for document, _, phrases in rows], rows
    if layout == "vectors":
        lines = [whole_vector(d, impacts(d, weights, mixing)) for d, weights, _ in rows]
    else:
        lines = [weights_record(document, weights) for document, weights, _ in rows]
    return list(map(_to_line, lines)), rows


def _to_line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False).translate(CONTROLS) + "\n"


def keyphrases_line(document: Document, phrases: Sequence[Keyphrase]) -> str:
    """Ranked keyphrases, each with its score and every occurrence."""
    return _to_line({"id": document.id, "keyphrases": [phrase._asdict() for phrase in phrases]})


def weights_record(document: Document, weights: Array) -> dict[str, Any]:
    """Every word with its weight."""
    words = [word | {"weight": w} for word, w in zip(_words(document), weights.tolist())]
    return {"id": document.id, "words": words}


def graph_record(document: Document, links: csc_array, strongest: int) -> dict[str, Any]:
    """Node-link data of the `strongest` links from each word, as networkx.node_link_graph reads
    it."""
    return {
        "directed": True,
        "multigraph": False,
        "graph": {"id": document.id},
        "nodes": [{"id": i} | word for i, word in enumerate(_words(document))],
        "edges": [
            {"source": i, "target": j, "weight": strength}
            for i, j, strength in strongest_links(links, strongest)
        ],
    }


def _words(document: Document) -> list[dict[str, Any]]:
    return [
        {"text": document.text[start:end], "span": [start, end]} for start, end in document.words
    ]
