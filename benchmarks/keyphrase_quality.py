"""F1@10 and P@10 of rank.py's default on five collections, beside its controls and YAKE.

python -m benchmarks.keyphrase_quality DATA --out FOLDER. DATA has a folder for each collection. The
same command continues a run that was stopped, with the next collection.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from tqdm import tqdm

from minibert.data.corpus import read_documents
from minibert.data.documents import Document, is_content_word
from minibert.data.languages import in_language
from minibert.errors import check
from minibert.evaluation import intervals
from minibert.evaluation.metrics import Array
from minibert.files import sha256, to_json
from minibert.keyphrases.choice import NO_ATTENTION, RANDOM, THESE, Kind, read_controls, shipped
from minibert.keyphrases.comparison import compare
from minibert.keyphrases.ranker import Ranker, RankSettings
from minibert.phrases.baselines import WordIdf
from minibert.phrases.candidates import stem
from minibert.phrases.scores import distinct, phrase_measures
from minibert.report import tables
from minibert.runtime import cli
from minibert.runtime.folder import once, open_run
from minibert.text.language import read_language

Name = Literal["inspec", "semeval2017", "kpcrowd500", "semeval2010", "wikinews_fr"]
MEASURES = ("F1@10", "P@10")
OURS = "rank.py"  # the name of the row of these heads

YAKE_WORDS = (1, 3)  # most words of a phrase
YAKE_TOP = 30  # phrases; ten of them have different stems


class Collection(NamedTuple):
    """Documents with keyphrases, and the settings of rank.py for them. Names of files in DATA."""

    test: str
    dev: str
    kind: Kind
    language: str = "en"
    idf: str = ""  # documents for the IDF of tf-idf; by default the documents themselves
    left_out: str = ""  # documents that do not count
    candidates: Literal["content", "nouns"] = "content"


INSPEC = Collection("inspec/test", "inspec/dev", "keyphrases", idf="inspec/train")
SEMEVAL = Collection("semeval2017/liaad493", "semeval2017/dev", "keyphrases")
KPCROWD = Collection("kpcrowd500/test", "kpcrowd500/dev", "tags", idf="kpcrowd500/train")
COLLECTIONS = {
    "inspec": INSPEC,
    "inspec-nouns": INSPEC._replace(candidates="nouns"),
    "semeval2017": SEMEVAL,
    "semeval2017-without-dev": SEMEVAL._replace(left_out="semeval2017/dev"),
    "kpcrowd500": KPCROWD,
    "semeval2010": Collection("semeval2010/dev", "semeval2010/dev", "keyphrases"),
    "wikinews_fr": Collection("wikinews_fr/dev", "wikinews_fr/dev", "counted", "fr"),
}


@dataclass(frozen=True)
class Settings:
    data: cli.Positional[Path] = cli.MISSING
    """Folder with a folder for each collection."""

    collections: tuple[Name, ...] = get_args(Name)
    """Which collections to measure."""

    split: Literal["test", "dev"] = "test"
    """dev: the documents that heads are chosen on. semeval2010 and wikinews_fr have no others."""

    documents: int | None = None
    """The first documents of each collection; by default all of them."""

    tagger: str = ""
    """Also Inspec with --candidates nouns: a run folder of train.py on words with tags."""

    out: Path | None = None
    """Folder for the results of each collection as JSON."""


def run(settings: Settings) -> None:
    check(find_spec("yake"), "the peer is missing: pip install yake")
    check(settings.documents is None or settings.documents >= 2, "--documents must be at least 2")
    documents = {name: read(settings, COLLECTIONS[name]) for name in names(settings)}

    # A later run may add collections. The scores that come with the package must be the same.
    inputs = {f"score of {kind}": sha256(shipped(kind)) for kind in get_args(Kind)}
    folder, free = settings.out, ("collections", "tagger")
    results = {}
    with open_run(folder, settings, inputs, free) if folder else nullcontext():
        files = {name: folder / f"{name}.json" for name in documents} if folder else {}
        missing = [name for name in documents if name not in files or not files[name].exists()]

        # Each word is read by the model, and by YAKE once for each number of words.
        words = sum(len(d.words) for name in missing for d in documents[name])
        total = words * (1 + len(YAKE_WORDS))
        with tqdm(total=total, unit=" words", unit_scale=True, disable=None) as bar:
            for name in documents:
                bar.set_description(name)
                compute = partial(measure, settings, COLLECTIONS[name], documents[name], bar)
                results[name] = (
                    once(files[name], compute) if files else json.loads(to_json(compute()))
                )
                with tqdm.external_write_mode():
                    print(f"\n{name}: {as_text(results[name])}", flush=True)

    print(f"\n{tables.as_text(summary_rows(results))}")


def names(settings: Settings) -> list[str]:
    """The chosen collections and their variants."""
    variants = {
        "inspec-nouns": "inspec" if settings.tagger else "",
        "semeval2017-without-dev": "semeval2017" if settings.split == "test" else "",
    }
    return [n for n in COLLECTIONS if variants.get(n, n) in settings.collections]


def read(settings: Settings, collection: Collection) -> list[Document]:
    """The documents with keyphrases, in their language."""
    name = collection.test if settings.split == "test" else collection.dev
    left_out = read_file(settings, collection.left_out) if collection.left_out else []
    language, excluded = read_language(collection.language), {d.id for d in left_out}

    documents = [in_language(document, language) for document in read_file(settings, name)]
    documents = [
        document
        for document in documents
        if document.id not in excluded and distinct(document.keyphrases or (), language)
    ][: settings.documents]
    check(len(documents) >= 2, f"{name}: fewer than two documents with keyphrases")
    return documents


def read_file(settings: Settings, name: str) -> list[Document]:
    file = settings.data / f"{name}.jsonl"
    check(file.is_file(), f"{file}: no such file; name the collections with --collections")
    return read_documents(file)


# Measures ---------------------------------------------------------------------------------------


def measure(
    settings: Settings, collection: Collection, documents: Sequence[Document], bar: tqdm
) -> dict[str, Any]:
    """The scores of all ways, and the differences of rank.py from each, as JSON."""
    tagger = settings.tagger if collection.candidates == "nouns" else ""
    ranking = RankSettings(
        kind=collection.kind,
        language=collection.language,
        candidates=collection.candidates,
        tagger=tagger,
    )
    ranker = Ranker(ranking)
    corpus = read_file(settings, collection.idf) if collection.idf else documents
    idf = WordIdf(in_language(document, ranker.language) for document in corpus)

    controls = read_controls(ranker.source, ranker.bert.config, ranker.kind)
    compared = compare(ranker, with_progress(documents, bar), controls, idf)
    scores = {OURS if way == THESE else way: values for way, values in compared.ways.items()}

    draws = intervals.resamples(len(documents))
    words = [words_by_tf_idf(document, idf) for document in documents]
    scores["tf-idf, single words"] = phrase_measures(documents, words, draws)
    for most in YAKE_WORDS:
        phrases = [yake_phrases(document, most) for document in with_progress(documents, bar)]
        scores[f"YAKE, n = {most}"] = phrase_measures(documents, phrases, draws)

    name = collection.test if settings.split == "test" else collection.dev
    source = {"documents": len(documents), "file": name, "idf": collection.idf or name}
    return source | {"settings": ranking} | summarise(scores, compared.random)


def with_progress(documents: Iterable[Document], bar: tqdm) -> Iterator[Document]:
    for document in documents:
        yield document
        bar.update(len(document.words))


def words_by_tf_idf(document: Document, idf: WordIdf) -> list[str]:
    """The words of a document, the highest tf-idf of their stems first, without stop words."""
    words = [document.text[start:end] for start, end in document.words]
    keys = [stem(form, document.language) for form in document.forms()]
    totals: Counter[str] = Counter()
    for key, weight in zip(keys, idf.of(document) * is_content_word(document)):
        totals[key] += weight  # occurrences times IDF
    spelling = dict(zip(reversed(keys), reversed(words)))  # of the first occurrence
    return [spelling[key] for key, weight in totals.most_common() if weight > 0]


def yake_phrases(document: Document, most: int) -> list[str]:
    """The phrases of YAKE (Campos et al. 2020), best first, of at most `most` words."""
    from yake import KeywordExtractor

    extractor = KeywordExtractor(lan=document.language.code, n=most, top=YAKE_TOP)
    return [phrase for phrase, _ in extractor.extract_keywords(document.text)]


def summarise(
    scores: Mapping[str, Mapping[str, Array]], random: Sequence[Mapping[str, Array]]
) -> dict[str, Any]:
    """{measure: (1 + R,)} of each way, the first of them ours, and of each draw of random heads ->
    intervals, the change from each other way to ours, and how many draws ours is above."""
    others = [*scores][1:]
    summary: dict[str, Any] = {"scores": {}, "less": {}, "random": {}, "above": {}}
    for name in MEASURES:
        values = np.stack([of_way[name] for of_way in scores.values()], axis=1)
        summary["scores"][name] = dict(zip(scores, map(intervals.interval, values.T)))
        summary["less"][name] = dict(zip(others, intervals.changes(-values)))
        drawn = [float(of_draw[name][0]) for of_draw in random]
        if drawn:
            summary["random"][name] = intervals.band(drawn)
            summary["above"][name] = [
                sum(bool(values[0, 0] > value) for value in drawn),
                len(drawn),
            ]
    return summary


# Tables -----------------------------------------------------------------------------------------


def score_rows(result: Mapping[str, Any]) -> tables.Rows:
    """One row for each way, in percent: each measure, and by how much ours is above the way."""
    rows = [["", *(title for name in MEASURES for title in (name, f"{OURS} less this"))]]
    for way in result["scores"][MEASURES[0]]:
        row = [way]
        for name in MEASURES:
            change = result["less"][name].get(way)
            row += [percent(result["scores"][name][way]), percent(change, "+") if change else ""]
        rows.append(row)

    if result["random"]:
        row = [f"{RANDOM}: median, range"]
        for name in MEASURES:
            above, draws = result["above"][name]
            row += [percent(result["random"][name]), f"above {above} of {draws} draws"]
        rows.append(row)
    return rows


def as_text(result: Mapping[str, Any]) -> str:
    settings = result["settings"]
    title = (
        f"{result['documents']} documents of {result['file']}, --kind {settings['kind']} "
        f"--language {settings['language']} --candidates {settings['candidates']}; "
        f"IDF of {result['idf']}; 95 % intervals over documents"
    )
    return f"{title}\n{tables.as_text(score_rows(result))}"


def summary_rows(results: Mapping[str, Mapping[str, Any]]) -> tables.Rows:
    """One row for each collection. The last column names the ways that ours is not above: the
    interval of the difference of F1@10 is not above zero, or a draw of random heads is as good."""
    less = f"F1@10 less {NO_ATTENTION}"
    rows = [["", *MEASURES, less, "not above in F1@10"]]
    for name, result in results.items():
        changes = result["less"]["F1@10"]
        not_above = [way for way, change in changes.items() if change["low"] <= 0]
        above, draws = result["above"].get("F1@10", (0, 0))
        not_above += [RANDOM] if above < draws else []
        scores = [percent(result["scores"][measure][OURS]) for measure in MEASURES]
        change = percent(changes[NO_ATTENTION], "+") if NO_ATTENTION in changes else "-"
        rows.append([name, *scores, change, ", ".join(not_above) or "-"])
    return rows


def percent(score: Mapping[str, float], sign: str = "") -> str:
    value, low, high = (f"{100 * score[part]:{sign}.1f}" for part in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


main = partial(cli.run, run, Settings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
