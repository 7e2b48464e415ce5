"""What rank.py extract writes of a document, as values for JSON."""

from collections.abc import Sequence
from typing import Any

from scipy.sparse import csc_array

from minibert.data.documents import Document
from minibert.evaluation.metrics import Array
from minibert.heads.links import strongest_links
from minibert.keyphrases.phrases import Keyphrase


def keyphrases_record(document: Document, phrases: Sequence[Keyphrase]) -> dict[str, Any]:
    """Ranked keyphrases, each with its score and every occurrence."""
    return {"id": document.id, "keyphrases": [phrase._asdict() for phrase in phrases]}


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
