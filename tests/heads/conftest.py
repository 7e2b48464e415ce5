"""Fixtures: a tiny tagger and four documents of the sample."""

import pytest
from tiny import TINY, tagger_for

from minibert import BertForTokenClassification
from minibert.data.batches import Split, make_split
from minibert.data.corpus import SAMPLE, read_documents


@pytest.fixture
def model(pieces) -> BertForTokenClassification:
    return tagger_for(pieces)


@pytest.fixture(scope="module")
def split(pieces) -> Split:
    documents = read_documents(SAMPLE / "dev.jsonl")[:4]
    return make_split(documents, pieces, "bio", TINY.labels, 60)
