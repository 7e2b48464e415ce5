"""Word weights without a model: inverse document frequency and TextRank."""

from collections import Counter
from collections.abc import Iterable
from math import log

import numpy as np
from scipy.sparse import csc_array

from minibert.data.documents import Document, is_content_word, is_stop_word
from minibert.evaluation.metrics import Array
from minibert.heads.links import pagerank
from minibert.phrases.candidates import stem


class WordIdf:
    """Inverse document frequency of word stems in a corpus, stop words not counted."""

    def __init__(self, documents: Iterable[Document]):
        self.document_counts: Counter[str] = Counter()  # documents that contain the stem
        self.size = 0
        for document in documents:
            # A stop word is recognised in its sentence: IT is not "it".
            forms = zip(document.forms(), is_stop_word(document))
            stems = {stem(form, document.language) for form, is_stop in forms if not is_stop}
            self.document_counts.update(stems)
            self.size += 1

    def of(self, document: Document) -> Array:
        """(words,) ln((N + 1) / (n + 1)), where n of N documents contain the word."""
        counts = (self.document_counts[stem(form, document.language)] for form in document.forms())
        return np.array([log((self.size + 1) / (n + 1)) for n in counts])


def textrank(document: Document, reach: int = 2) -> Array:
    """(words,) TextRank (Mihalcea and Tarau 2004): PageRank over the stems of content words, two of
    them linked where they occur at most `reach` words apart; 0 for other words."""
    forms = document.forms()
    content = np.flatnonzero(is_content_word(document)).tolist()
    numbers: dict[str, int] = {}
    nodes = [numbers.setdefault(stem(forms[i], document.language), len(numbers)) for i in content]

    pairs = set()
    for i, (place, node) in enumerate(zip(content, nodes)):
        for other_place, other in zip(content[i + 1 : i + 1 + reach], nodes[i + 1 :]):
            if other_place - place <= reach and other != node:
                pairs |= {(node, other), (other, node)}

    senders, receivers = np.array(sorted(pairs), dtype=int).reshape(-1, 2).T
    links = csc_array((np.ones(len(pairs)), (senders, receivers)), shape=(len(numbers),) * 2)
    weights = np.zeros(len(forms))
    weights[content] = pagerank(links)[nodes]
    return weights
