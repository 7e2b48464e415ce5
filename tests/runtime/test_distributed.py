"""How items and windows are shared among processes, and what a single process does."""

from itertools import count, islice
from typing import NamedTuple

import numpy as np
import pytest

from minibert.data.batches import Split, Window
from minibert.data.documents import Document
from minibert.evaluation.tagger import predict
from minibert.runtime import distributed


class Piece(NamedTuple):
    document: int
    number: int


PIECES = [Piece(document, number) for number, document in enumerate([0, 0, 1, 2, 3, 3, 3, 6])]


@pytest.fixture(params=[1, 2, 3])
def processes(request, monkeypatch):
    """A function that becomes each process in turn: yields its rank."""
    monkeypatch.setattr(distributed, "size", lambda: request.param)

    def ranks():
        for rank in range(request.param):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            yield rank

    return ranks


def test_windows_of_a_document_stay_in_one_process(processes):
    parts = [distributed.local_windows(PIECES) for _ in processes()]
    assert sorted(piece for part in parts for piece in part) == sorted(PIECES)
    documents = [{piece.document for piece in part} for part in parts]
    assert sum(map(len, documents)) == len(set.union(*documents))


def test_each_item_falls_to_one_process(processes):
    items = "abcdefg"
    parts = [distributed.local_items(items) for _ in processes()]
    assert sorted(pair for part in parts for pair in part) == list(enumerate(items))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_map_in_order_reads_items_as_needed():
    squares = distributed.map_in_order(lambda number: number**2, count())
    assert list(islice(squares, 4)) == [0, 1, 4, 9]


def test_single_process_shares_with_nobody():
    assert (distributed.rank(), distributed.size(), distributed.join()) == (0, 1, True)
    assert distributed.broadcast("value") == "value"
    array = np.arange(3.0)
    assert distributed.all_reduce_sum(array) is array


def test_work_that_is_not_shared_is_computed_as_a_whole(tagger, monkeypatch):
    """As in rank.py extract, where each process has texts of its own."""
    documents = [Document(name, "one two", [(0, 3), (4, 7)]) for name in "abc"]
    windows = [Window(i, [2, 7 + i, 9, 3], [0, 1], [1, 2], [-1, 0, 1, -1]) for i in range(3)]
    split = Split(documents, windows, [])
    alone = predict(tagger, split)
    monkeypatch.setattr(distributed, "size", lambda: 2)
    np.testing.assert_array_equal(predict(tagger, split, shared=False).labels, alone.labels)
    assert alone.labels.size == 6
