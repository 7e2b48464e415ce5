"""Attention heads at work: a weight for every word of a text, and its keyphrases."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from math import log
from pathlib import Path
from typing import Literal

import numpy as np

from minibert.attention import Block, Links, Strength, pagerank, word_links
from minibert.data import Document, make_windows, read_documents, read_lines
from minibert.errors import InputError
from minibert.evaluation import Progress, content, decode, positive_score, predict
from minibert.files import read_json
from minibert.heads import read_heads
from minibert.keyphrases import (
    Keyphrase,
    PhraseSettings,
    Run,
    content_runs,
    group,
    listed_runs,
    noun_runs,
    rank_phrases,
    stem,
    tagged_runs,
    unbroken_runs,
)
from minibert.metrics import Array
from minibert.model import BertForTokenClassification
from minibert.tokenizer import Tokenizer, word_spans
from minibert.weights import DEFAULT_MODEL, find_model, load_pretrained

OWN_HEADS = Path(__file__).parent / "heads.json"  # of DEFAULT_MODEL, chosen on Inspec dev
CHUNK = 64  # documents computed together: memory does not grow with their number


@dataclass(frozen=True)
class RankSettings(PhraseSettings):
    """How words are weighed; with `PhraseSettings`, how phrases are made of them."""

    model: str = DEFAULT_MODEL
    """Folder or Hub id of an encoder, or a run folder of train.py or prune.py."""
    heads: str = ""
    """all; names, as in L5H10,L4H2; a file of rank.py fit or of prune.py (results.json); or an
    order of ablate.py with how many of its last to take, as in order-greedy.json:12. By default
    those chosen on Inspec for all-MiniLM-L6-v2, and all heads of another model."""
    weights: Literal["received", "pagerank", "tagger"] = "received"
    """received: attention from other words. pagerank: over these links between words. tagger: the
    probability of being in a keyphrase, by a model of train.py."""
    strength: Strength = "attention"
    """Of a link: the attention, or (norm) times the length of what it carries."""
    damping: float = 0.85
    """pagerank: how probable it is to follow a link."""
    start: Literal["uniform", "early"] = "uniform"
    """pagerank: where to go otherwise: to any word, or rather to an early one."""
    idf: Path | None = None
    """A corpus, as train.py reads it: rare words weigh more, times their IDF there."""
    candidates: Literal["content", "nouns", "words", "tagger"] = "content"
    """content: what stands between stop words and punctuation; nouns: adjectives and nouns, where
    the documents' labels are Penn Treebank tags; words: single ones; tagger: what a model of
    train.py marks."""
    phrases: Path | None = None
    """Candidates of your own instead, a phrase a line."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.damping < 1:
            raise InputError("--damping must be in [0, 1)")


