"""Train, dev and test: their sizes, and near-duplicates in one split."""

import random

import pytest

from minibert.data.documents import Document
from minibert.data.splits import split_documents
from minibert.errors import InputError
from minibert.text.words import word_spans


def doc(text, keyphrases=None, document_id="d", **others):
    return Document(document_id, text, word_spans(text), keyphrases, **others)


def story(seed, words=60):
    """A text that shares no five words with another seed's."""
    draw = random.Random(f"story {seed}")
    return [f"w{draw.randrange(10**9)}" for _ in range(words)]


def stories(*word_lists):
    return [doc(" ".join(words), document_id=str(i)) for i, words in enumerate(word_lists)]


def ids_of(splits):
    return {split: {d.id for d in documents} for split, documents in splits.items()}


def test_split_sizes_and_dependence_on_the_seed():
    documents = stories(*map(story, range(100)))
    splits = split_documents(documents)
    assert {split: len(d) for split, d in splits.items()} == {"train": 70, "dev": 10, "test": 20}
    assert sorted(d.id for s in splits.values() for d in s) == sorted(d.id for d in documents)
    assert ids_of(split_documents(documents)) == ids_of(splits)
    assert ids_of(split_documents(documents, seed=1)) != ids_of(splits)


def test_near_duplicates_stay_together():
    """Reprints, shortened reprints, and a chain whose two ends share nothing."""
    reprint = [story(0), [*story(0)[:50], *story("end")], ["Reuters", *story(0)[:20]]]
    chain = [
        [*story("a"), *story("b")],
        [*story("b"), *story("c")[:50]],
        [*story("c"), *story("d")[:30]],
    ]
    words = [*map(story, range(1, 30)), *reprint, *chain]
    for seed in range(25):
        random.Random(seed).shuffle(words)
        documents = stories(*words)
        splits = split_documents(documents, seed)
        split_of = {d.id: name for name, part in splits.items() for d in part}
        assert len(split_of) == len(words)
        for group in (reprint, chain):
            assert len({split_of[str(words.index(member))] for member in group}) == 1


def test_near_duplicates_share_more_than_half_of_five_word_runs():
    """16 words have 12 runs: 6 of them shared leave 20 documents apart, 7 make them one."""
    half = [[*story("same", 10), *story(i, 6)] for i in range(20)]
    assert len(split_documents(stories(*half))["train"]) == 14
    more = [[*story("same", 11), *story(i, 5)] for i in range(20)]
    with pytest.raises(InputError, match="20 documents are too few"):
        split_documents(stories(*more))


def test_near_duplicates_are_found_without_case_and_punctuation():
    in_capitals = [f"({word.upper()})," for word in story(0)]
    for seed in range(10):
        documents = stories(story(0), in_capitals, *map(story, range(1, 20)))
        assert any({"0", "1"} <= ids for ids in ids_of(split_documents(documents, seed)).values())


@pytest.mark.parametrize("count", [4, 5, *range(7, 31)])
def test_no_split_is_empty(count):
    assert all(split_documents(stories(*map(story, range(count)))).values())


def test_no_split_of_six_documents_is_empty():
    assert all(split_documents(stories(*map(story, range(6)))).values())


def test_no_split_is_empty_with_near_duplicates():
    documents = stories(*[story(0)] * 4, *map(story, range(1, 17)))
    for seed in range(50):
        assert all(split_documents(documents, seed).values())


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_documents_are_rejected(count):
    with pytest.raises(InputError, match=f"{count} documents are too few"):
        split_documents(stories(*map(story, range(count))))


def test_equal_short_texts_stay_together():
    documents = stories(["one", "two"], ["one", "two"], *map(story, range(8)))
    for seed in range(20):
        splits = split_documents(documents, seed).values()
        homes = [{d.text for d in split} for split in splits]
        assert sum("one two" in home for home in homes) == 1
