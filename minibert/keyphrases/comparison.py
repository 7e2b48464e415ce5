"""The ways to rank candidates that rank.py compares: this score, its controls, and no model."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_array

from minibert.config import head_name
from minibert.data.batches import chunks
from minibert.data.documents import OUTSIDE, Document, is_content_word, word_labels
from minibert.evaluation import intervals, metrics
from minibert.evaluation.metrics import Array
from minibert.keyphrases.choice import RANDOM, UNIFORM
from minibert.keyphrases.fitting import Task, make_task
from minibert.keyphrases.ranker import Marks, Ranker
from minibert.phrases.baselines import WordIdf, textrank
from minibert.phrases.candidates import Candidate, group
from minibert.phrases.features import (
    BY_ATTENTION,
    COUNTED,
    PhraseScore,
    attention_features,
    counted_features,
    find_occurrences,
    log_attention,
    phrase_features,
)
from minibert.phrases.scores import gold_stems, phrase_counts, phrase_measures


class Example(NamedTuple):
    """A document to rank, with what the model makes of it."""

    document: Document
    candidates: list[Candidate]
    links: csc_array
    by_head: Array  # (words, heads) received from each head alone; 0 for stop words, times IDF
    marks: Marks | None  # of a tagger, if the settings ask for one


def examples(ranker: Ranker, documents: Iterable[Document]) -> Iterator[Example]:
    """Each document, computed when it is needed: the arrays of all heads are large."""
    for part in chunks(documents):
        links, by_head, _ = ranker.attention(part)
        for row in zip(ranker.tag(part), links, by_head, ranker.marks(part)):
            document, of_document, received, marks = row
            candidates = group(document, ranker.candidate_runs(document, marks))
            yield Example(
                document, candidates, of_document, ranker.weigh(document, received), marks
            )


def tasks(ranker: Ranker, documents: Iterable[Document]) -> Iterator[Task]:
    """The documents with candidates, for a `Fitter`."""
    for part in chunks(documents):
        for document, by_head in zip(ranker.tag(part), ranker.received_by_head(part)):
            if candidates := group(document, ranker.candidate_runs(document)):
                yield make_task(document, candidates, ranker.weigh(document, by_head))


def head_names(ranker: Ranker) -> list[str]:
    """The heads of the model, in the order of the columns of `Example.by_head`."""
    return [head_name(head) for head in ranker.bert.config.present_heads]


def name_of_heads(ranker: Ranker) -> str:
    """How a table calls the ranker's heads: "all" if they are, so that no row occurs twice."""
    return "all" if ranker.has_all_heads else "these"


# Ways to rank -----------------------------------------------------------------------------------


class Way(NamedTuple):
    """A ranking of the candidates of one document."""

    scores: Array  # (candidates,)
    weights: Array | None = None  # (words,) behind the scores, where words are weighted


def score_by(ranker: Ranker, example: Example, score: PhraseScore) -> Way:
    """The candidates by the attention of the heads of any score."""
    weights, contrast = (
        example.by_head @ ranker.head_weights(heads) for heads in (score.heads, score.contrast)
    )
    way = score_by_weights(example, score, weights, contrast)
    return way if score.heads else way._replace(weights=None)


def score_by_weights(example: Example, score: PhraseScore, weights: Array, contrast: Array) -> Way:
    """The candidates by weights of words and contrast, (words,) each, in place of the heads'."""
    features = phrase_features(example.document, example.candidates, weights, contrast)
    return Way(score.of(features), weights)


def ways_by_attention(ranker: Ranker, example: Example) -> dict[str, Way]:
    """This score, and the same with other word weights in place of attention received."""
    document, score, these = example.document, ranker.score, name_of_heads(ranker)
    contrast = example.by_head @ ranker.head_weights(score.contrast)

    ways = {}
    if ranker.settings.weights == "tagger" and example.marks:
        probabilities = ranker.weigh(document, example.marks.probabilities)
        ways["tagger"] = score_by_weights(example, score, probabilities, contrast)
    ways[f"{these} heads"] = score_by(ranker, example, score)

    pagerank = ranker.weigh(document, ranker.pagerank(example.links))
    ways[f"PageRank of {these}"] = score_by_weights(example, score, pagerank, contrast)
    is_content = is_content_word(document)
    ways[UNIFORM] = score_by_weights(example, score, is_content, is_content)
    return ways


