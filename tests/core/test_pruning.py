"""A pruned model computes the same function as the masked one."""

import pytest
import torch
from tiny import TINY, tagger_for

from minibert import BertForTokenClassification, load_pretrained, save_pretrained
from minibert import pruning as pruning_module
from minibert.heads.ablation import masks_without
from minibert.pruning import at_full_shape, prune, with_heads, without_heads

pytestmark = pytest.mark.numeric


@pytest.fixture
def model(pieces) -> BertForTokenClassification:
    return tagger_for(pieces)


def test_pruned_model_equals_masked_model_also_after_saving(family_tagger, family_batch, tmp_path):
    tagger, batch = family_tagger, family_batch
    removed = [(0, 1), (0, 2), (2, 0), (2, 1), (2, 2), (2, 3), (2, 4)]
    once = without_heads(tagger, removed[:3])
    smaller = without_heads(once, removed[3:])  # again, by original indices
    masked = tagger(**batch, head_mask=masks_without(TINY, [removed])[0].double()).logits
    torch.testing.assert_close(smaller(**batch).logits, masked, rtol=0, atol=1e-10)
    assert tagger.config.pruned_heads == {}
    assert smaller.config.pruned_heads == {0: [1, 2], 2: [0, 1, 2, 3, 4]}

    save_pretrained(smaller, tmp_path)
    loaded = load_pretrained(tmp_path, dtype=torch.float64)
    assert loaded.config == smaller.config
    assert torch.equal(loaded(**batch).logits, smaller(**batch).logits)


def test_values_between_0_and_1_are_folded_into_the_output(tagger, batch):
    head_mask = torch.rand(3, 5, generator=torch.Generator().manual_seed(0)).double()
    head_mask[0, 2] = head_mask[1] = 0
    smaller = prune(tagger, head_mask)
    assert smaller.config.pruned_heads == {0: [2], 1: [0, 1, 2, 3, 4]}
    masked = tagger(**batch, head_mask=head_mask).logits
    torch.testing.assert_close(smaller(**batch).logits, masked, rtol=0, atol=1e-10)

    second_mask = torch.ones(3, 5).double()
    second_mask[0, 4], second_mask[2, 1] = 0.5, 0
    twice = prune(smaller, second_mask)
    masked = tagger(**batch, head_mask=head_mask * second_mask).logits
    torch.testing.assert_close(twice(**batch).logits, masked, rtol=0, atol=1e-10)


@pytest.mark.parametrize("head_mask", [{0: [1]}, torch.ones(5, 3), torch.ones(2, 3, 5)])
def test_invalid_head_masks_are_refused(tagger, head_mask):
    with pytest.raises(ValueError, match=r"head_mask must be a tensor .* \(3, 5\)"):
        prune(tagger, head_mask)
    with pytest.raises(ValueError, match=r"\[\(0, 1\)\], not a dictionary"):
        without_heads(tagger, {0: [1]})


def test_frozen_weights_stay_frozen(tagger):
    """Tensors: three layers with 4 of norms, 4 of feed-forward and 8 of attention, 5 of embeddings,
    2 of the classifier."""
    tagger.bert.requires_grad_(False)
    tagger.bert.layers[1].attention.query.bias.requires_grad_(True)
    trained = {"classifier.weight", "classifier.bias", "bert.layers.1.attention.query.bias"}
    smaller = without_heads(tagger, [(0, 1), *((1, head) for head in range(5))])
    head_mask = torch.ones(3, 5)
    head_mask[0, 1] = head_mask[1] = 0
    for model in (smaller, prune(tagger, head_mask), at_full_shape(smaller)):
        assert {n for n, p in model.named_parameters() if p.requires_grad} == trained
        assert len(list(model.parameters())) == 3 * 16 + 5 + 2


def test_folding_in_float32(tagger, batch):
    head_mask = torch.linspace(0, 1, 15).view(3, 5)
    smaller = prune(tagger.float(), head_mask)
    assert smaller.classifier.weight.dtype == torch.float32
    masked = tagger(**batch, head_mask=head_mask).logits
    torch.testing.assert_close(smaller(**batch).logits, masked, rtol=0, atol=1e-4)


def test_pruned_model_with_nan_is_refused(tagger):
    with torch.no_grad():
        tagger.classifier.weight[0, 0] = float("nan")
    with pytest.raises(RuntimeError, match="by nan"):
        prune(tagger, masks_without(TINY, [[(0, 1)]])[0])


def test_pruned_model_that_differs_from_masked_is_refused(tagger, monkeypatch):
    def wrong(model, heads):
        smaller = without_heads(model, heads)
        smaller.bert.layers[1].attention.output.bias.data[0] += 1e-6
        return smaller

    monkeypatch.setattr(pruning_module, "without_heads", wrong)
    with pytest.raises(RuntimeError, match="differs from the masked one"):
        prune(tagger, masks_without(TINY, [[(0, 1)]])[0])


def test_full_shape_equals_pruned_and_loads_in_transformers(family_tagger, family_batch, tmp_path):
    transformers = pytest.importorskip("transformers")
    tagger, batch = family_tagger, family_batch
    smaller = without_heads(tagger, [(0, 1), *((1, head) for head in range(5)), (2, 4)])
    wide = at_full_shape(smaller)
    assert wide.config == tagger.config
    torch.testing.assert_close(wide(**batch).logits, smaller(**batch).logits, rtol=0, atol=1e-10)
    assert smaller.config.pruned_heads  # a copy was changed

    save_pretrained(wide.float(), tmp_path)
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path)
    logits = theirs.double().eval()(**batch).logits
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(logits[real].float(), wide(**batch).logits[real], rtol=0, atol=1e-4)


def test_attention_with_fewer_heads_shares_no_memory(tagger):
    attention = tagger.bert.layers[0].attention
    before = {name: tensor.clone() for name, tensor in attention.state_dict().items()}
    smaller = with_heads(attention, TINY, [1, 3])
    assert smaller.heads == (1, 3)
    for parameter in smaller.parameters():
        parameter.data.zero_()
    for name, tensor in attention.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.filterwarnings("ignore")
def test_full_shape_fills_pruned_heads_with_zeros(model):
    smaller = without_heads(model, [(0, 1), (2, 0), (2, 4)])
    torch.use_deterministic_algorithms(True)  # memory that is not written holds NaN
    try:
        wide = at_full_shape(smaller)
    finally:
        torch.use_deterministic_algorithms(False)

    for layer, heads in {0: [1], 2: [0, 4]}.items():
        attention = wide.bert.layers[layer].attention
        for head in heads:
            rows = slice(head * attention.head_size, (head + 1) * attention.head_size)
            for part in (attention.query, attention.key, attention.value):
                assert (part.weight[rows] == 0).all()
                assert (part.bias[rows] == 0).all()
            assert (attention.output.weight[:, rows] == 0).all()
