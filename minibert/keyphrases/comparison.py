"""The ways to weight words that rank.py compares: these heads, all heads, one head, baselines."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_array

from minibert.config import head_name
from minibert.data.batches import chunks
from minibert.data.documents import OUTSIDE, Document, is_content_word, word_labels
from minibert.evaluation import intervals, metrics
from minibert.evaluation.metrics import Array
from minibert.keyphrases.baselines import textrank
from minibert.keyphrases.choice import Task, make_task
from minibert.keyphrases.ranker import Marks, Ranker
from minibert.keyphrases.ranking import Keyphrase, rank_phrases
from minibert.phrases.candidates import Candidate, group
from minibert.phrases.scores import distinct, gold_stems, phrase_counts, phrase_measures


class Example(NamedTuple):
    """A document to score, with what the model makes of it."""

    document: Document
    candidates: list[Candidate]
    links: csc_array
    by_head: Array  # (words, heads) received from each head alone; 0 for stop words
    marks: Marks | None  # of a tagger, if the settings ask for one

    def rank(self, ranker: Ranker, weights: Array, top: int | None) -> list[Keyphrase]:
        """The candidates by (words,) weights, as the ranker's settings say."""
        how = ranker.settings
        return rank_phrases(
            self.document, self.candidates, weights, how.aggregate, how.diversity, top
        )


def examples(ranker: Ranker, documents: Iterable[Document]) -> Iterator[Example]:
    """Each document, computed when it is needed: the arrays of all heads are large."""
    for document, links, by_head, marks in attended(ranker, documents):
        candidates = group(document, ranker.candidate_runs(document, marks))
        by_head = by_head * is_content_word(document)[:, None]
        yield Example(document, candidates, links, by_head, marks)


def attended(
    ranker: Ranker, documents: Iterable[Document]
) -> Iterator[tuple[Document, csc_array, Array, Marks | None]]:
    """Each document with its links, (words, heads) what every word receives from each head alone,
    and the tagger's marks."""
    for part in chunks(documents):
        tagged = ranker.tag(part)
        yield from zip(tagged, *ranker.links_and_received(part), ranker.marks(part))


# Keyphrases -------------------------------------------------------------------------------------


def weighings(ranker: Ranker, example: Example, best_head: str | None) -> dict[str, Array]:
    """{way: (words,) weights}. `best_head`: the head that was best alone on dev."""
    document, _, links, by_head, marks = example
    is_content = is_content_word(document)
    received = links.sum(axis=0)
    # Where these are all heads, their row is that of all heads.
    these = name_of_heads(ranker)

    ways = {"all heads": by_head.sum(1)}
    if best_head:
        ways[f"best on dev, {best_head}"] = by_head[:, head_names(ranker).index(best_head)]
    ways[f"{these} heads"] = received * is_content
    ways[f"PageRank of {these}"] = ranker.pagerank(links) * is_content
    ways["TextRank"] = textrank(document)
    if ranker.idf:
        ways["tf-idf"] = ranker.idf.of(document) * is_content
        ways[f"{these} heads, idf"] = ranker.weigh(document, received)
    if marks and ranker.settings.weights == "tagger":
        ways["tagger"] = ranker.weigh(document, marks.probabilities)
    return ways


def f1_of_each_head(ranker: Ranker, example: Example) -> Array:
    """(heads,) F1@10 of every head alone, ranked as the ways of `weighings` are."""
    top = min(10, ranker.settings.top or 10)
    ranked = [
        distinct((p.text for p in example.rank(ranker, weights, top)), example.document.language)
        for weights in example.by_head.T
    ]
    gold = [gold_stems(example.document)] * len(ranked)
    return metrics.f1(phrase_counts(ranked, gold, 10))


def f1_by_head(ranker: Ranker, documents: Iterable[Document]) -> dict[str, float]:
    """{head: mean F1@10 of this head alone}."""
    values = [f1_of_each_head(ranker, example) for example in examples(ranker, documents)]
    return _mean_by_head(ranker, values)


def _mean_by_head(ranker: Ranker, values: Sequence[Array]) -> dict[str, float]:
    """(heads,) of each document -> {head: mean}."""
    return dict(zip(head_names(ranker), np.mean(values, axis=0).tolist()))


def compare(
    ranker: Ranker, documents: Iterable[Document], best_head: str | None
) -> tuple[dict[str, dict[str, Array]], dict[str, float]]:
    """{way: {measure: (1 + R,) under each row of `resamples`}} of the ways in `weighings`, and
    {head: mean F1@10 of this head alone}. AP is of the words of a document, the mean over
    documents."""
    # Only scores and phrases are kept: the weights of all heads are large.
    ranked: dict[str, list[list[str]]] = defaultdict(list)
    precisions: dict[str, list[float]] = defaultdict(list)
    scored, f1_alone = [], []
    for example in examples(ranker, documents):
        is_gold = np.array(word_labels(example.document, "io")) != OUTSIDE
        for way, weights in weighings(ranker, example, best_head).items():
            phrases = example.rank(ranker, weights, ranker.settings.top)
            ranked[way].append([phrase.text for phrase in phrases])
            curve = metrics.PrecisionRecallCurve([is_gold], [weights])
            precisions[way].append(curve.average_precision())
        f1_alone.append(f1_of_each_head(ranker, example))
        scored.append(example.document)

    draws = intervals.resamples(len(scored))
    values = {way: phrase_measures(scored, phrases, draws) for way, phrases in ranked.items()}
    for way, of_documents in precisions.items():
        values[way]["AP"] = metrics.mean_over_documents(np.array(of_documents), draws)
    return values, _mean_by_head(ranker, f1_alone)


def head_names(ranker: Ranker) -> list[str]:
    """The heads of the model, in the order of the columns of `Example.by_head`."""
    return [head_name(head) for head in ranker.bert.config.present_heads]


def name_of_heads(ranker: Ranker) -> str:
    """How a table calls the ranker's heads: "all" if they are, so that no row occurs twice."""
    return "all" if ranker.has_all_heads else "these"


def choice_tasks(ranker: Ranker, documents: Iterable[Document]) -> Iterator[Task]:
    """The task of `choose_heads` for each document."""
    for document, _, by_head, _ in attended(ranker, documents):
        candidates = group(document, ranker.candidate_runs(document))
        received = ranker.weigh(document, by_head)
        yield make_task(document, candidates, received, ranker.settings.aggregate)
