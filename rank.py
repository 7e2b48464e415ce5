"""Use attention heads: keyphrases, word weights and links of any text, and search.

extract: keyphrases (or word weights, vectors, graphs) of texts, as JSON lines. fit: choose the
heads that pick keyphrases best. evaluate: score them, beside all heads and baselines. search: weigh
the words of a search index by them, and score the search.
"""

import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from minibert.config import head_name, parse_head
from minibert.data.corpus import document_file, field, parse_document, parse_object, read_documents
from minibert.data.documents import OUTSIDE, Document, is_content_word, share_in_text, word_labels
from minibert.errors import InputError
from minibert.evaluation import intervals, metrics
from minibert.evaluation.metrics import Array
from minibert.files import atomic_path, write_json, write_text
from minibert.heads.links import Links
from minibert.keyphrases import search as search_
from minibert.keyphrases.choice import choose_heads, f1_of_all, make_task
from minibert.keyphrases.phrases import Candidate, Keyphrase, group, rank_phrases
from minibert.keyphrases.ranker import (
    Linker,
    LinkSettings,
    Marks,
    Ranker,
    RankSettings,
    chunks,
    full_name,
    neighbours,
)
from minibert.keyphrases.scores import distinct, phrase_counts, phrase_measures
from minibert.report import page, tables
from minibert.runtime import cli, distributed
from minibert.tokenizer import word_spans

PAGE = 100  # texts on a page at most
BLANK = b" \t\n\r\v\f\xef\xbb\xbf"  # bytes of a blank line, with a byte order mark
# How JSON lines begin, or a list of objects; but not {{Infobox}} or [1].
JSON = re.compile(rb'(\xef\xbb\xbf)?\s*(\{\s*("|\}|$)|\[\s*(\{\s*"|$))')


@dataclass(frozen=True)
class Extract(RankSettings):
    """Keyphrases, word weights, vectors or graphs of texts, in the order of the input."""

    files: cli.Positional[tuple[Path, ...]] = ()
    """JSON lines with id and text, recognised by the first line, or plain texts, one a file; none:
    JSON lines from standard input."""
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
        if self.top or self.diversity:
            raise InputError("leave out --top and --diversity: heads are chosen without them")


@dataclass(frozen=True)
class Evaluate(RankSettings):
    """Score keyphrases and word weights of these heads, beside all heads and baselines."""

    data: cli.Positional[Path] = cli.MISSING
    """Documents with keyphrases to report on."""
    dev: Path | None = None
    """Others, to choose the best single head on."""
    out: Path | None = None
    """File for the scores as JSON."""


@dataclass(frozen=True)
class Search(LinkSettings):
    """Search with BM25 whose term frequencies are mixed with word weights, everything tuned by
    cross-validation over queries, beside plain BM25, IDF and all heads."""

    data: cli.Positional[Path] = cli.MISSING
    """Folder with corpus.jsonl, queries.jsonl and qrels.tsv or qrels/test.tsv."""
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
    writes = distributed.join()
    if distributed.size() > 1 and not settings.files:
        raise InputError("several processes cannot share standard input: name files")
    ranker = Ranker(settings)
    skipped: list[str] = []
    shown: list = []
    count = without = 0
    with ExitStack() as stack:
        cli.encode_output(encoding="utf-8")  # JSON is, whatever the terminal shows
        out = sys.stdout
        if settings.out and writes:
            temporary = stack.enter_context(atomic_path(settings.out))
            out = stack.enter_context(temporary.open("w", encoding="utf-8"))
        quiet = None if writes else True
        bar = stack.enter_context(tqdm(desc="texts", unit="text", disable=quiet))
        parts = chunks(read_texts(settings, skipped))
        for lines, rows in distributed.map_in_order(partial(results, settings, ranker), parts):
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
        if path is None and sys.stdin is None:
            raise InputError("standard input is closed: name files, or give JSON lines to it")
        try:
            stream = path.open("rb") if path else sys.stdin.buffer
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        with stream:
            # A pipe cannot be read twice: the lines that show the format go before the others.
            opening = list(opening_lines(stream))
            lines = chain(opening, stream)
            if path and not is_json_lines(path, b"".join(opening)):
                yield parse_plain(b"".join(lines), path)
            else:
                where = str(path or "standard input")
                yield from parse_lines(lines, where, skipped if settings.skip_errors else None)


def opening_lines(stream: Iterable[bytes]) -> Iterator[bytes]:
    """The lines up to and with the first that is not blank."""
    for line in stream:
        yield line
        if line.strip(BLANK):
            return


def is_json_lines(path: Path, opening: bytes) -> bool:
    """By name, or because the first line begins an object. A list of objects is taken for JSON too:
    it is refused with a sentence, and no text with braces in it."""
    return path.suffix.lower().startswith((".json", ".ndjson")) or bool(JSON.match(opening))


def parse_lines(
    lines: Iterable[bytes], where: str, skipped: list[str] | None
) -> Iterator[Document]:
    for number, line in enumerate(lines, 1):
        if line.strip(BLANK):
            try:
                yield parse_text(line, f"{where}:{number}", number)
            except InputError as error:
                if skipped is None:
                    raise
                skipped.append(str(error))


