"""Fast ablation, gradients and attention profile against naive second implementations."""

import copy
import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics import average_precision_score
from tiny import TINY, tagger_for
from torch import Tensor

from minibert import BertForTokenClassification
from minibert.config import Head, head_name, parse_head
from minibert.data.batches import Split, Window, make_split
from minibert.data.corpus import SAMPLE, read_documents
from minibert.data.documents import Document
from minibert.evaluation import intervals
from minibert.evaluation.tagger import in_keyphrase, measures, predict
from minibert.heads.ablation import (
    ablate,
    cumulative,
    masks_without,
    mean_context,
    passes_of_ablate,
    passes_of_cumulative,
)
from minibert.heads.costs import flops_of
from minibert.heads.importance import attention_profile, by_value, head_gradients
from minibert.pruning import without_heads

pytestmark = pytest.mark.numeric

LABELS = ("O", "B", "I")
LAYERS, HEADS = TINY.num_hidden_layers, TINY.num_attention_heads
# Wide layers, in which the arithmetic is that of BERT: a third of it in the projections.
WIDE = replace(TINY, hidden_size=640, intermediate_size=2560, max_position_embeddings=32)


@pytest.fixture(scope="module")
def model(pieces) -> BertForTokenClassification:
    return tagger_for(pieces)


@pytest.fixture(scope="module")
def split(pieces) -> Split:
    """Three documents in many overlapping windows."""
    documents = read_documents(SAMPLE / "dev.jsonl")[:3]
    return make_split(documents, pieces, "bio", LABELS, 60)


@pytest.fixture(scope="module")
def wide() -> BertForTokenClassification:
    return BertForTokenClassification(WIDE).eval()


def naive(model, split, mask: Tensor | None = None) -> list[np.ndarray]:
    """The predictions under one mask, by running the whole model."""
    return [part[0] for part in predict(model, split, head_mask=mask)]


def assert_row(predictions, row: int, expected) -> None:
    for array, other in zip(predictions, expected, strict=True):
        np.testing.assert_allclose(array[row], other, rtol=0, atol=1e-10)


def singles() -> Tensor:
    return masks_without(TINY, [[head] for head in TINY.present_heads])


@pytest.mark.parametrize("tokens", [1, 200, 10_000])
def test_fast_ablation_equals_the_naive_loop(model, split, tokens):
    generator = torch.Generator().manual_seed(0)
    several = torch.rand(4, LAYERS, HEADS, generator=generator, dtype=torch.float64)
    several[0, :2] = 1
    several[1] = 1
    several[2] = 0
    masks = torch.cat([singles()[[0, 4, 5, 7, 14]].double(), several])
    predictions = ablate(model, split, masks, tokens=tokens)
    assert_row(predictions, 0, naive(model, split))
    for row, mask in enumerate(masks, 1):
        assert_row(predictions, row, naive(model, split, mask))


@pytest.mark.parametrize("ends", [range(1, 16), [1, 2, 6, 7, 13, 15]])
def test_cumulative_masking_equals_the_naive_loop(model, split, ends):
    order = shuffled_heads()
    steps = [order[start:end] for start, end in pairwise([0, *ends])]
    predictions = cumulative(model, split, steps, tokens=150)
    assert len(predictions.loss) == 1 + len(ends)
    for row, end in enumerate([0, *ends]):
        mask = masks_without(TINY, [order[:end]])[0].double()
        assert_row(predictions, row, naive(model, split, mask))


def shuffled_heads() -> list[Head]:
    order = TINY.present_heads
    random.Random(0).shuffle(order)
    return order


def test_passes_are_the_arithmetic_over_that_of_a_forward_pass(wide, pieces):
    """Counted by torch. A long window of one word per piece: nothing is left out at the end."""
    ids = [pieces.cls_id, *range(5, 35), pieces.sep_id]
    words = [*range(30)]
    window = Window(0, ids, words, [w + 1 for w in words], [-1, *words, -1])
    document = Document("d", "a " * 30, [(2 * w, 2 * w + 1) for w in words])
    split = Split([document], [window], [[0] * 30])
    forward = flops_of(lambda: wide(torch.tensor([ids])))

    masks = masks_without(WIDE, [[head] for head in WIDE.present_heads[::3]] + [[(0, 1), (2, 2)]])
    counted = flops_of(lambda: ablate(wide, split, masks)) / forward
    assert passes_of_ablate(masks) == pytest.approx(counted, rel=0.05)

    order = shuffled_heads()
    steps = [order[:3], order[3:8], order[8:]]
    counted = flops_of(lambda: cumulative(wide, split, steps)) / forward
    assert passes_of_cumulative(WIDE, steps) == pytest.approx(counted, rel=0.05)


