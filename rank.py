"""Use attention heads: keyphrases, word weights and links of any text, and search.

extract: keyphrases (or word weights, vectors, graphs) of texts, as JSON lines. fit: choose the
heads that pick keyphrases best. evaluate: score them, beside all heads and baselines. search: weigh
the words of a search index by them, and score the search.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from minibert import cli, metrics, page, processes, report, retrieval
from minibert.attention import Links, received_by_head
from minibert.config import head_of, name_of
from minibert.data import (
    OUTSIDE,
    Document,
    field,
    make_windows,
    parse_document,
    parse_object,
    read_documents,
    word_labels,
)
from minibert.errors import InputError
from minibert.evaluation import content, word_measures
from minibert.files import replacing, write_json, write_text
from minibert.heads import Task, choose_heads, f1_of_all, f1_of_each, make_task
from minibert.keyphrases import Keyphrase, Run, group, phrase_measures
from minibert.metrics import Array
from minibert.ranking import Linker, LinkSettings, Ranker, RankSettings, chunks, neighbours
from minibert.tokenizer import word_spans

PAGE = 100  # texts on a page at most


@dataclass(frozen=True)
class Extract(RankSettings):
    """Keyphrases, word weights, vectors or graphs of texts, in the order of the input."""

    files: cli.Positional[tuple[Path, ...]] = ()
    """JSON lines with id and text (*.json, *.jsonl), or plain texts, one a file; none: JSON lines
    from standard input."""
    out: Path | None = None
    """File to write; by default standard output."""
    format: Literal["keyphrases", "weights", "vectors", "graph"] = "keyphrases"
    """keyphrases: with score and every place (characters); weights: of every word; vectors: impacts
    of terms, for an inverted index (Anserini); graph: words and links, as node-link data."""
    top: int | None = 10
    """Most keyphrases of a text."""
    strongest: int = 5
    """graph: links kept of each word."""
    mixing: float = 0.5
    """vectors: the share of the weights in a term's frequency; the rest is counts."""
    html: Path | None = None
    """Also a page: words shaded by weight, keyphrases underlined."""
    skip_errors: bool = False
    """Go on after a line that is no text, and count them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.mixing <= 1:
            raise InputError("--mixing must be in [0, 1]")
        if self.strongest < 1:
            raise InputError("--strongest must be at least 1")
        if self.html and self.format == "graph":
            raise InputError("--html shows weights and keyphrases; leave out --format graph")


@dataclass(frozen=True)
class Fit(RankSettings):
    """Choose the heads whose attention picks keyphrases best, on documents with keyphrases."""

    data: cli.Positional[Path] = cli.MISSING
    """Documents with keyphrases to choose on: never those to report on."""
    out: Path = Path("heads.json")
    """File for the choice, for --heads."""
    heads: str = "all"
    """Ignored: every head of the model may be chosen."""
    most: int = 8
    """Most heads to take."""
    again: bool = False
    """A head may be taken more than once: weights instead of a plain choice."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.most < 1:
            raise InputError("--most must be at least 1")
        if self.weights != "received" or self.candidates == "tagger":
            raise InputError("heads are chosen by attention received, without a tagger")


@dataclass(frozen=True)
class Evaluate(RankSettings):
    """Score keyphrases and word weights of these heads, beside all heads and baselines."""

    data: cli.Positional[Path] = cli.MISSING
    """Documents with keyphrases to report on."""
    dev: Path | None = None
    """Others, to choose the best single head and the thresholds of word weights on."""
    out: Path | None = None
    """File for the scores as JSON."""


@dataclass(frozen=True)
class Search(LinkSettings):
    """Search with BM25 whose term frequencies are mixed with word weights, everything tuned by
    cross-validation over queries, beside plain BM25, IDF and all heads."""

    data: cli.Positional[Path] = cli.MISSING
    """Folder with corpus.jsonl, queries.jsonl and qrels.tsv."""
    out: Path | None = None
    """File for the scores as JSON."""


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, Extract | Fit | Evaluate | Search, __doc__, argv)


def run(settings: Extract | Fit | Evaluate | Search) -> None:
    of = {Extract: extract, Fit: fit, Evaluate: evaluate, Search: search}
    of[type(settings)](settings)


# Extract ----------------------------------------------------------------------------------------


