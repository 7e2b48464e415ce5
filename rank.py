"""Use attention heads: keyphrases, word weights and links of any text, and search.

extract: keyphrases (or word weights, vectors, graphs) of texts, as JSON lines. fit: choose the
heads that rank keyphrases best. evaluate: score them, beside all heads and baselines. search:
weight the words of a search index by them, and score the search.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from minibert.config import head_name
from minibert.data.batches import chunks
from minibert.data.corpus import document_file, read_documents
from minibert.data.documents import OUTSIDE, Document, share_in_text, word_labels
from minibert.data.texts import read_texts
from minibert.errors import check, check_fields
from minibert.evaluation import intervals
from minibert.files import atomic_path, write_json, write_text
from minibert.keyphrases import comparison
from minibert.keyphrases.choice import choose_heads, f1_of_all, full_name
from minibert.keyphrases.ranker import Ranker, RankSettings
from minibert.phrases.scores import distinct
from minibert.report import page, records, tables
from minibert.runtime import cli, distributed
from minibert.runtime.folder import only_writer
from minibert.search import tuning
from minibert.search.bm25 import Index
from minibert.search.collection import collection_files, read_collection

PAGE = 100  # texts on a page at most


@dataclass(frozen=True)
class Extract(RankSettings):
    """Keyphrases, word weights, vectors or graphs of texts, in the order of the input."""

    files: cli.Positional[tuple[Path, ...]] = ()
    """JSON lines with id and text, recognised by the first line, or plain texts, one a file. By
    default JSON lines from standard input."""

    out: Path | None = None
    """File to write; by default standard output."""

    format: records.Layout = "keyphrases"
    """keyphrases: with score and every occurrence (characters); weights: of every word; vectors:
    impacts of terms, for an inverted index (Anserini); graph: words and links, as node-link
    data."""

    top: int | None = 10
    """Most keyphrases of a text."""

    strongest: int = 5
    """graph: the number of links from each word."""

    mixing: float = 0.5
    """vectors: the share of the weights in a term's frequency; the rest is counts."""

    html: Path | None = None
    """Also write a page: words shaded by weight, keyphrases underlined."""

    skip_errors: bool = False
    """Skip wrong lines, and count them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.mixing <= 1, "--mixing must be in [0, 1]")
        check(self.strongest >= 1, "--strongest must be at least 1")
        has_page = self.html and self.format == "graph"
        check(not has_page, "--html shows weights and keyphrases; leave out --format graph")


@dataclass(frozen=True)
class Fit(RankSettings):
    """Choose the heads whose attention ranks keyphrases best, on documents with keyphrases."""

    data: cli.Positional[Path] = cli.MISSING
    """Documents with keyphrases to choose on: never those to report on."""

    out: Path = Path("heads.json")
    """File for the choice, for --heads."""

    most: int = 8
    """The largest number of heads."""

    heads: cli.Suppress[str] = "all"
    """Every head of the model may be chosen."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.most >= 1, "--most must be at least 1")
        by_attention = self.weights == "received" and self.candidates != "tagger"
        check(by_attention, "heads are chosen by attention received, without a tagger")
        by_score = not self.top and not self.diversity
        check(by_score, "leave out --top and --diversity: heads are chosen without them")


@dataclass(frozen=True)
class Evaluate(RankSettings):
    """Score keyphrases and word weights of these heads, beside all heads and baselines."""

    data: cli.Positional[Path] = cli.MISSING
    """Documents with keyphrases to report on."""

    dev: Path | None = None
    """Other documents, to choose the best single head on."""

    out: Path | None = None
    """File for the scores as JSON."""


@dataclass(frozen=True)
class Search:
    """Search with BM25 whose term frequencies are mixed with word weights, everything tuned by
    cross-validation over queries, beside plain BM25, IDF and all heads."""

    data: cli.Positional[Path] = cli.MISSING
    """Folder with corpus.jsonl, queries.jsonl and qrels.tsv or qrels/test.tsv."""

    model: str = RankSettings.model
    """Folder or Hub id of an encoder, or a run folder of train.py or prune.py."""

    heads: str = RankSettings.heads
    """As for extract."""

    damping: float = RankSettings.damping
    """PageRank: the probability of following a link."""

    out: Path | None = None
    """File for the scores as JSON."""

    def __post_init__(self) -> None:
        check_fields(self)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, Extract | Fit | Evaluate | Search, __doc__, argv)


