"""Attention heads at work: a weight for every word of a text, and its keyphrases."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from minibert.config import check_fields
from minibert.data.batches import Split, make_windows
from minibert.data.corpus import read_documents, read_lines
from minibert.data.documents import OUTSIDE, Document, is_content_word, is_stop_word
from minibert.errors import InputError
from minibert.evaluation.metrics import Array
from minibert.evaluation.tagger import (
    ProgressBar,
    by_document,
    decode,
    has_span_labels,
    predict,
)
from minibert.files import read_json
from minibert.heads.links import Block, Links, Strength, links_and_received, pagerank, word_links
from minibert.hub import DEFAULT_MODEL, find_model
from minibert.keyphrases.choice import read_heads, recorded_choice
from minibert.keyphrases.phrases import (
    Keyphrase,
    PhraseSettings,
    WordRun,
    content_runs,
    group,
    listed_runs,
    noun_runs,
    rank_phrases,
    stem,
    tagged_runs,
    unbroken_runs,
)
from minibert.model import BertForTokenClassification
from minibert.tokenizer import Tokenizer, word_spans
from minibert.weights import load_pretrained

OWN_HEADS = Path(__file__).parent / "minilm-heads.json"  # of DEFAULT_MODEL, chosen on Inspec dev


CHUNK, CHUNK_WORDS = 64, 20_000  # documents and words computed together: memory stays the same


@dataclass(frozen=True)
class LinkSettings:
    """Which heads link the words of a text, and how strongly."""

    model: str = DEFAULT_MODEL
    """Folder or Hub id of an encoder, or a run folder of train.py or prune.py."""
    heads: str = ""
    """all; names, as in L5H10,L4H2; a file of rank.py fit or of prune.py (results.json); or an
    order of ablate.py with how many of its last to take, as in order-gradient.json:12. By default
    those chosen on Inspec for all-MiniLM-L6-v2, and all heads of another model."""
    strength: Strength = "attention"
    """Of a link: the attention, or (norm) times the length of what it carries."""
    damping: float = 0.85
    """PageRank: how probable it is to follow a link."""
    start: Literal["uniform", "early"] = "uniform"
    """PageRank: where to go otherwise: to any word, or rather to an early one."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.damping < 1:
            raise InputError("--damping must be in [0, 1)")


@dataclass(frozen=True)
class RankSettings(LinkSettings, PhraseSettings):
    """How words are weighed by their links, and phrases made of them."""

    weights: Literal["received", "pagerank", "tagger"] = "received"
    """received: attention from other words. pagerank: over these links between words. tagger: the
    probability of being in a keyphrase, by a model of train.py."""
    idf: Path | None = None
    """Rare words weigh more, times their IDF in this corpus: JSON lines with texts, or a folder or
    zip with docsutf8."""
    candidates: Literal["content", "nouns", "words", "tagger"] = "content"
    """content: what stands between stop words and punctuation; nouns: adjectives and nouns, where
    the words carry Penn Treebank tags (fit and evaluate take them from NAME.pos.jsonl beside
    NAME.jsonl); words: single ones; tagger: what a model of train.py marks."""
    phrases: Path | None = None
    """Candidates of your own instead, a phrase a line."""

    def __post_init__(self) -> None:
        LinkSettings.__post_init__(self)
        PhraseSettings.__post_init__(self)
        if self.phrases and self.candidates != "content":
            raise InputError("--phrases are candidates already; leave out --candidates")