def extract(settings: Extract) -> None:
    if settings.html:
        cli.require("report")
    writes = processes.join()
    if processes.size() > 1 and not settings.files:
        raise InputError("several processes cannot share standard input: name files")
    ranker = Ranker(settings)
    skipped: list[str] = []
    shown: list = []
    count = without = 0
    with ExitStack() as stack:
        out = sys.stdout
        if settings.out and writes:
            temporary = stack.enter_context(replacing(settings.out))
            out = stack.enter_context(temporary.open("w", encoding="utf-8"))
        quiet = None if writes else True
        bar = stack.enter_context(tqdm(desc="texts", unit="text", disable=quiet))
        parts = chunks(read_texts(settings, skipped))
        for lines, rows in processes.in_order(partial(results, settings, ranker), parts):
            for line in lines if writes else ():
                print(line, file=out)
            shown += rows[: PAGE - len(shown)] if settings.html else []
            if settings.format == "keyphrases":
                without += sum(not phrases for _, _, phrases in rows)
            bar.update(len(lines))
            count += len(lines)
    if settings.html and writes:
        write_text(settings.html, page.texts_page("Keyphrases", shown))
        if count > PAGE:
            print(f"{settings.html} shows the first {PAGE} of {count} texts", file=sys.stderr)
    if without and writes:
        print(f"{without} of {count} texts have no candidate for a keyphrase", file=sys.stderr)
    if skipped and writes:
        print(f"{len(skipped)} lines skipped; the first: {skipped[0]}", file=sys.stderr)


def results(
    settings: Extract, ranker: Ranker, documents: list[Document]
) -> tuple[list[str], list[tuple[Document, Array, list[Keyphrase]]]]:
    """A JSON line for each document, and what a page shows of it."""
    rows = []
    if settings.format == "graph":
        found = [
            graph(document, links.strongest(settings.strongest))
            for document, links in zip(documents, ranker.links(documents))
        ]
    else:
        ranks = settings.html or settings.format == "keyphrases"
        for document, (weights, runs) in zip(documents, ranker.analyse(documents)):
            phrases = ranker.keyphrases(document, weights, runs) if ranks else []
            rows.append((document, weights, phrases))
        found = [told(settings, *row) for row in rows]
    return [json.dumps(line, ensure_ascii=False) for line in found], rows


def read_texts(settings: Extract, skipped: list[str]) -> Iterator[Document]:
    """The texts of the input, one after another; what is wrong goes to `skipped`, or is raised."""
    for path in settings.files or [None]:
        if path and not path.suffix.lower().startswith(".json"):
            try:
                text = path.read_bytes().decode("utf-8-sig")  # line ends as they are
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"{path}: not readable as UTF-8 text ({error})") from None
            yield Document(path.name, text, word_spans(text))
            continue
        try:
            stream = path.open("rb") if path else sys.stdin.buffer
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        with stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    try:
                        yield parse_text(line, f"{path or 'standard input'}:{number}", number)
                    except InputError as error:
                        if not settings.skip_errors:
                            raise
                        skipped.append(str(error))


def parse_text(line: bytes, where: str, number: int) -> Document:
    try:
        raw = parse_object(line.decode("utf-8-sig"), where)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error})") from None
    if "words" in raw or "sents" in raw:  # with their labels
        return parse_document(json.dumps({"id": number} | raw), where)
    id = field({"id": number} | raw, "id", str | int, where)
    text = field(raw, "text", str, where)
    return Document(str(id), text, word_spans(text))


def told(settings: Extract, document: Document, weights: Array, phrases: list[Keyphrase]) -> dict:
    """What is written of a document."""
    if settings.format == "keyphrases":
        return {"id": document.id, "keyphrases": [phrase._asdict() for phrase in phrases]}
    if settings.format == "vectors":
        terms = retrieval.impacts(document, weights, settings.mixing)
        return retrieval.whole_vector(document, terms)
    words = [
        {"text": document.text[start:end], "span": [start, end], "weight": weight}
        for (start, end), weight in zip(document.words, weights.tolist())
    ]
    return {"id": document.id, "words": words}


def graph(document: Document, links: list[tuple[int, int, float]]) -> dict:
    """Node-link data, as networkx.node_link_graph reads it."""
    edges = [{"source": i, "target": j, "weight": strength} for i, j, strength in links]
    nodes = [
        {"id": i, "text": document.text[start:end], "span": [start, end]}
        for i, (start, end) in enumerate(document.words)
    ]
    about = {"id": document.id}
    return {"directed": True, "multigraph": False, "graph": about, "nodes": nodes, "edges": edges}


# Fit --------------------------------------------------------------------------------------------


def received(ranker: Linker, documents: Sequence[Document]) -> Iterator[Array]:
    """(words, layers, heads) of each document: what every head alone gives each word."""
    with tqdm(total=len(documents), desc="heads", unit="text", disable=None) as bar:
        for part in chunks(documents):
            windows = make_windows(part, ranker.tokenizer, ranker.longest)
            yield from received_by_head(ranker.bert, windows, part, ranker.settings.strength)
            bar.update(len(part))


def tasks_of(ranker: Ranker, documents: Sequence[Document], by_head: Iterable[Array]) -> list[Task]:
    """What `choose_heads` takes; `by_head` as `received` gives it."""
    aggregate = ranker.settings.aggregate
    return [
        make_task(d, group(d, ranker.candidate_runs(d)), each, aggregate)
        for d, each in zip(documents, by_head)
    ]