def parse_plain(content: bytes, path: Path) -> Document:
    try:
        text = content.decode("utf-8-sig")  # line ends as they are
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not readable as UTF-8 text ({error})") from None
    name = os.fsencode(path.name).decode("utf-8", "replace")
    return Document(name, text, word_spans(text))


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
        terms = search_.impacts(document, weights, settings.mixing)
        return search_.whole_vector(document, terms)
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


def fit(settings: Fit) -> None:
    ranker = Ranker(settings)
    documents = labelled(settings, settings.data)
    tasks = [
        make_task(
            document,
            group(document, ranker.candidate_runs(document)),
            ranker.weigh(document, by_head),
            settings.aggregate,
        )
        for document, _, by_head in attended(ranker, documents)
    ]
    every = [head_name(head) for head in ranker.bert.config.present_heads]
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
            "model": full_name(settings.model),
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
    """Documents with keyphrases; for noun phrases with the words and tags of NAME.pos.jsonl. Prints
    what is left out, and how much of the gold can be found."""
    every = read_documents(path)
    documents = [document for document in every if distinct(document.keyphrases or ())]
    if not documents:
        raise InputError(f"{path}: no document has keyphrases")
    if settings.candidates == "nouns":
        tags = document_file(path).with_suffix(".pos.jsonl")
        tagged = {document.id: document for document in read_documents(tags)}
        if missing := [d.id for d in documents if d.id not in tagged]:
            raise InputError(f"{tags}: no document {missing[0]!r}")
        documents = [tagged[d.id]._replace(keyphrases=d.keyphrases) for d in documents]

    print(
        f"{path}: {len(documents)} documents, {len(every) - len(documents)} without keyphrases "
        f"passed over; {share_in_text(documents):.1%} of the keyphrases stand in the text"
    )
    return documents


# Evaluate ---------------------------------------------------------------------------------------


class Example(NamedTuple):
    """A document to score, with what the model makes of it."""

    document: Document
    candidates: list[Candidate]
    links: Links
    by_head: Array  # (words, heads) what each head alone gives, 0 for stop words
    marks: Marks | None  # of a tagger, where one is asked for


def evaluate(settings: Evaluate) -> None:
    ranker = Ranker(settings)
    documents = labelled(settings, settings.data)
    gold = [inside(document) for document in documents]
    if not any(words.any() for words in gold):
        raise InputError(f"{settings.data}: no keyphrase stands in its text: nothing to find")
    best = None
    if settings.dev:
        dev = labelled(settings, settings.dev)
        on_dev = by_name(ranker, [f1_of_each(ranker, e) for e in examples(ranker, dev)])
        best = max(on_dev, key=on_dev.get)

    # Only scores and phrases are kept: the weights of all heads are large.
    ranked: dict[str, list[list[str]]] = defaultdict(list)
    precisions: dict[str, list[float]] = defaultdict(list)
    f1s = []
    for example, words in zip(examples(ranker, documents), gold):
        for name, weights in weighings(ranker, example, best).items():
            phrases = rank_phrases(example.document, example.candidates, weights, settings)
            ranked[name].append([phrase.text for phrase in phrases])
            precisions[name].append(
                metrics.PrecisionRecallCurve([words], [weights]).average_precision()
            )
        f1s.append(f1_of_each(ranker, example))

    draws = intervals.resamples(len(documents))
    values = {name: phrase_measures(documents, each, draws) for name, each in ranked.items()}
    for name, each in precisions.items():
        values[name]["AP"] = metrics.mean_over_documents(np.array(each), draws)
    print(
        f"{len(documents)} documents, 95 % intervals over them; "
        "AP: of the words of a document, the mean over documents"
    )
    show_scores(settings, ranker, values, by_name(ranker, f1s))


def examples(ranker: Ranker, documents: Sequence[Document]) -> Iterator[Example]:
    """Each document, computed when it is asked for."""
    marked = (marks for part in chunks(documents) for marks in ranker.marks(part))
    for (document, links, by_head), marks in zip(attended(ranker, documents), marked):
        candidates = group(document, ranker.candidate_runs(document, marks))
        by_head = by_head * is_content_word(document)[:, None]
        yield Example(document, candidates, links, by_head, marks)


def f1_of_each(ranker: Ranker, example: Example) -> Array:
    """(heads,) F1@10 of every head alone, ranked as the rows of the table are."""
    document, candidates, _, by_head, _ = example
    settings = replace(ranker.settings, top=min(10, ranker.settings.top or 10))
    ranked = [
        distinct(phrase.text for phrase in rank_phrases(document, candidates, weights, settings))
        for weights in by_head.T
    ]
    gold = [distinct(document.keyphrases)] * len(ranked)
    return metrics.f1(phrase_counts(ranked, gold, 10))


def by_name(ranker: Ranker, values: Sequence[Array]) -> dict[str, float]:
    """(heads,) of each document -> {head: mean}."""
    names = map(head_name, ranker.bert.config.present_heads)
    return dict(zip(names, np.mean(values, axis=0).tolist()))


