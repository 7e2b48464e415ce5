"""Use attention heads: keyphrases, word weights and links of any text, and search.

extract: keyphrases (or word weights, vectors, graphs) of texts. fit: choose heads and fit the score
that ranks keyphrases by their attention. evaluate: measure how well it ranks, beside its controls.
compare: measure it for all heads of a run's tagger, and for those that prune.py left. search:
weight the words of a search index by these heads, and measure the search.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from minibert.config import BertConfig, head_name
from minibert.data.batches import chunks
from minibert.data.corpus import document_file, read_documents
from minibert.data.documents import OUTSIDE, Document, share_in_text, word_labels
from minibert.data.languages import ForeignTexts, in_language
from minibert.data.texts import STANDARD_INPUT, read_texts, reads_standard_input
from minibert.errors import check, check_fields
from minibert.evaluation import intervals
from minibert.evaluation.duration import describe_seconds
from minibert.evaluation.metrics import Array
from minibert.files import atomic_path, read_object, sha256, write_json, write_text
from minibert.keyphrases import comparison
from minibert.keyphrases.choice import RANDOM, Kind, full_name, read_controls, score_record
from minibert.keyphrases.fitting import Fitter, as_score, fit_controls
from minibert.keyphrases.ranker import Ranker, RankSettings, Weights
from minibert.output import records, terminal
from minibert.output.head_choice import f1_lines, fit_rows
from minibert.phrases.scores import distinct
from minibert.report import page, results, story, tables
from minibert.runtime import cli, distributed
from minibert.runtime.folder import only_writer
from minibert.search import tuning
from minibert.search.bm25 import Index
from minibert.search.collection import collection_files, read_collection
from minibert.training.trained import load_run

PAGE = 100  # texts on a page at most
EXAMPLES = 3  # documents of which compare keeps the phrases, as train.py shows them
TIMED = 4  # documents
MODEL = "model.safetensors"
SHOWN = ("F1@5", "F1@10", "F1@15", "micro F1@10", "present F1@10", "F1@O", "P@10", "AP")


@dataclass(frozen=True)
class Extract(RankSettings):
    """Keyphrases, word weights, vectors or graphs of texts, in the order of the input."""

    files: cli.Positional[tuple[Path, ...]] = ()
    """JSON lines with id and text, recognised by the first line, or plain texts, one a file. By
    default, and for the name -, standard input."""

    out: Path | None = None
    """File to write; by default standard output. A terminal shows keyphrases marked in the text."""

    format: records.Layout = "keyphrases"
    """keyphrases: with score and every occurrence (characters); weights: of every word; vectors:
    impacts of terms, for an inverted index (Anserini); graph: words and links, as node-link
    data."""

    plain: bool = False
    """keyphrases: phrases alone, one a line, best first, and a blank line between texts."""

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
        fits = not self.plain or self.format == "keyphrases"
        check(fits, f"--plain prints keyphrases; leave out --format {self.format}")
        once = self.files.count(STANDARD_INPUT) <= 1
        check(once, "- is standard input, which is read once: name it once")


@dataclass(frozen=True)
class Fit(RankSettings):
    """Choose the heads whose attention ranks keyphrases best, and fit the weights of the score, on
    documents with keyphrases. The controls of evaluate are fitted too."""

    data: cli.Positional[tuple[Path, ...]] = ()
    """One or more collections with keyphrases, each of the same weight. Report on other
    documents."""

    out: Path = Path("heads.json")
    """File for the heads, the score and the controls, to be named by --heads."""

    most: int = 8
    """The largest number of heads."""

    # A fit is by attention received, with any heads, and of the order of all candidates.
    heads: cli.Suppress[str] = "all"
    kind: cli.Suppress[Kind | None] = None
    weights: cli.Suppress[Weights] = "received"
    damping: cli.Suppress[float] = RankSettings.damping
    diversity: cli.Suppress[float] = 0.0
    top: cli.Suppress[int | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.data, "name one or more collections with keyphrases to fit to")
        check(self.most >= 1, "--most must be at least 1")
        is_tagger = self.candidates == "tagger"
        check(not is_tagger, "fit ranks without a tagger; choose other --candidates")


@dataclass(frozen=True)
class Evaluate(RankSettings):
    """Measure how well keyphrases are ranked, beside the controls of the fit and ways without a
    model."""

    data: cli.Positional[Path] = cli.MISSING
    """Documents with keyphrases to report on."""

    out: Path | None = None
    """File for the scores as JSON."""


@dataclass(frozen=True)
class Compare:
    """Rank the keyphrases of a run's test documents by the attention of all heads of its model, and
    of each smaller model that prune.py made from it, beside controls. Adds to report.html, and
    prints its closing table."""

    run: cli.Positional[Path] = cli.MISSING
    """Run folder of train.py."""

    language: str = RankSettings.language
    """As for extract."""

    def __post_init__(self) -> None:
        check_fields(self)


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

    language: str = RankSettings.language
    """As for extract."""

    stop_words: Path | None = None
    """As for extract."""

    out: Path | None = None
    """File for the scores as JSON."""

    def __post_init__(self) -> None:
        check_fields(self)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, Extract | Fit | Evaluate | Compare | Search, __doc__, argv)


def run(settings: Extract | Fit | Evaluate | Compare | Search) -> None:
    if isinstance(settings, Compare):
        compare_models(settings)
        return

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
    if reads_standard_input(settings.files):
        check_standard_input()
    ranker = Ranker(settings)
    skipped: list[str] | None = [] if settings.skip_errors else None
    page_rows: list[records.PageRow] = []
    without: list[str] = []  # ids of texts without a phrase
    count = 0

    write_phrases = phrase_writer(settings)
    separator = "" if write_phrases is records.keyphrases_line else "\n"
    compute = partial(
        records.make_lines,
        ranker=ranker,
        layout=settings.format,
        strongest=settings.strongest,
        mixing=settings.mixing,
        has_page=bool(settings.html),
        write_phrases=write_phrases,
    )

    with ExitStack() as stack:
        out = stack.enter_context(open_output(settings.out if is_writer else None))
        has_bar = is_writer and not out.isatty()  # it would be in the middle of the lines
        bar = tqdm(desc="texts", unit="text", disable=None if has_bar else True)
        stack.enter_context(bar)

        # Each process computes some of the chunks; all of them get every result, in order.
        foreign = ForeignTexts(ranker.language)
        parts = chunks(foreign.watch(read_texts(settings.files, skipped)))
        for lines, rows in distributed.map_in_order(compute, parts):
            if is_writer:
                after_first = separator if count else ""
                print(after_first + separator.join(lines), end="", file=out, flush=True)
            page_rows += rows[: PAGE - len(page_rows)]
            without += [document.id for document, _, phrases in rows if not phrases]
            bar.update(len(lines))
            count += len(lines)

    if is_writer and settings.html:
        write_page(settings.html, page_rows, count)
    if is_writer:
        warn_of_language(foreign)
        warn(without if settings.format == "keyphrases" else [], count, skipped or [])


def warn(without: Sequence[str], count: int, skipped: Sequence[str]) -> None:
    """Name the texts without a candidate, by id, and the lines that are skipped, by message."""
    if without:
        message = f"{len(without)} of {count} texts have no candidate for a keyphrase"
        print(f"{message}; the first: {without[0]!r}", file=sys.stderr)
    if skipped:
        print(f"{len(skipped)} lines skipped; the first: {skipped[0]}", file=sys.stderr)


def check_standard_input() -> None:
    """Refuse to share it between processes. Tell a user at a terminal that it is read."""
    one_process = distributed.size() == 1
    check(one_process, "several processes cannot share standard input: name files")
    if sys.stdin and sys.stdin.isatty():
        print("reading the text from the terminal; end it with Ctrl-D", file=sys.stderr)


def phrase_writer(settings: Extract) -> records.WritePhrases:
    """Keyphrases for a shell, for a reader at a terminal, or as JSON lines."""
    if settings.plain:
        return terminal.phrase_lines
    if settings.format == "keyphrases" and not settings.out and sys.stdout.isatty():
        return partial(terminal.marked_text, styles=terminal.shows_styles())
    return records.keyphrases_line


def warn_of_language(foreign: ForeignTexts) -> None:
    if message := foreign.warning():
        print(f"warning: {message}", file=sys.stderr)


@contextmanager
def open_output(path: Path | None) -> Iterator[TextIO]:
    """A file that is complete or not there, or standard output."""
    if path is None:
        if not sys.stdout.isatty():  # a terminal shows the characters that it has
            cli.encode_output(encoding="utf-8")
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
    collections = [read_labelled(ranker, path) for path in settings.data]
    tasks = [[*comparison.tasks(ranker, with_progress(documents))] for documents in collections]
    for path, of_collection in zip(settings.data, tasks):
        has_gold = any(task.is_gold.any() for task in of_collection)
        check(has_gold, f"{path}: no candidate is a keyphrase: nothing to fit; try --candidates")

    fitter = Fitter(tasks)
    choice = fitter.choose(settings.most, partial(tqdm, desc="choose heads", disable=None))
    bar = partial(tqdm, desc="heads alone", unit="head", disable=None)
    controls = fit_controls(fitter, choice, progress=bar)
    names = ", ".join(map(str, settings.data))
    print(f"F1@10 on {names}, percent, the mean over collections:")
    print(tables.as_text(fit_rows(choice.f1, {n: c.f1 for n, c in controls.items()})))

    heads = ranker.bert.config.present_heads
    score = score_record(as_score(choice, heads))
    record = score | {
        "model": full_name(settings.model),
        "language": settings.language,
        "candidates": settings.candidates,
        "data": {str(path): len(documents) for path, documents in zip(settings.data, collections)},
        "F1@10": choice.f1,
        "controls": {
            name: score_record(as_score(control, heads)) | {"F1@10": control.f1}
            for name, control in controls.items()
        },
    }
    write_json(settings.out, record)
    contrast = " ".join(score["contrast"]) or "none"
    print(f"Heads: {' '.join(score['heads'])}; contrast heads: {contrast}")
    print(f"The score is in {settings.out}; use it with --heads {settings.out}")


def read_labelled(ranker: Ranker, path: Path) -> list[Document]:
    """Documents with keyphrases in the ranker's language; for noun phrases without --tagger,
    with the words and tags of NAME.pos.jsonl. Prints how many are left out, and the share of the
    keyphrases that the texts contain."""
    all_documents = read_documents(path)
    documents = with_keyphrases(ranker, all_documents)
    check(documents, f"{path}: no document has keyphrases")

    if ranker.settings.candidates == "nouns" and not ranker.settings.tagger:
        tags = document_file(path).with_suffix(".pos.jsonl")
        check(tags.exists(), f"{tags}: no such file of tags; give --tagger, which tags the words")
        tagged = {d.id: in_language(d, ranker.language) for d in read_documents(tags)}
        for document in documents:
            check(document.id in tagged, f"{tags}: no document {document.id!r}")
        documents = [tagged[d.id]._replace(keyphrases=d.keyphrases) for d in documents]

    print(
        f"{path}: {len(documents)} documents, {len(all_documents) - len(documents)} without "
        f"keyphrases skipped; {share_in_text(documents):.1%} of the keyphrases occur in the text"
    )
    return documents


def with_keyphrases(ranker: Ranker, documents: Sequence[Document]) -> list[Document]:
    """The documents that have keyphrases, in the ranker's language, with a warning if they look
    like another."""
    foreign = ForeignTexts(ranker.language)
    watched = list(foreign.watch(documents))
    warn_of_language(foreign)
    return [d for d in watched if distinct(d.keyphrases or (), d.language)]


def with_progress(documents: Sequence[Document]) -> Iterator[Document]:
    yield from tqdm(documents, desc="attention", unit="text", disable=None)


# Evaluate ---------------------------------------------------------------------------------------


def evaluate(settings: Evaluate) -> None:
    ranker = Ranker(settings)
    documents = read_labelled(ranker, settings.data)
    labels = {label for document in documents for label in word_labels(document, "io")}
    check(labels - {OUTSIDE}, f"{settings.data}: no keyphrase occurs in its text: nothing to find")

    controls = read_controls(ranker.source, ranker.bert.config, ranker.kind)
    compared = comparison.compare(ranker, with_progress(documents), controls)
    table = measures_shown(compared.ways)
    if compared.random:
        table[RANDOM] = {
            name: intervals.band([float(scores[name][0]) for scores in compared.random])
            for name in SHOWN
            if name in compared.random[0]
        }

    print(
        f"{len(documents)} documents, 95 % intervals over them; "
        "AP: of the words of a document, the mean over documents"
    )
    if compared.random:
        print(f"Random heads: {len(compared.random)} draws; median, lowest and highest")
    print(tables.as_text(tables.score_rows(table)))

    f1 = {way: scores["F1@10"] for way, scores in compared.ways.items()}
    random = [float(scores["F1@10"][0]) for scores in compared.random]
    print("\n".join(f1_lines(f1, random, compared.alone)))
    if settings.out:
        record = {
            "heads": names_of_heads(ranker),
            "test": table,
            "F1@10 above": intervals.leads(f1),
            "F1@10 of random heads": random,
            "f1_by_head": compared.alone,
        }
        write_json(settings.out, record)


def measures_shown(
    ways: Mapping[str, Mapping[str, Array]],
) -> dict[str, dict[str, intervals.Score]]:
    """{way to rank: the measures that are shown, with intervals}"""
    return {
        way: {name: intervals.interval(scores[name]) for name in SHOWN if name in scores}
        for way, scores in ways.items()
    }


def names_of_heads(ranker: Ranker) -> dict[str, float]:
    return {head_name(head): weight for head, weight in ranker.heads.items()}


# Compare ----------------------------------------------------------------------------------------


def compare_models(settings: Compare) -> None:
    cli.require("report")
    documents = load_run(settings.run).splits["test"].documents
    data = read_object(settings.run / "run.json")["inputs"]
    folders = [settings.run, *results.pruned_folders(settings.run)]
    with only_writer(settings.run / results.KEYPHRASES):
        models = {folder: sha256(folder / MODEL) for folder in folders}
        inputs = {folder: {MODEL: checksum} | data for folder, checksum in models.items()}
        missing = [f for f in folders if not is_ranked(f, settings.language, inputs[f])]
        for number, folder in enumerate(missing):
            ranker = Ranker(RankSettings(str(folder), heads="all", language=settings.language))
            labelled = with_keyphrases(ranker, documents)
            check(labelled, f"{settings.run}: no test document has keyphrases to score against")
            if number == 0:
                print(announce(ranker, labelled, len(missing)), flush=True)
            ranked = rank_by_all_heads(ranker, labelled, inputs[folder])
            write_json(folder / results.KEYPHRASES, ranked)

        run_models = story.read_models(settings.run)
        page_path = page.write_report(settings.run, run_models)
    print(tables.as_text(story.closing_rows(run_models, results.read_scores(settings.run))))
    print(f"\nThe report is {page_path}")


def is_ranked(folder: Path, language: str, inputs: Mapping[str, str]) -> bool:
    """Whether the folder of a model holds results of `compare` in this language, of this model on
    these documents; also where the model has no heads, whose attention could rank."""
    if not BertConfig.load(folder / "config.json").present_heads:
        return True
    ranked = results.read_keyphrases(folder)
    return ranked is not None and (ranked.language, ranked.inputs) == (language, inputs)


def announce(ranker: Ranker, documents: Sequence[Document], models: int) -> str:
    """How long so many models will take: the first documents are timed."""
    timed = documents[:TIMED]
    rank_by_all_heads(ranker, timed[:1], {})  # the first time is slower
    began = time.perf_counter()
    rank_by_all_heads(ranker, timed, {})
    seconds = (time.perf_counter() - began) * models * len(documents) / len(timed)
    work = f"keyphrases of {len(documents)} documents, ranked by the attention of {models} models"
    return f"{work}; {describe_seconds(seconds)}"


def rank_by_all_heads(
    ranker: Ranker, documents: Sequence[Document], inputs: dict[str, str]
) -> results.RankedKeyphrases:
    controls = read_controls(ranker.source, ranker.bert.config, ranker.kind)
    compared = comparison.compare(ranker, with_progress(documents), controls)
    (this, scores), *others = measures_shown(compared.ways).items()
    f1 = {way: of_way["F1@10"] for way, of_way in compared.ways.items()}
    examples = zip(documents, ranker.analyse(documents[:EXAMPLES]))
    return results.RankedKeyphrases(
        language=ranker.language.code,
        inputs=inputs,
        scores=scores,
        controls=dict(others),
        above=intervals.leads(f1),
        resampled=f1[this].tolist(),
        texts={d.id: [p.text for p in ranker.keyphrases(a)[:10]] for d, a in examples},
    )


# Search -----------------------------------------------------------------------------------------


def search(settings: Search) -> None:
    cli.require("search")
    ranking = RankSettings(
        model=settings.model,
        heads=settings.heads,
        damping=settings.damping,
        language=settings.language,
        stop_words=settings.stop_words,
    )
    ranker = Ranker(ranking)
    collection = read_collection(*collection_files(settings.data))
    foreign = ForeignTexts(ranker.language)
    documents = list(foreign.watch(collection.documents))
    queries = [in_language(query, ranker.language) for query in collection.queries]
    collection = collection._replace(documents=documents, queries=queries)
    warn_of_language(foreign)
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
        record = {
            "heads": heads,
            "baseline": compared.baseline,
            "test": table,
            "random heads": tuning.means_of_draws(compared),
        }
        write_json(settings.out, record)


if __name__ == "__main__":
    sys.exit(main())
