"""Documents -> windows that score each word once -> batches within a budget."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SPECIAL
from tokenizers.implementations import BertWordPieceTokenizer

from minibert.data.batches import (
    Window,
    collate,
    first_documents,
    make_batches,
    make_split,
    make_windows,
)
from minibert.data.documents import Document
from minibert.errors import InputError
from minibert.model import IGNORED
from minibert.text.tokenizer import Tokenizer
from minibert.text.words import word_spans


def doc(text, keyphrases=None, document_id="d", **others):
    return Document(document_id, text, word_spans(text), keyphrases, **others)


def window(document, input_ids, words=(), positions=()):
    return Window(document, input_ids, [*words], [*positions], [-1] * len(input_ids))


# Windows and batches ----------------------------------------------------------------------------


def check_windows(documents, windows, pieces, max_length):
    """Each word scored once, at its first piece, in the window whose middle is nearest."""
    encoded = pieces.encode([d.text for d in documents], [d.words for d in documents])
    scored = Counter((w.document, word) for w in windows for word in w.words)
    words = [(i, j) for i, d in enumerate(documents) for j in range(len(d.words))]
    assert scored == Counter(words)
    starts = {number: [] for number in range(len(documents))}
    for window in windows:
        assert len(window.input_ids) <= max_length
        first, *inner, last = window.input_ids
        assert (first, last) == (pieces.cls_id, pieces.sep_id)
        assert len(window.words) == len(window.positions)
        ids, owners = encoded[window.document]
        for word, position in zip(window.words, window.positions):
            start = owners.index(word) + 1 - position  # of the window in the document
            assert ids[start : start + len(inner)] == inner
            assert window.owners == [-1, *owners[start : start + len(inner)], -1]
            starts[window.document].append((start, start + len(inner), owners.index(word)))
    for windows_of_words in starts.values():
        for start, end, piece in windows_of_words:
            assert start <= piece < end
            middles = {(a + b) / 2 for a, b, _ in windows_of_words}
            nearest = min(abs(piece + 0.5 - middle) for middle in middles)
            assert abs(piece + 0.5 - (start + end) / 2) <= nearest + 1


@settings(deadline=None, max_examples=100)
@given(
    lists=st.lists(
        st.lists(st.sampled_from(["the", "orchards", "o", "(x)", "a-b", "of", "深", "..", "qzj"]))
        .map(lambda words: [*words, "end"])
        .flatmap(lambda words: st.integers(1, 5).map(words.__mul__)),
        min_size=1,
        max_size=3,
    ),
    max_length=st.integers(8, 33),
)
def test_windows_score_each_word_once_at_its_first_piece(pieces, lists, max_length):
    documents = [doc(" ".join(words)) for words in lists]
    windows = make_windows(documents, pieces, max_length)
    check_windows(documents, windows, pieces, max_length)
    assert [w.document for w in windows] == sorted(w.document for w in windows)


@pytest.fixture
def letters(tmp_path):
    """A tokenizer with one piece a letter, numbered from 5: "a" is 5."""
    alphabet = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *alphabet]) + "\n")
    return Tokenizer.load(tmp_path, 31)


def test_windows_overlap_by_half(letters):
    """13 words of a piece each, seven at a time: from 0, 3 and 6, with middles 3.5, 6.5, 9.5."""
    alone, *windows = make_windows([doc("x"), doc("a b c d e f g h i j k l m")], letters, 9)
    assert alone == Window(0, [2, 28, 3], [0], [1], [-1, 0, -1])
    assert {w.document for w in windows} == {1}
    assert [w.input_ids for w in windows] == [
        [2, 5, 6, 7, 8, 9, 10, 11, 3],
        [2, 8, 9, 10, 11, 12, 13, 14, 3],
        [2, 11, 12, 13, 14, 15, 16, 17, 3],
    ]
    assert [w.owners for w in windows] == [[-1, *range(s, s + 7), -1] for s in (0, 3, 6)]
    assert [w.words for w in windows] == [[0, 1, 2, 3, 4], [5, 6, 7], [8, 9, 10, 11, 12]]
    assert [w.positions for w in windows] == [[1, 2, 3, 4, 5], [3, 4, 5], [3, 4, 5, 6, 7]]


@pytest.mark.parametrize(("words", "count"), [(1, 1), (6, 1), (7, 2), (9, 2), (10, 3), (12, 3)])
def test_number_of_windows_is_minimal(letters, words, count):
    windows = make_windows([doc("a " * words)], letters, 8)
    assert len(windows) == count
    assert {len(w.input_ids) for w in windows} == {min(words, 6) + 2}


def test_word_longer_than_a_window_is_scored_at_its_first_piece(tmp_path):
    library = BertWordPieceTokenizer(
        {name: i for i, name in enumerate([*SPECIAL, "a", "##a", "b"])}, clean_text=True
    )
    pieces = Tokenizer(library._tokenizer, "here")
    documents = [doc("b " + "a" * 50 + " b")]
    check_windows(documents, make_windows(documents, pieces, 12), pieces, 12)


def test_document_of_100_000_words(pieces):
    document = doc("late frost " * 50_000)
    windows = make_windows([document], pieces, 512)
    assert [word for w in windows for word in w.words] == list(range(100_000))
    assert max(len(w.input_ids) for w in windows) == 512


@pytest.mark.parametrize("max_length", [-1, 0, 2, 7])
def test_windows_too_short_are_rejected(pieces, max_length):
    with pytest.raises(InputError, match="at least 8"):
        make_windows([doc("x")], pieces, max_length)


LENGTHS = st.lists(st.integers(2, 60), max_size=30)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 200))
def test_batches_hold_each_window_once_within_the_budget(lengths, tokens):
    windows = [window(i, [1] * n) for i, n in enumerate(lengths)]
    groups = make_batches(windows, tokens)
    assert sorted(w.document for g in groups for w in g) == list(range(len(windows)))
    for group in groups:
        assert len(group) == 1 or sum(len(w.input_ids) for w in group) <= tokens
    flat = [len(w.input_ids) for g in groups for w in g]
    assert flat == sorted(lengths, reverse=True)
    for group, following in pairwise(groups):  # none is closed early
        assert sum(len(w.input_ids) for w in [*group, following[0]]) > tokens


def test_batch_may_reach_its_budget_and_longer_window_is_alone():
    windows = [window(0, [1] * n) for n in (4, 30, 6, 5, 5, 9)]
    groups = make_batches(windows, 15)
    assert [[len(w.input_ids) for w in group] for group in groups] == [[30], [9, 6], [5, 5, 4]]


def test_collate_pads_and_labels_only_scored_pieces():
    windows = [
        window(1, [2, 9, 8, 3], [2, 0], [1, 2]),
        window(0, [2, 7, 6, 5, 4, 3], [1], [4]),
        window(0, [2, 7, 3]),
    ]
    batch = collate(windows, [[10, 11], [20, 21, 22]])
    no = IGNORED  # short, to show the rows
    assert batch.input_ids.tolist() == [[2, 9, 8, 3, 0, 0], [2, 7, 6, 5, 4, 3], [2, 7, 3, 0, 0, 0]]
    assert batch.attention_mask.tolist() == [[1] * 4 + [0] * 2, [1] * 6, [1] * 3 + [0] * 3]
    assert batch.labels.tolist() == [
        [no, 22, 20, no, no, no],
        [no, no, no, no, 11, no],
        [no] * 6,
    ]
    assert batch.windows == windows
    assert {t.dtype for t in batch[:3]} == {torch.int64}
    assert (collate(windows).labels == IGNORED).all()


def test_split_labels_every_word_of_every_document(pieces):
    documents = [doc("a red fox", ["red fox"]), doc("hen", [])]
    split = make_split(documents, pieces, "bio", ("O", "B", "I"), 16)
    assert split.targets == [[0, 1, 2], [0]]
    assert split.documents == documents
    assert split.windows == make_windows(documents, pieces, 16)
    batch = collate(split.windows, split.targets)
    assert sorted(batch.labels[batch.labels != IGNORED].tolist()) == [0, 0, 1, 2]


def test_first_documents_of_a_split(pieces):
    documents = [
        doc("late frost " * 20, document_id="a"),
        doc("hen", ["hen"], "b"),
        doc("fox", document_id="c"),
    ]
    documents = [d._replace(keyphrases=d.keyphrases or []) for d in documents]
    split = make_split(documents, pieces, "io", ("O", "I"), 16)
    for count in range(4):
        assert first_documents(split, count) == make_split(
            documents[:count], pieces, "io", ("O", "I"), 16
        )