def fit(settings: Fit) -> None:
    ranker = Ranker(settings)
    documents = labelled(settings, settings.data)
    tasks = tasks_of(ranker, documents, received(ranker, documents))
    every = [name_of(head) for head in np.ndindex(ranker.shape)]
    steps = choose_heads(tasks, settings.most, settings.again)
    names = [every[step.head] for step in steps]
    together = f1_of_all(tasks)
    print(f"F1@10 on {settings.data}, percent: all heads {100 * together:.1f}")
    for name, step in zip(names, steps):
        print(f"  + {name:6} {100 * step.score:.1f}")
    write_json(
        settings.out,
        {
            "heads": {name: names.count(name) for name in names},
            "model": settings.model,
            "strength": settings.strength,
            "candidates": settings.candidates,
            "data": str(settings.data),
            "F1@10": {
                "all heads": together,
                "best head": steps[0].score,
                "chosen": steps[-1].score,
            },
        },
    )
    print(f"The choice is in {settings.out}; use it with --heads {settings.out}")


def labelled(settings: RankSettings, path: Path) -> list[Document]:
    """Documents with keyphrases; for noun phrases with the words and tags of NAME.pos.jsonl."""
    documents = [document for document in read_documents(path) if document.keyphrases]
    if not documents:
        raise InputError(f"{path}: no document has keyphrases")
    if settings.candidates != "nouns":
        return documents
    tags = path.with_suffix(".pos.jsonl")
    tagged = {document.id: document for document in read_documents(tags)}
    if missing := [d.id for d in documents if d.id not in tagged]:
        raise InputError(f"{tags}: no document {missing[0]!r}")
    return [tagged[d.id]._replace(keyphrases=d.keyphrases) for d in documents]


# Evaluate ---------------------------------------------------------------------------------------


def evaluate(settings: Evaluate) -> None:
    ranker = Ranker(settings)
    documents = labelled(settings, settings.data)
    gold = inside(documents)
    if not any(found.any() for found in gold):
        raise InputError(f"{settings.data}: no keyphrase stands in its text: nothing to find")
    dev = labelled(settings, settings.dev) if settings.dev else []
    by_head, dev_by_head = (list(received(ranker, part)) for part in (documents, dev))
    alone, best = {}, None
    if settings.candidates != "tagger":
        alone = f1_by_name(ranker, documents, by_head)
        if dev:
            on_dev = f1_by_name(ranker, dev, dev_by_head)
            best = max(on_dev, key=on_dev.get)
    rows, runs = weighings(ranker, documents, by_head, best)
    dev_rows, _ = weighings(ranker, dev, dev_by_head, best)
    dev_gold = inside(dev)
    draws = metrics.resamples(len(documents))
    values = {}
    for name, weights in rows.items():
        ranked = [
            [phrase.text for phrase in ranker.keyphrases(*each)]
            for each in zip(documents, weights, runs)
        ]
        values[name] = phrase_measures(documents, ranked, draws)
        values[name] |= of_words(gold, weights, dev_gold, dev_rows.get(name), draws)
    shown = ("F1@5", "F1@10", "F1@15", "micro F1@10", "present F1@10", "F1@O", "P@10", "AP", "F1")
    table = {
        name: {m: metrics.interval(found[m]) for m in shown if m in found}
        for name, found in values.items()
    }
    print(f"{len(documents)} documents, 95 % intervals over them; AP and F1 of single words")
    print(report.as_text(report.score_rows(table)))
    show_f1({name: found["F1@10"] for name, found in values.items()}, alone)
    if settings.out:
        told = {"heads": names_of(ranker), "test": table, "F1@10 of each head": alone}
        write_json(settings.out, told)


def f1_by_name(
    ranker: Ranker, documents: Sequence[Document], by_head: Sequence[Array]
) -> dict[str, float]:
    """{head: F1@10 of its weights alone}."""
    names = (name_of(head) for head in np.ndindex(ranker.shape))
    return dict(zip(names, f1_of_each(tasks_of(ranker, documents, by_head)).tolist()))


def show_f1(values: Mapping[str, Array], alone: Mapping[str, float]) -> None:
    """How F1@10 of each way differs from the first's, and what every head has alone."""
    first, *others = values
    for name, change in zip(others, metrics.changes(np.stack([*values.values()], axis=1))):
        print(
            f"F1@10, {name} less {first}: {100 * change.value:+.1f} "
            f"[{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
        )
    if alone:
        print(
            f"F1@10 of every head alone: mean {100 * np.mean([*alone.values()]):.1f}, highest "
            f"{100 * max(alone.values()):.1f} ({max(alone, key=alone.get)}, by this very set)"
        )