class Linker:
    """A model with the heads that are to link words. Raises InputError where these are not its."""

    def __init__(self, settings: LinkSettings):
        self.settings = settings
        self.folder = find_model(settings.model)
        self.model = load_pretrained(self.folder)
        self.tagger = self.model if isinstance(self.model, BertForTokenClassification) else None
        self.bert = self.tagger.bert if self.tagger else self.model
        config = self.bert.config
        self.shape = (config.num_hidden_layers, config.num_attention_heads)
        self.longest = min(512, config.max_position_embeddings)
        self.tokenizer = Tokenizer.load(self.folder, config.vocab_size)
        default = str(OWN_HEADS) if settings.model == DEFAULT_MODEL else "all"
        source = settings.heads or default
        record = recorded_choice(source)
        chosen_for = str(record.get("model", settings.model))
        if full_name(chosen_for) != full_name(settings.model):
            raise InputError(
                f"{source}: its heads were chosen for {chosen_for}, not for {settings.model}: "
                "choose others with rank.py fit, or name heads, as in --heads L3H7,L5H10"
            )
        if (strength := record.get("strength")) not in (None, settings.strength):
            raise InputError(f"{source}: chosen with --strength {strength}; say so here too")
        self.heads = read_heads(source, config)
        if not self.heads.keys() & set(config.present_heads):
            raise InputError(f"{settings.model}: has none of the heads {source}")

    @property
    def has_all_heads(self) -> bool:
        """Whether its heads are all that the model has, with equal weights."""
        weights = [self.heads.get(head) for head in self.bert.config.present_heads]
        return None not in weights and len(set(weights)) == 1

    def links(self, documents: Sequence[Document], progress: ProgressBar = list) -> list[Links]:
        """The links of each document between its words."""
        windows = make_windows(documents, self.tokenizer, self.longest)
        strength = self.settings.strength
        links = word_links(self.bert, windows, documents, self.heads, strength, progress)
        self._check_finite(links)
        return links

    def links_and_received(self, documents: Sequence[Document]) -> tuple[list[Links], list[Array]]:
        """The links of each document between its words, and (words, heads) what each head that the
        model has alone gives every word."""
        windows = make_windows(documents, self.tokenizer, self.longest)
        strength = self.settings.strength
        links, received = links_and_received(self.bert, windows, documents, self.heads, strength)
        self._check_finite(links)
        layers, heads = zip(*self.bert.config.present_heads)
        return links, [by_head[:, layers, heads] for by_head in received]

    def _check_finite(self, links: Sequence[Links]) -> None:
        if not all(np.isfinite(each.received()).all() for each in links):
            raise InputError(f"{self.settings.model}: attention is not finite; damaged weights?")

    def pagerank(self, links: Links) -> Array:
        """(words,) by the settings."""
        early = 1 / (1 + np.arange(links.count)) if self.settings.start == "early" else None
        return pagerank(links, self.settings.damping, early) if links.count else np.zeros(0)


def full_name(model: str) -> str:
    """What --model names, whatever the working directory: an absolute path, or a Hub id."""
    folder = os.path.expanduser(model)
    return os.path.realpath(folder) if os.path.isdir(folder) else model


class Marks(NamedTuple):
    """What a tagger says of each word of a document."""

    probabilities: Array  # (words,) of being in a keyphrase
    labels: list[str]  # O where the log-odds are below the tagger's threshold


class Ranker(Linker):
    """Weighs words and picks keyphrases. Raises InputError where the settings do not fit the
    model."""

    def __init__(self, settings: RankSettings):
        super().__init__(settings)
        self.settings = settings
        self.listed = read_phrases(settings.phrases) if settings.phrases else None
        self.rarity = Rarity(read_documents(settings.idf)) if settings.idf else None
        if "tagger" in (settings.weights, settings.candidates):
            results = self.folder / "results.json"
            if not self.tagger or not results.exists():
                raise InputError(f"{settings.model}: no run of train.py, so it marks no keyphrases")
            if OUTSIDE not in self.bert.config.labels:
                raise InputError(f"{settings.model}: was trained on other labels than keyphrases")
            self.threshold = read_json(results)["threshold"]

    def analyse(
        self, documents: Sequence[Document], progress: ProgressBar = list
    ) -> list[tuple[Array, list[WordRun]]]:
        """Of each document the weight of every word, (words,), at least 0, and 0 for stop words;
        and where a keyphrase may stand."""
        marked = self.marks(documents, progress)
        if self.settings.weights == "tagger":
            weights = [marks.probabilities for marks in marked]
        else:
            weigh = self.pagerank if self.settings.weights == "pagerank" else Links.received
            weights = [weigh(links) for links in self.links(documents, progress)]
        return [
            (self.weigh(document, weight), self.candidate_runs(document, marks))
            for document, weight, marks in zip(documents, weights, marked)
        ]

    def marks(
        self, documents: Sequence[Document], progress: ProgressBar = list
    ) -> list[Marks] | list[None]:
        """What the tagger marks in each document; None where no setting asks for it."""
        if "tagger" not in (self.settings.weights, self.settings.candidates):
            return [None] * len(documents)
        windows = make_windows(documents, self.tokenizer, self.longest)
        predictions = predict(self.tagger, Split([*documents], windows, []), progress=progress)
        names = self.bert.config.labels
        probabilities = by_document(1 / (1 + np.exp(-predictions.log_odds[0])), documents)
        labels = by_document(decode(predictions, names, self.threshold)[0], documents)
        return [Marks(p, [names[i] for i in ids]) for p, ids in zip(probabilities, labels)]

    def weigh(self, document: Document, weights: Array) -> Array:
        """(words, ...) weights -> the same, 0 for stop words, and times --idf."""
        scale = is_content_word(document) * (self.rarity.of(document) if self.rarity else 1.0)
        return (weights.T * scale).T

    def candidate_runs(self, document: Document, marks: Marks | None = None) -> list[WordRun]:
        """Where a keyphrase may stand."""
        kind, longest = self.settings.candidates, self.settings.max_words
        if self.listed is not None:
            return listed_runs(document, self.listed)
        if kind == "words":
            return [(i, i + 1) for i in np.flatnonzero(is_content_word(document)).tolist()]
        if kind != "tagger":
            return (noun_runs if kind == "nouns" else content_runs)(document, longest)
        if not has_span_labels(self.bert.config.labels):
            return unbroken_runs(document, [label != OUTSIDE for label in marks.labels])
        return tagged_runs(document, marks.labels)

    def keyphrases(
        self, document: Document, weights: Array, runs: list[WordRun]
    ) -> list[Keyphrase]:
        """What `analyse` found of a document, as ranked phrases, best first."""
        return rank_phrases(document, group(document, runs), weights, self.settings)