def with_mean_output(model, fill: Tensor, masked) -> BertForTokenClassification:
    """The model with the masked heads' mean output added to its output biases."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for layer, head in masked:
            output = changed.bert.layers[layer].attention.output
            columns = slice(head * TINY.head_size, (head + 1) * TINY.head_size)
            output.bias += output.weight[:, columns] @ fill[layer, head]
            output.weight[:, columns] = 0
    return changed


def test_mean_ablation_equals_mean_output_in_the_bias(model, split):
    fill = mean_context(model, split).double()
    sets = [[(0, 2)], [(2, 4)], [(0, 1), (1, 1), (1, 3)]]
    predictions = ablate(model, split, masks_without(TINY, sets), fill)
    for row, masked in enumerate(sets, 1):
        assert_row(predictions, row, naive(with_mean_output(model, fill, masked), split))
    order = [(1, 1), (0, 1), (1, 3), (2, 0)]
    steps = cumulative(model, split, [[head] for head in order], fill)
    for step in range(1, 5):
        assert_row(steps, step, naive(with_mean_output(model, fill, order[:step]), split))


def test_mean_context_is_the_mean_over_all_tokens(model, split):
    total, count = torch.zeros(LAYERS, HEADS, TINY.head_size, dtype=torch.float64), 0
    for window in split.windows:
        ids = torch.tensor([window.input_ids])
        words, positions = model.bert.embeddings.word(ids[0]), torch.arange(ids.shape[1])
        hidden = model.bert.embeddings(words, positions, torch.zeros_like(ids[0]))
        packing = model.bert.packing(torch.ones_like(ids))
        for number, layer in enumerate(model.bert.layers):
            total[number] += layer.attention.context(hidden, packing).sum(0).detach()
            hidden = layer(hidden, packing)
        count += ids.shape[1]
    for tokens in (64, 4096):
        measured = mean_context(model, split, tokens=tokens)
        torch.testing.assert_close(measured.double(), total / count, rtol=0, atol=1e-10)


def test_only_a_head_with_zeroed_columns_has_no_effect(model, split):
    dead = copy.deepcopy(model)
    with torch.no_grad():
        dead.bert.layers[1].attention.output.weight[:, 2 * 6 : 3 * 6] = 0
    loss = ablate(dead, split, singles()).loss
    moved = np.abs(loss[1:] - loss[0]).max(1).reshape(LAYERS, HEADS)
    assert moved[1, 2] < 1e-12
    moved[1, 2] = 1
    assert moved.min() > 1e-4


def test_pruned_model_is_ablated_by_original_head_indices(model, split):
    gone = [(0, 0), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]
    smaller = without_heads(model, gone)
    masks = masks_without(TINY, [[(0, 4)], [(2, 1)], [(0, 0)]])
    predictions = ablate(smaller, split, masks)
    for row, head in enumerate([None, (0, 4), (2, 1), None]):
        masked = gone + ([head] if head else [])
        assert_row(predictions, row, naive(model, split, masks_without(TINY, [masked])[0].double()))


def test_masks_of_a_wrong_shape_are_refused(model, split):
    with pytest.raises(ValueError, match=r"\(V, 3, 5\), not \(3, 5\)"):
        ablate(model, split, torch.ones(3, 5))


def test_head_gradients_match_finite_differences_per_document(model, split):
    gradients = head_gradients(model, split, tokens=100)
    np.testing.assert_allclose(gradients, head_gradients(model, split, tokens=9999), atol=1e-10)
    step = 1e-5
    for head in [(0, 0), (1, 3), (2, 4)]:
        up, down = (torch.ones(LAYERS, HEADS, dtype=torch.float64) for _ in range(2))
        up[head] += step
        down[head] -= step
        slope = (naive(model, split, up)[0] - naive(model, split, down)[0]) / (2 * step)
        np.testing.assert_allclose(gradients[:, head[0], head[1]], slope, rtol=1e-6, atol=1e-6)
    assert all(p.grad is None for p in model.parameters())


def test_attention_profile_matches_a_naive_loop(model, split):
    gold = in_keyphrase(split.targets, LABELS)
    measured = attention_profile(model, split, gold)
    entropy, count = torch.zeros(LAYERS, HEADS, dtype=torch.float64), 0
    received = [np.zeros((len(t), HEADS)) for t in split.targets]  # of layer 1
    for window in split.windows:
        attentions = model(torch.tensor([window.input_ids]), return_attentions=True).attentions
        for layer, probs in enumerate(attentions):
            entropy[layer] -= (probs * probs.log()).sum((0, 2, 3)).detach()
        count += len(window.input_ids)
        for head in range(HEADS):
            for word in window.words:
                pieces = [i for i, w in enumerate(window.owners) if w == word]
                others = [i for i, w in enumerate(window.owners) if w not in (-1, word)]
                total = attentions[1][0, head][others][:, pieces].sum().item()
                received[window.document][word, head] = total
    np.testing.assert_allclose(measured["entropy"], entropy / count, atol=1e-10)
    of_words, inside = np.concatenate(received), np.concatenate(gold)
    ratio = of_words[inside].mean(0) / of_words[~inside].mean(0)
    np.testing.assert_allclose(measured["towards"][1], ratio, atol=1e-10)
    for head in range(HEADS):
        ap = average_precision_score(inside, of_words[:, head])
        assert measured["AP"][1, head] == pytest.approx(ap, abs=1e-10)


def test_measures_match_each_mask_alone(model, split):
    masks = singles()[:3]
    predictions = ablate(model, split, masks)
    draws = intervals.resamples(3, 20)
    values = measures(predictions, split, LABELS, 0.5, draws)
    gold = np.concatenate(in_keyphrase(split.targets, LABELS))
    for column, mask in enumerate([None, *masks.double()]):
        loss, _, ranks, _ = naive(model, split, mask)
        assert values["loss"][0, column] == pytest.approx(loss.sum() / len(gold), abs=1e-10)
        ap = average_precision_score(gold, ranks)
        assert values["AP"][0, column] == pytest.approx(ap, abs=1e-10)
        accuracy = ((ranks >= 0.5) == gold).mean()
        assert values["accuracy"][0, column] == pytest.approx(accuracy, abs=1e-10)
    # A resample that draws only document 1 is document 1.
    alone = measures(predictions, split, LABELS, 0.5, np.array([[0.0, 3.0, 0.0]]))
    loss = predictions.loss[:, 1] / len(split.targets[1])
    np.testing.assert_allclose(alone["loss"][0], loss, atol=1e-10)


def test_head_names_round_trip():
    assert head_name((3, 11)) == "L3H11"
    assert parse_head("L3H11") == (3, 11)


def test_benjamini_hochberg_and_rank_correlation_match_scipy():
    generator = np.random.default_rng(0)
    for _ in range(50):
        p = generator.random(20) ** 3
        adjusted = scipy.stats.false_discovery_control(p)
        assert (intervals.benjamini_hochberg(p) == (adjusted <= 0.05)).all()
        a, b = generator.integers(0, 6, (2, 30))
        expected = scipy.stats.spearmanr(a, b).statistic
        assert intervals.rank_correlation(a, b) == pytest.approx(expected, abs=1e-12)


def test_changes_are_paired():
    """A constant difference is significant however much the documents differ."""
    generator = np.random.default_rng(0)
    base = generator.normal(0, 100, (501, 1))
    noise = generator.normal(0, 1, (501, 1))
    constant, none, noisy = intervals.changes(
        np.hstack([base, base + 1 + 0.01 * noise, base, base + 1e-3 + noise])
    )
    assert constant.significant
    assert constant.low < constant.value < constant.high
    assert constant.value == pytest.approx(1, abs=0.05)
    assert (none.value, none.p, none.significant) == (0, 1, False)
    assert not noisy.significant


def test_change_without_usable_resamples_is_not_significant():
    """With one document all resamples are equal. AP is NaN in a resample without positives."""
    (alone,) = intervals.changes(np.tile([1.0, 2.0], (50, 1)))
    assert (alone.value, alone.p, alone.significant) == (1, 1, False)
    generator = np.random.default_rng(0)
    values = np.hstack([np.zeros((101, 1)), generator.normal(0, 1, (101, 1))])
    values[0, 1] = 0.1
    expected = intervals.changes(np.delete(values, [5, 9], axis=0))
    values[[5, 9]] = np.nan
    assert intervals.changes(values) == expected


def test_pruning_with_a_fill_adds_it_to_the_bias(model, split):
    fill = mean_context(model, split)
    gone = [(0, 2), (1, 1), (1, 3)]
    smaller = without_heads(without_heads(model, gone[:1], fill), gone[1:], fill)
    expected = naive(with_mean_output(model, fill, gone), split)
    for array, other in zip(naive(smaller, split), expected):
        np.testing.assert_allclose(array, other, rtol=0, atol=1e-10)


def test_by_value_starts_with_the_lowest():
    values = np.array([[3.0, 1.0], [2.0, 1.0]])
    assert by_value(values, [(0, 0), (0, 1), (1, 0)]) == [(0, 1), (1, 0), (0, 0)]
    assert by_value(values, [(1, 1), (0, 1)]) == [(0, 1), (1, 1)]  # a tie: by number