def names_of(ranker: Linker) -> dict[str, float]:
    return {name_of(head): weight for head, weight in ranker.heads.items()}


def weighings(
    ranker: Ranker, documents: Sequence[Document], by_head: Sequence[Array], best: str | None
) -> tuple[dict[str, list[Array]], list[list[Run]]]:
    """Word weights of every document by name of the method, and where a keyphrase may stand."""
    rows: dict[str, list[Array]] = defaultdict(list)
    runs: list[list[Run]] = []
    marks = "tagger" in (ranker.settings.weights, ranker.settings.candidates)
    marked = (found for part in chunks(documents) for found in ranker.analyse(part))
    for document, every, links in zip(documents, by_head, each_links(ranker, documents)):
        own, at = next(marked) if marks else (None, ranker.candidate_runs(document))
        kept = content(document)
        rows["all heads"].append(every.sum((1, 2)) * kept)
        if best:
            rows[f"best on dev, {best}"].append(every[:, *head_of(best)] * kept)
        rows["these heads"].append(links.received() * kept)
        rows["PageRank of these"].append(ranker.pagerank(links) * kept)
        rows["TextRank"].append(neighbours(document))
        if ranker.rarity:
            rarity = ranker.rarity.of(document)
            rows["tf-idf"].append(rarity * kept)
            rows["these heads, idf"].append(rarity * links.received() * kept)
        if ranker.settings.weights == "tagger":
            rows["tagger"].append(own)
        runs.append(at)
    return rows, runs


def each_links(ranker: Linker, documents: Sequence[Document]) -> Iterator[Links]:
    with tqdm(total=len(documents), desc="links", unit="text", disable=None) as bar:
        for part in chunks(documents):
            yield from ranker.links(part)
            bar.update(len(part))


def of_words(
    gold: Sequence[NDArray],
    weights: Sequence[Array],
    dev_gold: Sequence[NDArray],
    on_dev: Sequence[Array] | None,
    draws: Array,
) -> dict[str, Array]:
    """How well weights tell words that are in a keyphrase; F1 needs a threshold from dev."""
    if not on_dev:
        ranking = metrics.Ranking(gold, weights)
        return {"AP": np.array([ranking.average_precision(w) for w in draws])}
    threshold = metrics.Ranking(dev_gold, on_dev).best_threshold()
    return word_measures(gold, weights, threshold, draws)


def inside(documents: Sequence[Document]) -> list[NDArray]:
    """Per document a boolean array: which words are in a keyphrase."""
    return [np.array(word_labels(d, "io")) != OUTSIDE for d in documents]


# Search -----------------------------------------------------------------------------------------


def search(settings: Search) -> None:
    cli.require("search")
    ranker = Linker(settings)
    files = (settings.data / name for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"))
    collection = retrieval.read_collection(*files)
    rows = search_weights(ranker, collection)
    plain = [retrieval.uniform(document) for document in collection.documents]
    counted, mixed = retrieval.grid([0.0]), retrieval.grid()
    outcomes = {
        "BM25, k1 1.5, b 0.75": retrieval.cross_validate(collection, plain, [retrieval.Setting()]),
        "BM25, tuned": retrieval.cross_validate(collection, plain, counted),
    }
    for name, weights in tqdm(rows.items(), desc="tune", disable=None):
        outcomes[name] = retrieval.cross_validate(collection, weights, mixed)
    unmatched = outcomes["BM25, tuned"].unmatched
    print(
        f"{len(collection.documents)} documents, {len(collection.queries)} queries ({unmatched} "
        "without a known term); p of nDCG@10 against BM25, tuned, by a randomisation test"
    )
    baseline = outcomes["BM25, tuned"].values["nDCG@10"]
    told = {}
    for name, outcome in outcomes.items():
        told[name] = {m: retrieval.average(v) for m, v in outcome.values.items()}
        told[name]["p"] = retrieval.randomisation_test(outcome.values["nDCG@10"], baseline)
    print(report.as_text(report.search_rows(told)))
    if settings.out:
        write_json(settings.out, {"heads": names_of(ranker), "test": told})


def search_weights(ranker: Linker, collection: retrieval.Collection) -> dict[str, list[Array]]:
    """Word weights of every document to search, by name."""
    rows: dict[str, list[Array]] = defaultdict(list)
    documents = collection.documents
    counts = [retrieval.impacts(d, retrieval.uniform(d), 0.0) for d in documents]
    index = retrieval.Index.build(counts)
    for document, by_head, links in zip(
        documents, received(ranker, documents), each_links(ranker, documents)
    ):
        rows["IDF"].append(retrieval.rarity(document, index))
        rows["all heads"].append(by_head.sum((1, 2)))
        rows["these heads"].append(links.received())
        rows["PageRank of these"].append(ranker.pagerank(links))
    return rows


if __name__ == "__main__":
    sys.exit(main())