class Ranker:
    """A model with the heads that are to weigh words. Raises InputError where the settings do not
    fit the model."""

    def __init__(self, settings: RankSettings):
        self.settings = settings
        folder = find_model(settings.model)
        self.model = load_pretrained(folder)
        self.tagger = self.model if isinstance(self.model, BertForTokenClassification) else None
        self.bert = self.tagger.bert if self.tagger else self.model
        self.tokenizer = Tokenizer.load(folder, self.bert.config.vocab_size)
        default = str(OWN_HEADS) if settings.model == DEFAULT_MODEL else "all"
        self.heads = read_heads(settings.heads or default, self.bert.config)
        self.shape = (self.bert.config.num_hidden_layers, self.bert.config.num_attention_heads)
        self.longest = min(512, self.bert.config.max_position_embeddings)
        self.listed = read_phrases(settings.phrases) if settings.phrases else None
        self.rarity = Rarity(read_documents(settings.idf)) if settings.idf else None
        if "tagger" in (settings.weights, settings.candidates):
            results = folder / "results.json"
            if not self.tagger or not results.exists():
                raise InputError(f"{settings.model}: no run of train.py, so it marks no keyphrases")
            self.threshold = read_json(results)["threshold"]

    def links(self, documents: Sequence[Document], progress: Progress = list) -> list[Links]:
        """The links of each document between its words."""
        windows = make_windows(documents, self.tokenizer, self.longest)
        return word_links(
            self.bert, windows, documents, self.heads, self.settings.strength, progress
        )

    def analyse(
        self, documents: Sequence[Document], progress: Progress = list
    ) -> list[tuple[Array, list[Run]]]:
        """Of each document the weight of every word, (words,), at least 0, and 0 for stop words;
        and where a keyphrase may stand."""
        settings = self.settings
        marked: Sequence[Array | None] = [None] * len(documents)
        if "tagger" in (settings.weights, settings.candidates):
            windows = make_windows(documents, self.tokenizer, self.longest)
            marked = predict(self.tagger, windows, documents, progress=progress)
        if settings.weights == "tagger":
            names = self.bert.config.labels
            weights = [1 / (1 + np.exp(-positive_score(p, names))) for p in marked]
        else:
            weigh = self.pagerank if settings.weights == "pagerank" else Links.received
            weights = [weigh(links) for links in self.links(documents, progress)]
        out = []
        for document, weight, log_probs in zip(documents, weights, marked):
            rarity = self.rarity.of(document) if self.rarity else 1.0
            out.append(
                (weight * rarity * content(document), self.candidate_runs(document, log_probs))
            )
        return out

    def pagerank(self, links: Links) -> Array:
        """(words,) by the settings."""
        early = 1 / (1 + np.arange(links.count)) if self.settings.start == "early" else None
        return pagerank(links, self.settings.damping, early) if links.count else np.zeros(0)

    def candidate_runs(self, document: Document, log_probs: Array | None = None) -> list[Run]:
        """Where a keyphrase may stand; `log_probs` (words, labels) are the tagger's."""
        kind, longest = self.settings.candidates, self.settings.max_words
        if self.listed is not None:
            return listed_runs(document, self.listed)
        if kind == "words":
            return [(i, i + 1) for i in np.flatnonzero(content(document)).tolist()]
        if kind != "tagger":
            return (noun_runs if kind == "nouns" else content_runs)(document, longest)
        names = self.bert.config.labels
        if "B" not in names:
            return unbroken_runs(document, positive_score(log_probs, names) >= self.threshold)
        return tagged_runs(document, [names[i] for i in decode(log_probs, names, self.threshold)])

    def keyphrases(self, document: Document, weights: Array, runs: list[Run]) -> list[Keyphrase]:
        """What `analyse` found of a document, as ranked phrases, best first."""
        return rank_phrases(document, group(document, runs), weights, self.settings)


def read_phrases(path: Path) -> list[str]:
    """A phrase a line. Raises InputError where there is none."""
    phrases = [line.strip() for _, line in read_lines(path)]
    if not phrases:
        raise InputError(f"{path}: no phrases in it")
    return phrases


def extract_keyphrases(docs: str | Iterable[str], **settings) -> list[list[Keyphrase]]:
    """The keyphrases of one text, or of each of several: their score, and every place (characters,
    end exclusive) where they stand. `settings`: fields of `RankSettings`."""
    ranker = Ranker(RankSettings(**settings))
    texts = [docs] if isinstance(docs, str) else docs
    documents = (Document(str(i), text, word_spans(text)) for i, text in enumerate(texts))
    return [
        ranker.keyphrases(document, *found)
        for part in chunks(documents)
        for document, found in zip(part, ranker.analyse(part))
    ]


def chunks(documents: Iterable[Document], size: int = CHUNK) -> Iterable[list[Document]]:
    """The documents in lists of `size`, read as they are asked for."""
    documents = iter(documents)
    while part := list(islice(documents, size)):
        yield part


class Rarity:
    """Inverse document frequency of word stems in a corpus."""

    def __init__(self, documents: Iterable[Document]):
        self.held: Counter[str] = Counter()
        self.size = 0
        for document in documents:
            self.held.update({stem(form) for form in document.forms()})
            self.size += 1

    def of(self, document: Document) -> Array:
        """(words,) ln((N + 1) / (n + 1)) with n of N documents that hold the word."""
        counts = (self.held[stem(form)] for form in document.forms())
        return np.array([log((self.size + 1) / (n + 1)) for n in counts])


# What attention has to beat ---------------------------------------------------------------------


def neighbours(document: Document, reach: int = 2) -> Array:
    """(words,) TextRank (Mihalcea and Tarau 2004): PageRank over the stems of content words, linked
    where two stand at most `reach` words apart."""
    kept = np.flatnonzero(content(document))
    forms = document.forms()
    numbers: dict[str, int] = {}
    of_word = [numbers.setdefault(stem(forms[i]), len(numbers)) for i in kept]
    together = np.zeros((len(numbers), len(numbers)))
    for here, first in enumerate(kept):
        for there in range(here + 1, len(kept)):
            if kept[there] - first > reach:
                break
            if of_word[here] != of_word[there]:
                together[of_word[here], of_word[there]] = together[
                    of_word[there], of_word[here]
                ] = 1
    out = np.zeros(len(document.words))
    if len(kept):
        out[kept] = pagerank(Links(len(numbers), [Block(0, 0, together)]))[of_word]
    return out