def run(settings: Extract | Fit | Evaluate | Search) -> None:
    # Under torchrun, extract runs in several processes, and one of them writes.
    writes = not isinstance(settings, Extract) or distributed.join()
    with only_writer(settings.out if writes else None):
        if isinstance(settings, Extract):
            extract(settings)
        elif isinstance(settings, Fit):
            fit(settings)
        elif isinstance(settings, Evaluate):
            evaluate(settings)
        else:
            search(settings)


# Extract ----------------------------------------------------------------------------------------


def extract(settings: Extract) -> None:
    if settings.html:
        cli.require("report")
    is_writer = distributed.join()
    check(
        distributed.size() == 1 or settings.files,
        "several processes cannot share standard input: name files",
    )
    ranker = Ranker(settings)
    skipped: list[str] | None = [] if settings.skip_errors else None
    page_rows: list[records.PageRow] = []
    count = without = 0

    with ExitStack() as stack:
        out = stack.enter_context(open_output(settings.out if is_writer else None))
        bar = stack.enter_context(tqdm(desc="texts", unit="text", disable=not is_writer or None))
        compute = partial(
            records.make_lines,
            ranker=ranker,
            layout=settings.format,
            strongest=settings.strongest,
            mixing=settings.mixing,
            has_page=bool(settings.html),
        )

        # Each process computes some of the chunks; all of them get every result, in order.
        parts = chunks(read_texts(settings.files, skipped))
        for lines, rows in distributed.map_in_order(compute, parts):
            for line in lines if is_writer else ():
                print(line, file=out)
            page_rows += rows[: PAGE - len(page_rows)]
            without += sum(not phrases for _, _, phrases in rows)
            bar.update(len(lines))
            count += len(lines)

    if is_writer:
        if settings.html:
            write_page(settings.html, page_rows, count)
        if without and settings.format == "keyphrases":
            print(f"{without} of {count} texts have no candidate for a keyphrase", file=sys.stderr)
        if skipped:
            print(f"{len(skipped)} lines skipped; the first: {skipped[0]}", file=sys.stderr)


@contextmanager
def open_output(path: Path | None) -> Iterator[TextIO]:
    """A file that is complete or not there, or standard output."""
    if path is None:
        cli.encode_output(encoding="utf-8")  # of JSON, whatever the terminal shows
        yield sys.stdout
    else:
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            yield file


def write_page(path: Path, rows: Sequence[records.PageRow], count: int) -> None:
    write_text(path, page.texts_page("Keyphrases", rows))
    if count > PAGE:
        print(f"{path} shows the first {PAGE} of {count} texts", file=sys.stderr)


# Fit --------------------------------------------------------------------------------------------


def fit(settings: Fit) -> None:
    ranker = Ranker(settings)
    documents = read_labelled(settings, settings.data)
    tasks = list(comparison.choice_tasks(ranker, with_progress(documents)))
    steps = choose_heads(tasks, settings.most)
    names = [comparison.head_names(ranker)[step.head] for step in steps]
    score_of_all = f1_of_all(tasks)

    print(f"F1@10 on {settings.data}, percent: all heads {100 * score_of_all:.1f}")
    for name, step in zip(names, steps):
        print(f"  + {name:6} {100 * step.score:.1f}")
    choice = {
        "heads": dict.fromkeys(names, 1),
        "model": full_name(settings.model),
        "candidates": settings.candidates,
        "data": str(settings.data),
        "F1@10": {
            "all_heads": score_of_all,
            "best_head": steps[0].score,
            "chosen": steps[-1].score,
        },
    }
    write_json(settings.out, choice)
    print(f"The choice is in {settings.out}; use it with --heads {settings.out}")


