"""Links between words: by hand, by loops over the model's own attentions, against networkx."""

import networkx
import numpy as np
import pytest
import torch
from scipy.sparse import csc_array
from tiny import tagger_for

from minibert.data.batches import Window, make_windows
from minibert.data.corpus import SAMPLE, read_documents
from minibert.heads.links import (
    Block,
    join_blocks,
    pagerank,
    received_by_head,
    received_by_word,
    strongest_links,
    word_attention,
    word_links,
)
from minibert.pruning import prune
from minibert.text.words import word_spans

pytestmark = pytest.mark.numeric

HEADS = {(0, 1): 0.5, (0, 4): 1.0, (1, 0): 2.0}  # of three layers


@pytest.fixture(scope="module")
def documents():
    """The first is long enough for several windows of 64 pieces."""
    return read_documents(SAMPLE / "dev.jsonl")[:3]


@pytest.fixture(scope="module")
def windows(documents, pieces):
    return make_windows(documents, pieces, 64)


@pytest.fixture(scope="module")
def bert(pieces):
    return tagger_for(pieces).bert


def by_loops(bert, windows, documents, heads):
    """(from, to) for each document, from the attentions that the model returns."""
    out = [np.zeros((len(d.words), len(d.words))) for d in documents]
    for window in windows:
        ids = torch.tensor([window.input_ids])
        with torch.no_grad():
            attentions = bert(ids, return_attentions=True).attentions
        for (layer, head), weight in heads.items():
            probs = attentions[layer][0, head]
            for i, sender in enumerate(window.owners):
                for j, receiver in enumerate(window.owners):
                    if sender >= 0 and sender != receiver and receiver in window.words:
                        out[window.document][sender, receiver] += weight * probs[i, j].item()
    return out


def test_links_are_sums_of_the_models_attentions(bert, windows, documents):
    expected = by_loops(bert, windows, documents, HEADS)
    assert len(windows) > len(documents) + 2
    for links, dense in zip(word_links(bert, windows, documents, HEADS), expected):
        np.testing.assert_allclose(links.toarray(), dense, atol=1e-10)
        np.testing.assert_allclose(links.sum(axis=0), dense.sum(0), atol=1e-10)
        np.testing.assert_allclose(links.sum(axis=1), dense.sum(1), atol=1e-10)
        for count in (1, 3, 500):
            best = [
                (i, int(j), pytest.approx(row[j]))
                for i, row in enumerate(dense)
                for j in np.argsort(-row, kind="stable")[:count]
                if row[j] > 0
            ]
            assert strongest_links(links, count) == best
        mass = np.random.default_rng(0).random(len(dense))
        np.testing.assert_allclose(mass @ links, mass @ dense, atol=1e-10)


def test_strongest_links_prefer_the_earlier_of_equals():
    links = csc_array([[0.0, 1, 2, 1], [0, 0, 0, 0], [3, 1, 0, 0], [1, 1, 1, 0]])
    best = [(0, 2, 2.0), (0, 1, 1.0), (2, 0, 3.0), (2, 1, 1.0), (3, 0, 1.0), (3, 1, 1.0)]
    assert strongest_links(links, 2) == best


def test_blocks_are_joined_by_column():
    """Windows in any order; word 2 is punctuation that no window scores."""
    first = Block(np.arange(4, dtype=np.int32), [0, 1], np.arange(8.0).reshape(4, 2))
    second = Block(np.arange(1, 5, dtype=np.int32), [3, 4], np.arange(8.0, 16).reshape(4, 2))
    expected = np.zeros((5, 5))
    expected[0:4, [0, 1]], expected[1:5, [3, 4]] = first.strength, second.strength
    assert join_blocks(5, [second, first]).toarray().tolist() == expected.tolist()
    assert join_blocks(3, []).toarray().tolist() == np.zeros((3, 3)).tolist()


def test_memory_of_links_does_not_grow_with_the_square_of_the_text(bert, pieces):
    """Each word has links from the words of one window alone."""
    (document,) = read_documents(SAMPLE / "dev.jsonl")[:1]
    text = " ".join([document.text] * 20)
    long = document._replace(text=text, words=word_spans(text))
    (links,) = word_links(bert, make_windows([long], pieces, 64), [long], HEADS)
    words = links.shape[0]
    assert words > 1000
    assert links.nnz <= 62 * words
    assert links.indices.dtype == np.int32


def test_attention_received_by_head_is_that_of_its_links(bert, windows, documents):
    received = received_by_head(bert, windows, documents)
    for head in HEADS:
        links = word_links(bert, windows, documents, {head: 1.0})
        for by_head, matrix in zip(received, links):
            np.testing.assert_allclose(by_head[:, *head], matrix.sum(axis=0), atol=1e-10)


@pytest.mark.parametrize("heads", [HEADS, {(1, 0): 2.0}, {(1, 0), (0, 2)}, {(2, 4)}, {}])
def test_attention_received_from_the_heads_alone(bert, windows, documents, heads):
    """Zero for all other heads; no heads give no attention."""
    pairs = zip(
        received_by_head(bert, windows, documents, heads),
        received_by_head(bert, windows, documents),
        strict=True,
    )
    for chosen, all_heads in pairs:
        expected = np.zeros_like(all_heads)
        for head in heads:
            expected[:, *head] = all_heads[:, *head]
        np.testing.assert_allclose(chosen, expected, rtol=1e-12, atol=0)
        assert (all_heads.sum(axis=0) > 0).all()


