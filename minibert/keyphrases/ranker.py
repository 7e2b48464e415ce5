"""Weight every word of a text by the attention of some heads, and rank its keyphrases."""

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.sparse import csc_array
from scipy.special import expit

from minibert.config import Head
from minibert.data.batches import Split, Window, chunks, make_windows
from minibert.data.corpus import read_documents
from minibert.data.documents import OUTSIDE, Document, is_content_word
from minibert.data.languages import ForeignTexts, in_language
from minibert.data.texts import read_phrases
from minibert.errors import InputError, check, check_fields
from minibert.evaluation.metrics import Array
from minibert.evaluation.tagger import by_document, decode, has_span_labels, predict
from minibert.files import read_json
from minibert.heads.links import Attention, pagerank, received_by_head, word_attention, word_links
from minibert.hub import DEFAULT_MODEL, find_model
from minibert.keyphrases.choice import Kind, fitted_record, read_score, shipped
from minibert.model import Bert, BertForTokenClassification
from minibert.phrases.baselines import WordIdf
from minibert.phrases.candidates import (
    Candidate,
    WordRun,
    content_runs,
    group,
    listed_runs,
    noun_runs,
    tagged_runs,
    unbroken_runs,
)
from minibert.phrases.features import PhraseScore, phrase_features
from minibert.phrases.part_of_speech import PartOfSpeechTagger
from minibert.phrases.ranking import Keyphrase, rank_phrases
from minibert.text.language import read_language
from minibert.text.tokenizer import Tokenizer
from minibert.text.words import word_spans
from minibert.weights import load_pretrained

Weights = Literal["received", "pagerank", "tagger"]


@dataclass(frozen=True)
class RankSettings:
    """How words are weighted and keyphrases ranked: part of the command line and of the record."""

    model: str = DEFAULT_MODEL
    """Folder or Hub id of an encoder, or a run folder of train.py or prune.py."""

    kind: Kind | None = None
    """keyphrases: as authors and indexers give them, often of several words. tags: frequent single
    words and names, as readers give them to news. counted: by occurrences, position and length
    alone, the default in other languages than English, unless --heads is given: the default
    model reads English, and its attention was not shown to help there. A file of rank.py fit has
    its own score: leave out --kind."""

    heads: str = ""
    """A file of rank.py fit: heads and their score. Or heads alone, with the score of --kind: all;
    names, as in L5H10,L4H2; results.json of prune.py; an order of ablate.py and the number of heads
    from its end, as in order-gradient.json:12. By default the heads of --kind, and all heads of
    another model."""

    weights: Weights = "received"
    """received: attention from other words. pagerank: PageRank over the same attention, as links
    between words. tagger: the probability of being in a keyphrase, by a model of train.py."""

    damping: float = 0.85
    """PageRank: the probability of following a link."""

    idf: Path | None = None
    """Multiply the weights by the words' IDF in this corpus: JSON lines with texts, or a folder or
    zip with docsutf8."""

    candidates: Literal["content", "nouns", "words", "tagger"] = "content"
    """content: runs between stop words and punctuation; nouns: adjectives and nouns, by --tagger;
    words: single ones; tagger: the keyphrases that a model of train.py predicts."""

    tagger: str = ""
    """nouns: folder or Hub id of a part-of-speech tagger, such as a run folder of train.py on words
    with Penn Treebank tags. By default the words must carry tags (fit and evaluate take them from
    NAME.pos.jsonl beside NAME.jsonl)."""

    phrases: Path | None = None
    """Your own candidates instead, one phrase a line."""

    max_words: int = 5
    """Longer runs of words are cut into equal parts."""

    diversity: float = 0.0
    """0 ranks by score alone; towards 1, phrases that share words with better ones come later."""

    top: int | None = None
    """Most phrases of a document; by default all of them, as scores need them."""

    language: str = "en"
    """Code (ISO 639-1) of the language of the texts: its stop words and stems. Others than en need
    the extra `languages`."""

    stop_words: Path | None = None
    """Your own stop words, separated by white space, instead of the language's."""

    def __post_init__(self) -> None:
        check_fields(self)
        check(0 <= self.damping < 1, "--damping must be in [0, 1)")
        check(self.max_words >= 1, "--max-words must be at least 1")
        check(0 <= self.diversity <= 1, "--diversity must be in [0, 1]")
        check(self.top is None or self.top >= 1, "--top must be at least 1")
        check(
            not self.phrases or self.candidates == "content",
            "--phrases are candidates already; leave out --candidates",
        )
        check(
            not self.tagger or self.candidates == "nouns",
            "--tagger finds the nouns of --candidates nouns; add that, or leave out --tagger",
        )


class Marks(NamedTuple):
    """What a tagger predicts for the words of a document."""

    probabilities: Array  # (words,) of being in a keyphrase
    labels: list[str]  # O where the log-odds are below the tagger's threshold