def ways_without_model(example: Example, idf: WordIdf | None) -> dict[str, Way]:
    """Position, frequency, TextRank and tf-idf: a phrase has the sum of the weights of its words,
    for tf-idf times its number of occurrences."""
    document, candidates = example.document, example.candidates
    first_runs = [slice(*candidate.runs[0]) for candidate in candidates]
    occurrences = np.array([float(len(candidate.runs)) for candidate in candidates])

    rank = textrank(document)
    ways = {
        "first candidates": Way(-np.arange(len(candidates), dtype=np.float64)),
        "frequency": Way(occurrences),
        "TextRank": Way(np.array([rank[run].sum() for run in first_runs]), rank),
    }
    if idf:
        of_words = idf.of(document) * is_content_word(document)
        sums = np.array([of_words[run].sum() for run in first_runs])
        ways["tf-idf"] = Way(occurrences * sums, of_words)
    return ways


def f1_of_each_head(ranker: Ranker, example: Example) -> Array:
    """(heads,) F1@10 of every head alone, under the weights of the ranker's score: without contrast
    heads, and whatever the diversity of the settings."""
    document, candidates = example.document, example.candidates
    ranked: list[list[tuple[str, ...]]] = [[] for _ in example.by_head.T]
    if candidates:
        words = log_attention(document, example.by_head)
        means, lowest = attention_features(find_occurrences(candidates), words)
        weights = [ranker.score.weights.get(name, 0.0) for name in (*COUNTED, *BY_ATTENTION)]
        counted = counted_features(candidates) @ weights[: len(COUNTED)]
        scores = counted[:, None] + means * weights[-2] + lowest * weights[-1]
        best = np.argsort(-scores, axis=0, kind="stable")[:10]
        ranked = [[candidates[i].stems for i in column] for column in best.T]
    gold = [gold_stems(document)] * len(ranked)
    return metrics.f1(phrase_counts(ranked, gold, 10))


# Comparison -------------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """Measures under each row of `resamples`, (1 + R,)."""

    ways: dict[str, dict[str, Array]]  # {way: {measure: ...}}
    random: list[dict[str, Array]]  # of each draw of random heads
    alone: dict[str, float]  # {head: mean F1@10 of this head alone}


def compare(
    ranker: Ranker,
    documents: Iterable[Document],
    controls: Mapping[str, PhraseScore],
    idf: WordIdf | None = None,
) -> Comparison:
    """Rank the documents in all ways; tf-idf by `idf`, or by that of the ranker. AP is of the words
    of a document, the mean over documents."""
    # Only scores and phrases are kept: the weights of all heads are large.
    ranked: dict[str, list[list[str]]] = defaultdict(list)
    precisions: dict[str, list[float]] = defaultdict(list)
    scored, f1_alone = [], []
    for example in examples(ranker, documents):
        is_gold = np.array(word_labels(example.document, "io")) != OUTSIDE
        ways = ways_by_attention(ranker, example)
        ways |= {name: score_by(ranker, example, score) for name, score in controls.items()}
        ways |= ways_without_model(example, idf or ranker.idf)
        for name, way in ways.items():
            phrases = ranker.rank(example.document, example.candidates, way.scores)
            ranked[name].append([phrase.text for phrase in phrases])
            if way.weights is not None:
                curve = metrics.PrecisionRecallCurve([is_gold], [way.weights])
                precisions[name].append(curve.average_precision())
        f1_alone.append(f1_of_each_head(ranker, example))
        scored.append(example.document)

    draws = intervals.resamples(len(scored))
    values = {name: phrase_measures(scored, phrases, draws) for name, phrases in ranked.items()}
    for name, of_documents in precisions.items():
        values[name]["AP"] = metrics.mean_over_documents(np.array(of_documents), draws)
    alone = dict(zip(head_names(ranker), np.mean(f1_alone, axis=0).tolist()))
    random = [values.pop(name) for name in controls if name.startswith(RANDOM)]
    return Comparison(values, random, alone)