def read_phrases(path: str | Path) -> list[str]:
    """A phrase a line. Raises InputError where there is none."""
    phrases = [line.strip() for _, line in read_lines(path)]
    if not phrases:
        raise InputError(f"{path}: no phrases in it")
    return phrases


def extract_keyphrases(docs: str | Iterable[str], **settings) -> list[list[Keyphrase]]:
    """The keyphrases of one text, or of each of several: their score, and every place (characters,
    end exclusive) where they stand. `settings`: fields of `RankSettings`. The model is loaded at
    every call: give many texts at once, or keep a `Ranker`. Raises InputError where one of them is
    no string."""
    texts = [docs] if isinstance(docs, str) else list(docs)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"text {number}, counted from 0, is {text!r}, not a string")
    ranker = Ranker(RankSettings(**settings))
    documents = (Document(str(i), text, word_spans(text)) for i, text in enumerate(texts))
    return [
        ranker.keyphrases(document, *found)
        for part in chunks(documents)
        for document, found in zip(part, ranker.analyse(part))
    ]


def chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """The documents in lists to be computed together, read as they are asked for: at most CHUNK,
    and fewer where they are long."""
    part: list[Document] = []
    words = 0
    for document in documents:
        if part and (len(part) == CHUNK or words + len(document.words) > CHUNK_WORDS):
            yield part
            part, words = [], 0
        part.append(document)
        words += len(document.words)
    if part:
        yield part


class Rarity:
    """Inverse document frequency of word stems in a corpus, stop words not counted."""

    def __init__(self, documents: Iterable[Document]):
        self.held: Counter[str] = Counter()
        self.size = 0
        for document in documents:
            forms = zip(document.forms(), is_stop_word(document))
            self.held.update({stem(form) for form, stop in forms if not stop})  # IT is not it
            self.size += 1

    def of(self, document: Document) -> Array:
        """(words,) ln((N + 1) / (n + 1)) with n of N documents that hold the word."""
        counts = (self.held[stem(form)] for form in document.forms())
        return np.array([log((self.size + 1) / (n + 1)) for n in counts])


# What attention has to beat ---------------------------------------------------------------------


def neighbours(document: Document, reach: int = 2) -> Array:
    """(words,) TextRank (Mihalcea and Tarau 2004): PageRank over the stems of content words, linked
    where two stand at most `reach` words apart."""
    kept = np.flatnonzero(is_content_word(document))
    forms = document.forms()
    numbers: dict[str, int] = {}
    of_word = [numbers.setdefault(stem(forms[i]), len(numbers)) for i in kept]
    together = np.zeros((len(numbers), len(numbers)))
    for here, first in enumerate(kept):
        for there in range(here + 1, len(kept)):
            if kept[there] - first > reach:
                break
            a, b = of_word[here], of_word[there]
            if a != b:
                together[a, b] = together[b, a] = 1
    out = np.zeros(len(document.words))
    if len(kept):
        out[kept] = pagerank(Links(len(numbers), [Block(0, 0, together)]))[of_word]
    return out