def show_scores(
    settings: Evaluate,
    ranker: Ranker,
    values: Mapping[str, Mapping[str, Array]],
    alone: Mapping[str, float],
) -> None:
    """Print the table, the differences and the single heads; write them to --out."""
    shown = ("F1@5", "F1@10", "F1@15", "micro F1@10", "present F1@10", "F1@O", "P@10", "AP")
    table = {
        name: {measure: intervals.interval(scores[measure]) for measure in shown}
        for name, scores in values.items()
    }
    print(tables.as_text(tables.score_rows(table)))
    show_f1({name: scores["F1@10"] for name, scores in values.items()}, alone)
    if settings.out:
        record = {"heads": names_of(ranker), "test": table, "F1@10 of each head": alone}
        write_json(settings.out, record)


def show_f1(values: Mapping[str, Array], alone: Mapping[str, float]) -> None:
    """How F1@10 of each way differs from the first's, and what every head has alone."""
    first, *others = values
    for name, change in zip(others, intervals.changes(np.stack([*values.values()], axis=1))):
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
    return {head_name(head): weight for head, weight in ranker.heads.items()}


def weighings(ranker: Ranker, example: Example, best: str | None) -> dict[str, Array]:
    """(words,) weights by name of the method."""
    document, _, links, by_head, marks = example
    is_content = is_content_word(document)
    these = which(ranker)
    rows = {"all heads": by_head.sum(1)}
    if best:
        number = ranker.bert.config.present_heads.index(parse_head(best))
        rows[f"best on dev, {best}"] = by_head[:, number]
    rows[f"{these} heads"] = (
        links.received() * is_content
    )  # the first row again where these are all
    rows[f"PageRank of {these}"] = ranker.pagerank(links) * is_content
    rows["TextRank"] = neighbours(document)
    if ranker.rarity:
        rarity = ranker.rarity.of(document)
        rows["tf-idf"] = rarity * is_content
        rows[f"{these} heads, idf"] = ranker.weigh(document, links.received())
    if ranker.settings.weights == "tagger":
        rows["tagger"] = ranker.weigh(document, marks.probabilities)
    return rows


def which(ranker: Linker) -> str:
    """What a table calls its heads; "all" where they are, so that no row stands there twice."""
    return "all" if ranker.has_all_heads else "these"


def attended(
    ranker: Linker, documents: Sequence[Document]
) -> Iterator[tuple[Document, Links, Array]]:
    """Each document with its links, and (words, heads) what every head alone gives each word."""
    with tqdm(total=len(documents), desc="attention", unit="text", disable=None) as bar:
        for part in chunks(documents):
            yield from zip(part, *ranker.links_and_received(part))
            bar.update(len(part))


def inside(document: Document) -> NDArray:
    """(words,) whether each is in a keyphrase."""
    return np.array(word_labels(document, "io")) != OUTSIDE


# Search -----------------------------------------------------------------------------------------


def search(settings: Search) -> None:
    cli.require("search")
    ranker = Linker(settings)
    collection = search_.read_collection(*search_.collection_files(settings.data))
    rows = search_weights(ranker, collection)
    plain = [search_.uniform(document) for document in collection.documents]
    counted, mixed = search_.grid([0.0]), search_.grid()
    outcomes = {
        "BM25, k1 1.5, b 0.75": search_.cross_validate(collection, plain, [search_.Setting()]),
        "BM25, tuned": search_.cross_validate(collection, plain, counted),
    }
    for name, weights in tqdm(rows.items(), desc="tune", disable=None):
        outcomes[name] = search_.cross_validate(collection, weights, mixed)
    unmatched = outcomes["BM25, tuned"].unmatched
    print(
        f"{len(collection.documents)} documents, {len(collection.queries)} queries ({unmatched} "
        "without a known term); p of nDCG@10 against BM25, tuned, by a randomisation test"
    )
    if collection.note:
        print(collection.note)
    baseline = outcomes["BM25, tuned"].values["nDCG@10"]
    told = {}
    for name, outcome in outcomes.items():
        told[name] = {m: search_.average(v) for m, v in outcome.values.items()}
        told[name]["p"] = search_.randomisation_test(outcome.values["nDCG@10"], baseline)
    print(tables.as_text(tables.search_rows(told)))
    if settings.out:
        write_json(settings.out, {"heads": names_of(ranker), "test": told})


def search_weights(ranker: Linker, collection: search_.Collection) -> dict[str, list[Array]]:
    """Word weights of every document to search, by name."""
    rows: dict[str, list[Array]] = defaultdict(list)
    documents = collection.documents
    counts = [search_.impacts(d, search_.uniform(d), 0.0) for d in documents]
    index = search_.Index.build(counts)
    these = which(ranker)
    for document, links, by_head in attended(ranker, documents):
        weights = {
            "IDF": search_.rarity(document, index),
            "all heads": by_head.sum(1),
            f"{these} heads": links.received(),
            f"PageRank of {these}": ranker.pagerank(links),
        }
        for name, of_words in weights.items():
            rows[name].append(of_words)
    return rows


if __name__ == "__main__":
    sys.exit(main())