class Analysis(NamedTuple):
    """What the ranking of a document's keyphrases needs."""

    document: Document
    candidates: list[Candidate]
    weights: Array  # (words,) not negative, 0 for stop words
    contrast: Array  # (words,) attention from the contrast heads, likewise


class Ranker:
    """Weights words and ranks keyphrases. Raises InputError where the settings do not fit the
    model."""

    def __init__(self, settings: RankSettings):
        self.settings = settings
        self.language = read_language(settings.language, settings.stop_words)
        folder = find_model(settings.model)
        model = load_pretrained(folder)
        self.bert: Bert = model.bert if isinstance(model, BertForTokenClassification) else model
        config = self.bert.config
        self.tokenizer = Tokenizer.load(folder, config.vocab_size)
        self.max_length = min(512, config.max_position_embeddings)

        has_score = settings.kind and fitted_record(settings.heads)
        check(not has_score, f"{settings.heads}: has its own score; leave out --kind")
        by_attention = self.language.code == "en" or bool(settings.heads)
        self.kind = settings.kind or ("keyphrases" if by_attention else "counted")
        default = str(shipped(self.kind)) if settings.model == DEFAULT_MODEL else "all"
        self.source = settings.heads or default
        self.score = read_score(self.source, config, self.kind, settings.model)
        self.heads = self.score.heads
        present = self.heads.keys() & set(config.present_heads)
        check(present, f"{settings.model}: has none of the heads {self.source}")

        self.phrases = read_phrases(settings.phrases) if settings.phrases else None
        corpus = read_documents(settings.idf) if settings.idf else []
        corpus = [in_language(document, self.language) for document in corpus]
        self.idf = WordIdf(corpus) if corpus else None
        self.pos_tagger = PartOfSpeechTagger(settings.tagger) if settings.tagger else None

        self.tagger: BertForTokenClassification | None = None  # where the settings ask for one
        if "tagger" in (settings.weights, settings.candidates):
            results = folder / "results.json"
            if not isinstance(model, BertForTokenClassification) or not results.exists():
                raise InputError(f"{settings.model}: no run of train.py, so it marks no keyphrases")
            has_outside = OUTSIDE in config.labels
            check(has_outside, f"{settings.model}: was trained on other labels than keyphrases")
            self.tagger = model
            if settings.weights == "tagger":
                self.score = PhraseScore(self.heads, {}, {"attention": 1.0})
            self.threshold = read_json(results)["threshold"]

    @property
    def has_all_heads(self) -> bool:
        """Whether its heads are all that the model has, with equal weights."""
        weights = [self.heads.get(head) for head in self.bert.config.present_heads]
        return None not in weights and len(set(weights)) == 1

    def windows(self, documents: Sequence[Document]) -> list[Window]:
        return make_windows(documents, self.tokenizer, self.max_length)

    def links(self, documents: Sequence[Document]) -> list[csc_array]:
        """The links between the words of each document (see `word_links`)."""
        links = word_links(self.bert, self.windows(documents), documents, self.heads)
        self._check_finite([matrix.data for matrix in links])
        return links

    def attention(self, documents: Sequence[Document]) -> Attention:
        """The attention to the words of each document, as (words, heads) that the model has."""
        attention = word_attention(self.bert, self.windows(documents), documents, self.heads)
        return attention._replace(received=self._present(attention.received))

    def received_by_head(
        self, documents: Sequence[Document], heads: Collection[Head] | None = None
    ) -> list[Array]:
        """(words, heads) of each document: the attention from each head that the model has; 0 for
        all but `heads`, if given."""
        windows = self.windows(documents)
        return self._present(received_by_head(self.bert, windows, documents, heads))

    def head_weights(self, heads: Mapping[Head, float]) -> list[float]:
        """The weight of each head that the model has, 0 for others than `heads`: `received @
        head_weights` is the attention that they give together."""
        return [heads.get(head, 0.0) for head in self.bert.config.present_heads]

    def _present(self, received: Sequence[Array]) -> list[Array]:
        """(words, layers, heads) -> (words, heads that the model has)."""
        self._check_finite(received)
        layers, heads = zip(*self.bert.config.present_heads)
        return [by_head[:, layers, heads] for by_head in received]

    def _check_finite(self, values: Sequence[Array]) -> None:
        is_finite = all(np.isfinite(array).all() for array in values)
        check(is_finite, f"{self.settings.model}: attention is not finite; damaged weights?")

    def tag(self, documents: Sequence[Document]) -> list[Document]:
        """The documents with the tags of --tagger, or as they are."""
        return self.pos_tagger.tag(documents) if self.pos_tagger else list(documents)

    def marks(self, documents: Sequence[Document]) -> list[Marks] | list[None]:
        """What the tagger predicts for each document; None where no setting asks for it."""
        if self.tagger is None:
            return [None] * len(documents)
        split = Split([*documents], self.windows(documents), [])
        predictions = predict(self.tagger, split, shared=False)

        names = self.bert.config.labels
        probabilities = by_document(expit(predictions.log_odds[0]), documents)
        labels = by_document(decode(predictions, names, self.threshold)[0], documents)
        return [
            Marks(of_words, [names[i] for i in ids]) for of_words, ids in zip(probabilities, labels)
        ]

    def received(
        self, documents: Sequence[Document], *groups: Mapping[Head, float]
    ) -> list[list[Array]]:
        """For each group of heads, (words,) of each document: the attention that every word
        receives from these heads, by their weights. All groups take one pass over the texts."""
        by_head = self.received_by_head(documents, {head for group in groups for head in group})
        weights = [self.head_weights(heads) for heads in groups]
        return [[received @ of_group for received in by_head] for of_group in weights]

    def analyse(self, documents: Sequence[Document]) -> list[Analysis]:
        """The word weights and the candidates of each document."""
        tagged, marked = self.tag(documents), self.marks(documents)
        heads, contrast_heads = self.score.heads, self.score.contrast
        if self.settings.weights == "received":
            weights, contrast = self.received(documents, heads, contrast_heads)
        else:
            (contrast,) = self.received(documents, contrast_heads)
            if self.settings.weights == "tagger":
                weights = [marks.probabilities for marks in marked if marks]
            else:
                weights = [self.pagerank(links) for links in self.links(documents)]

        rows = zip(tagged, marked, weights, contrast)
        return [
            Analysis(
                document,
                group(document, self.candidate_runs(document, marks)),
                self.weigh(document, of_words),
                self.weigh(document, of_contrast),
            )
            for document, marks, of_words, of_contrast in rows
        ]

    def pagerank(self, links: csc_array) -> Array:
        """(words,) with the damping of the settings."""
        return pagerank(links, self.settings.damping)

    def weigh(self, document: Document, weights: Array) -> Array:
        """(words, ...) weights -> the same, 0 for stop words, and times --idf."""
        scale = is_content_word(document) * (self.idf.of(document) if self.idf else 1.0)
        return (weights.T * scale).T

    def candidate_runs(self, document: Document, marks: Marks | None = None) -> list[WordRun]:
        """The runs of words that may be keyphrases. `marks`: for the candidates of a tagger."""
        kind, max_words = self.settings.candidates, self.settings.max_words
        if self.phrases is not None:
            return listed_runs(document, self.phrases)
        if kind == "content":
            return content_runs(document, max_words)
        if kind == "nouns":
            return noun_runs(document, max_words)
        if kind == "words":
            return [(i, i + 1) for i in np.flatnonzero(is_content_word(document)).tolist()]

        assert marks is not None, "the candidates of a tagger need its marks"
        if has_span_labels(self.bert.config.labels):
            return tagged_runs(document, marks.labels)
        return unbroken_runs(document, [label != OUTSIDE for label in marks.labels])

    def keyphrases(self, analysis: Analysis) -> list[Keyphrase]:
        """Ranked phrases, best first, of a document that `analyse` returns."""
        document, candidates, weights, contrast = analysis
        scores = self.score.of(phrase_features(document, candidates, weights, contrast))
        return self.rank(document, candidates, scores)

    def rank(
        self, document: Document, candidates: Sequence[Candidate], scores: Array
    ) -> list[Keyphrase]:
        """The candidates by scores (candidates,), as the settings say."""
        settings = self.settings
        return rank_phrases(document, candidates, scores, settings.diversity, settings.top)


def extract_keyphrases(docs: str | Iterable[str], **settings: Any) -> list[list[Keyphrase]]:
    """The keyphrases of one text, or of each of several: their score, and every occurrence
    (characters, end exclusive). `settings`: fields of `RankSettings`. Warns where the texts do not
    look like the language of the settings.

    Each call loads the model: pass many texts at once, or keep a `Ranker`. Raises InputError if one
    of the texts is no string.
    """
    texts = [docs] if isinstance(docs, str) else list(docs)
    for number, text in enumerate(texts):
        is_text = isinstance(text, str)
        check(is_text, f"text {number}, counted from 0, is {text!r}, not a string")

    ranker = Ranker(RankSettings(**settings))
    documents = (Document(str(i), text, word_spans(text)) for i, text in enumerate(texts))
    foreign = ForeignTexts(ranker.language)
    keyphrases = [
        ranker.keyphrases(analysis)
        for part in chunks(foreign.watch(documents))
        for analysis in ranker.analyse(part)
    ]

    if message := foreign.warning():
        warnings.warn(message, stacklevel=2)
    return keyphrases
