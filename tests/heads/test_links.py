"""Links between words: by hand, by loops over the model's own attentions, against networkx."""

import networkx
import numpy as np
import pytest
import torch
from tiny import tagger_for

from minibert.data.batches import Window, make_windows
from minibert.data.corpus import SAMPLE, read_documents
from minibert.heads.links import (
    Block,
    Links,
    links_and_received,
    pagerank,
    received_by_head,
    received_by_word,
    word_links,
)
from minibert.pruning import prune

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


def by_loops(bert, windows, documents, heads, strength="attention"):
    """(from, to) for each document, from the attentions that the model returns."""
    out = [np.zeros((len(d.words), len(d.words))) for d in documents]
    for window in windows:
        ids = torch.tensor([window.input_ids])
        with torch.no_grad():
            attentions = bert(ids, return_attentions=True).attentions
        for (layer, head), weight in heads.items():
            probs = attentions[layer][0, head]
            if strength == "norm":
                probs = probs * carried(bert, ids, layer, head)
            for i, sender in enumerate(window.owners):
                for j, receiver in enumerate(window.owners):
                    if sender >= 0 and sender != receiver and receiver in window.words:
                        out[window.document][sender, receiver] += weight * probs[i, j].item()
    return out


def carried(bert, ids, layer, head):
    """The length of each token's value, taken through the output projection, of one head."""
    hidden = []
    hook = bert.layers[layer].register_forward_pre_hook(lambda _, args: hidden.append(args[0]))
    with torch.no_grad():
        bert(ids)
    hook.remove()
    attention = bert.layers[layer].attention
    size = attention.head_size
    rows = slice(head * size, (head + 1) * size)
    value = hidden[0] @ attention.value.weight[rows].T + attention.value.bias[rows]
    return (value @ attention.output.weight[:, rows].T).norm(dim=1)


def matrix(links: Links) -> np.ndarray:
    out = np.zeros((links.count, links.count))
    for i, j, strength in links.triples():
        out[i, j] += strength
    return out


@pytest.mark.parametrize("strength", ["attention", "norm"])
def test_links_are_what_loops_over_the_attentions_give(bert, windows, documents, strength):
    expected = by_loops(bert, windows, documents, HEADS, strength)
    assert len(windows) > len(documents) + 2
    for links, dense in zip(word_links(bert, windows, documents, HEADS, strength), expected):
        np.testing.assert_allclose(matrix(links), dense, atol=1e-10)
        np.testing.assert_allclose(links.received(), dense.sum(0), atol=1e-10)
        np.testing.assert_allclose(links.sent(), dense.sum(1), atol=1e-10)
        for count in (1, 3, 500):
            best = [
                (i, int(j), pytest.approx(row[j]))
                for i, row in enumerate(dense)
                for j in np.argsort(-row, kind="stable")[:count]
                if row[j] > 0
            ]
            assert links.strongest(count) == best
        mass = np.random.default_rng(0).random(links.count)
        np.testing.assert_allclose(links.spread(mass), mass @ dense, atol=1e-10)


def test_each_heads_received_attention_is_that_of_its_links(bert, windows, documents):
    received = received_by_head(bert, windows, documents, "norm")
    for head in HEADS:
        links = word_links(bert, windows, documents, {head: 1.0}, "norm")
        for every, one in zip(received, links):
            np.testing.assert_allclose(every[:, *head], one.received(), atol=1e-10)


@pytest.mark.parametrize("heads", [HEADS, {(1, 0): 2.0}, {}])
def test_one_pass_gives_the_links_of_these_heads_and_what_all_receive(
    bert, windows, documents, heads
):
    links, received = links_and_received(bert, windows, documents, heads)
    for both, alone in zip(links, word_links(bert, windows, documents, heads)):
        np.testing.assert_allclose(matrix(both), matrix(alone), atol=1e-12)
        assert [block[:2] for block in both.blocks] == [block[:2] for block in alone.blocks]
    for both, alone in zip(received, received_by_head(bert, windows, documents)):
        np.testing.assert_allclose(both, alone, atol=1e-12)


def test_links_do_not_depend_on_the_rest_of_the_batch(bert, windows, documents):
    together = word_links(bert, windows, documents, HEADS)
    for number, document in enumerate(documents):
        own = [w._replace(document=0) for w in windows if w.document == number]
        (alone,) = word_links(bert, own[::-1], [document], HEADS)
        np.testing.assert_allclose(matrix(alone), matrix(together[number]), atol=1e-12)


def test_a_head_that_was_pruned_gives_nothing(pieces, windows, documents):
    tagger = tagger_for(pieces)
    mask = torch.ones(3, 5)
    mask[0, 1] = mask[2] = 0
    kept = prune(tagger, mask).bert
    links = word_links(kept, windows, documents, {(0, 1): 1.0, (0, 4): 1.0, (2, 0): 1.0})
    expected = word_links(tagger.bert, windows, documents, {(0, 4): 1.0})
    np.testing.assert_allclose(links[0].received(), expected[0].received(), atol=1e-10)
    nothing = word_links(kept, windows, documents, {(2, 0): 1.0})
    assert not nothing[0].received().any()


def test_a_word_receives_from_other_words_only():
    """Tokens: [CLS], word 6 (two pieces), a comma, word 7, [SEP]."""
    window = Window(0, [0] * 6, [7], [4], [-1, 6, 6, -1, 7, -1])
    probs = torch.arange(36, dtype=torch.float64).reshape(1, 6, 6)
    from_word_6_to_word_7 = probs[0, 1, 4] + probs[0, 2, 4]
    assert received_by_word(probs, window).tolist() == [[from_word_6_to_word_7.item()]]


@pytest.mark.parametrize("personal", [False, True])
@pytest.mark.parametrize("damping", [0.85, 0.3])
def test_pagerank_is_that_of_networkx(personal, damping):
    """Ten words in two overlapping windows; word 3 links nowhere."""
    generator = np.random.default_rng(1)
    first, second = generator.random((7, 5)), generator.random((8, 5))
    first[3] = second[1] = 0
    links = Links(10, [Block(0, 0, first), Block(2, 5, second)])
    personalisation = generator.random(10) if personal else None
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(10))
    graph.add_weighted_edges_from(links.triples())
    start = dict(enumerate(personalisation)) if personal else None
    expected = networkx.pagerank(graph, damping, personalization=start, tol=1e-14, max_iter=1000)
    rank = pagerank(links, damping, personalisation)
    np.testing.assert_allclose(rank, [expected[i] for i in range(10)], atol=1e-10)


def test_pagerank_of_damaged_links_ends():
    assert np.isnan(pagerank(Links(2, [Block(0, 0, np.array([[0, np.nan], [1, 0]]))]))).any()


def test_pagerank_without_links_is_where_it_starts():
    start = np.array([1.0, 3.0])
    np.testing.assert_allclose(pagerank(Links(2, []), personalisation=start), start / 4)