def test_layers_above_the_highest_head_are_not_computed(bert, windows, documents, monkeypatch):
    expected = received_by_head(bert, windows, documents, {(0, 1)})
    monkeypatch.setattr(type(bert.layers[1]), "forward", None)
    for ours, before in zip(received_by_head(bert, windows, documents, {(0, 1)}), expected):
        np.testing.assert_array_equal(ours, before)


@pytest.mark.parametrize("heads", [HEADS, {(1, 0): 2.0}, {}])
def test_one_pass_returns_all_attention(bert, windows, documents, heads):
    attention = word_attention(bert, windows, documents, heads)
    for both, alone in zip(attention.links, word_links(bert, windows, documents, heads)):
        np.testing.assert_allclose(both.toarray(), alone.toarray(), atol=1e-12)
    for both, alone in zip(attention.received, received_by_head(bert, windows, documents)):
        np.testing.assert_allclose(both, alone, atol=1e-12)


@pytest.mark.parametrize(("pruned", "layer"), [((), 2), (((2, 1),), 2), ("layer 2", 1)])
def test_attention_of_cls_is_the_models(pieces, windows, documents, pruned, layer):
    """The mean over the heads that the last layer with heads still has."""
    mask = torch.ones(3, 5)
    for head in [(2, h) for h in range(5)] if pruned == "layer 2" else pruned:
        mask[head] = 0
    bert = prune(tagger_for(pieces), mask).bert
    expected = [np.zeros(len(d.words)) for d in documents]
    for window in windows:
        with torch.no_grad():
            output = bert(torch.tensor([window.input_ids]), return_attentions=True)
        from_cls = output.attentions[layer][0, :, 0].mean(0).tolist()
        for word, probability in zip(window.owners, from_cls, strict=True):
            if word in window.words:
                expected[window.document][word] += probability

    attention = word_attention(bert, windows, documents, HEADS)
    for ours, by_loop in zip(attention.from_cls, expected, strict=True):
        np.testing.assert_allclose(ours, by_loop, rtol=0, atol=1e-12)


def test_links_do_not_depend_on_the_rest_of_the_batch(bert, windows, documents):
    together = word_links(bert, windows, documents, HEADS)
    for number, document in enumerate(documents):
        of_document = [w._replace(document=0) for w in windows if w.document == number]
        (alone,) = word_links(bert, of_document[::-1], [document], HEADS)
        np.testing.assert_allclose(alone.toarray(), together[number].toarray(), atol=1e-12)


def test_pruned_heads_add_nothing(pieces, windows, documents):
    tagger = tagger_for(pieces)
    mask = torch.ones(3, 5)
    mask[0, 1] = mask[2] = 0
    pruned = prune(tagger, mask).bert
    links = word_links(pruned, windows, documents, {(0, 1): 1.0, (0, 4): 1.0, (2, 0): 1.0})
    expected = word_links(tagger.bert, windows, documents, {(0, 4): 1.0})
    np.testing.assert_allclose(links[0].sum(axis=0), expected[0].sum(axis=0), atol=1e-10)
    nothing = word_links(pruned, windows, documents, {(2, 0): 1.0})
    assert not nothing[0].sum(axis=0).any()


def test_a_word_receives_from_other_words_only():
    """Tokens: [CLS], word 6 (two pieces), a comma, word 7, [SEP]."""
    window = Window(0, [0] * 6, [7], [4], [-1, 6, 6, -1, 7, -1])
    probs = torch.arange(36, dtype=torch.float64).reshape(1, 6, 6)
    from_word_6_to_word_7 = probs[0, 1, 4] + probs[0, 2, 4]
    assert received_by_word(probs, window).tolist() == [[from_word_6_to_word_7.item()]]


@pytest.mark.parametrize("damping", [0.85, 0.3])
def test_pagerank_is_that_of_networkx(damping):
    """Ten words in two overlapping windows; word 3 links nowhere."""
    generator = np.random.default_rng(1)
    dense = np.zeros((10, 10))
    dense[:7, :5] = generator.random((7, 5))
    dense[2:, 5:] = generator.random((8, 5))
    dense[3] = 0
    graph = networkx.from_numpy_array(dense, create_using=networkx.DiGraph)
    expected = networkx.pagerank(graph, damping, tol=1e-14, max_iter=1000)
    rank = pagerank(csc_array(dense), damping)
    np.testing.assert_allclose(rank, [expected[i] for i in range(10)], atol=1e-10)


def test_pagerank_of_damaged_links_ends():
    assert np.isnan(pagerank(csc_array([[0, np.nan], [1, 0]]))).any()


def test_pagerank_without_links_is_uniform():
    np.testing.assert_allclose(pagerank(csc_array((4, 4))), np.full(4, 0.25))
    assert pagerank(csc_array((0, 0))).shape == (0,)