def read_labelled(settings: RankSettings, path: Path) -> list[Document]:
    """Documents with keyphrases; for noun phrases with the words and tags of NAME.pos.jsonl. Prints
    how many are left out, and the share of the keyphrases that the texts contain."""
    all_documents = read_documents(path)
    documents = [document for document in all_documents if distinct(document.keyphrases or ())]
    check(documents, f"{path}: no document has keyphrases")

    if settings.candidates == "nouns":
        tags = document_file(path).with_suffix(".pos.jsonl")
        tagged = {document.id: document for document in read_documents(tags)}
        for document in documents:
            check(document.id in tagged, f"{tags}: no document {document.id!r}")
        documents = [tagged[d.id]._replace(keyphrases=d.keyphrases) for d in documents]

    print(
        f"{path}: {len(documents)} documents, {len(all_documents) - len(documents)} without "
        f"keyphrases skipped; {share_in_text(documents):.1%} of the keyphrases occur in the text"
    )
    return documents


def with_progress(documents: Sequence[Document]) -> Iterator[Document]:
    yield from tqdm(documents, desc="attention", unit="text", disable=None)


# Evaluate ---------------------------------------------------------------------------------------


def evaluate(settings: Evaluate) -> None:
    ranker = Ranker(settings)
    documents = read_labelled(settings, settings.data)
    labels = {label for document in documents for label in word_labels(document, "io")}
    check(labels - {OUTSIDE}, f"{settings.data}: no keyphrase occurs in its text: nothing to find")

    best_head = None
    if settings.dev:
        dev = read_labelled(settings, settings.dev)
        on_dev = comparison.f1_by_head(ranker, with_progress(dev))
        best_head = max(on_dev, key=on_dev.__getitem__)
    values, alone = comparison.compare(ranker, with_progress(documents), best_head)
    shown = ("F1@5", "F1@10", "F1@15", "micro F1@10", "present F1@10", "F1@O", "P@10", "AP")
    table = {
        way: {measure: intervals.interval(scores[measure]) for measure in shown}
        for way, scores in values.items()
    }

    print(
        f"{len(documents)} documents, 95 % intervals over them; "
        "AP: of the words of a document, the mean over documents"
    )
    print(tables.as_text(tables.score_rows(table)))
    f1 = {way: scores["F1@10"] for way, scores in values.items()}
    print("\n".join(tables.f1_lines(f1, alone)))
    if settings.out:
        record = {"heads": names_of_heads(ranker), "test": table, "f1_by_head": alone}
        write_json(settings.out, record)


def names_of_heads(ranker: Ranker) -> dict[str, float]:
    return {head_name(head): weight for head, weight in ranker.heads.items()}


# Search -----------------------------------------------------------------------------------------


def search(settings: Search) -> None:
    cli.require("search")
    ranking = RankSettings(model=settings.model, heads=settings.heads, damping=settings.damping)
    ranker = Ranker(ranking)
    collection = read_collection(*collection_files(settings.data))
    index = Index.build(collection.documents)
    ways = tuning.search_weights(ranker, collection, index, with_progress(collection.documents))
    bar = partial(tqdm, desc="tune", disable=None)
    compared = tuning.compare(collection, index, ways, bar)

    print(
        f"{len(collection.documents)} documents, {len(collection.queries)} queries "
        f"({compared.outcomes[tuning.TUNED].unmatched} without a known term)"
    )
    if collection.note:
        print(collection.note)
    print(
        f"95 % intervals over queries; p against {compared.baseline}, the better of the two by "
        "nDCG@10, by a randomisation test. Uniform weights are BM25 itself."
    )
    if compared.random:
        print(
            f"Random heads: as many as these, {len(compared.random)} draws; median and, in "
            "brackets, the lowest and the highest."
        )
    table = tuning.summarise(compared)
    print(tables.as_text(tables.search_rows(table)))
    if settings.out:
        heads = names_of_heads(ranker)
        record = {"heads": heads, "baseline": compared.baseline, "test": table}
        write_json(settings.out, record)


if __name__ == "__main__":
    sys.exit(main())
