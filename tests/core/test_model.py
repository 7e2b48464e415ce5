"""Properties of the model for any weights: padding, head masks, pruning, dropout."""

import pickle
import re
from dataclasses import replace

import pytest
import torch
from tiny import TINY, randomise
from torch import nn
from torch.testing import assert_close

from minibert import Bert, BertForTokenClassification
from minibert.attention import Packing
from minibert.config import ACTIVATIONS
from minibert.model import IGNORED

pytestmark = pytest.mark.numeric

EXACT = {"atol": 1e-10, "rtol": 1e-10}
LAYERS, HEADS, SIZE = TINY.num_hidden_layers, TINY.num_attention_heads, TINY.head_size


@pytest.fixture(params=["ragged", "even"])
def batch(request, batch):
    """As in conftest.py, and with six real tokens in each sequence, which form a plain batch."""
    if request.param == "even":
        mask = torch.zeros(4, 11, dtype=torch.long)
        mask[:3, :6] = 1
        mask[3, 2:4] = mask[3, 7:] = 1
        batch["attention_mask"] = mask
    return batch


def draw(*shape: int, seed: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def some_heads(*shape: int) -> torch.Tensor:
    return (draw(*shape) < 0.5).double()


def with_scaled_columns(model: BertForTokenClassification, head_mask: torch.Tensor) -> None:
    with torch.no_grad():
        for layer, row in zip(model.bert.layers, head_mask):
            layer.attention.output.weight *= row.repeat_interleave(SIZE)


# Padding ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("filler", [0, 7, -1, 10**6])
def test_padding_content_does_not_change_outputs(tagger, batch, filler):
    padding = batch["attention_mask"] == 0
    filled = batch | {
        name: batch[name].masked_fill(padding, filler) for name in ("input_ids", "token_type_ids")
    }
    out, other = (tagger(**x, return_attentions=True) for x in (batch, filled))
    assert torch.equal(out.logits, other.logits)
    assert all(map(torch.equal, out.attentions, other.attentions))


def test_outputs_are_zero_at_padding(tagger, batch):
    out = tagger(**batch, return_attentions=True)
    padding = batch["attention_mask"] == 0
    assert not out.last_hidden_state[padding].any()
    assert out.last_hidden_state[~padding].all()
    for probs in out.attentions:
        assert not probs.transpose(1, 2)[padding].any()  # as a query
        assert not probs.permute(0, 3, 1, 2)[padding].any()  # as a key


def test_batching_does_not_change_outputs(tagger, batch):
    logits = tagger(**batch).logits
    for i in range(len(logits)):
        alone = tagger(**{name: value[i : i + 1] for name, value in batch.items()}).logits
        assert_close(alone[0], logits[i], **EXACT)


@pytest.mark.parametrize("i", [0, 1, 2])
def test_right_padding_does_not_change_outputs(tagger, batch, i):
    length = int(batch["attention_mask"][i].sum())
    short = {name: value[i : i + 1, :length] for name, value in batch.items()}
    long = {name: nn.functional.pad(value, (0, 5)) for name, value in short.items()}
    expected = tagger(**batch).logits[i, :length]
    assert_close(tagger(**short).logits[0], expected, **EXACT)
    assert_close(tagger(**long).logits[0, :length], expected, **EXACT)


def test_position_embeddings_follow_columns(tagger, batch):
    shifted = {name: nn.functional.pad(value, (1, 0)) for name, value in batch.items()}
    moved = tagger(**shifted).logits[:, 1:]
    assert (moved - tagger(**batch).logits).abs().amax((1, 2)).min() > 1e-3


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int32])
def test_attention_mask_of_any_dtype(tagger, batch, dtype):
    other = batch | {"attention_mask": batch["attention_mask"].to(dtype)}
    assert torch.equal(tagger(**other).logits, tagger(**batch).logits)


def test_empty_sequence_does_not_affect_others(tagger, batch):
    empty = batch | {"attention_mask": batch["attention_mask"].clone()}
    empty["attention_mask"][1] = 0
    mask = draw(4, LAYERS, HEADS).requires_grad_()
    labels = batch["input_ids"] % 3
    labels[1] = IGNORED
    outs = [
        tagger(**x, head_mask=mask, labels=labels, return_attentions=True) for x in (batch, empty)
    ]
    rest = [0, 2, 3]
    assert_close(outs[1].logits[rest], outs[0].logits[rest], **EXACT)
    assert not outs[1].last_hidden_state[1].any()
    assert not any(probs[1].any() for probs in outs[1].attentions)
    (outs[1].loss + sum(probs.square().sum() for probs in outs[1].attentions)).backward()
    assert not mask.grad[1].any()
    assert mask.grad[rest].all()
    assert all(p.grad.isfinite().all() for p in tagger.parameters())


def test_batch_of_padding_only_is_zero(tagger, batch):
    out = tagger(**batch | {"attention_mask": torch.zeros_like(batch["attention_mask"])})
    assert out.last_hidden_state.shape == (4, 11, 30)
    assert not out.last_hidden_state.any()


def test_pack_unpack_round_trip(batch):
    packing = Packing.of(batch["attention_mask"])
    padded = draw(4, 11, 2, 3)
    packed = packing.pack(padded)
    assert packing.lengths in ([11, 7, 1, 9], [6, 6, 6, 6])
    assert packed.shape == (batch["attention_mask"].sum(), 2, 3)
    assert torch.equal(packed, padded[packing.rows, packing.positions])
    assert torch.equal(packing.unpack(packed), padded * batch["attention_mask"][..., None, None])


@pytest.mark.parametrize("kind", ["encoder", "tagger"])
def test_too_long_sequence_raises(tagger, kind):
    model = tagger if kind == "tagger" else tagger.bert
    assert model(torch.zeros(1, 19, dtype=torch.long)).last_hidden_state.shape == (1, 19, 30)
    with pytest.raises(ValueError, match=r"20 tokens .* 19"):
        model(torch.zeros(1, 20, dtype=torch.long))


# Attention --------------------------------------------------------------------------------------


def test_attentions_are_distributions_that_give_the_context(tagger, batch):
    packing = Packing.of(batch["attention_mask"])
    hidden = tagger.bert.start(batch["input_ids"], packing, batch["token_type_ids"])
    out = tagger(**batch, return_attentions=True)
    assert [tuple(probs.shape) for probs in out.attentions] == [(4, HEADS, 11, 11)] * LAYERS
    for layer, probs in zip(tagger.bert.layers, out.attentions):
        total = packing.pack(probs.sum(-1).transpose(1, 2))  # (T, H)
        assert_close(total, torch.ones_like(total), **EXACT)
        values = packing.unpack(layer.attention.value(hidden)).unflatten(-1, (HEADS, SIZE))
        context = packing.pack(torch.einsum("bhqj,bjhk->bqhk", probs, values))
        assert_close(layer.attention.context(hidden, packing), context, **EXACT)
        hidden = layer(hidden, packing)


def test_return_attentions_does_not_change_logits(tagger, batch):
    assert tagger(**batch).attentions is None
    out = tagger(**batch, return_attentions=True)
    assert torch.equal(out.logits, tagger(**batch).logits)


def test_attentions_are_before_head_mask_and_dropout(tagger, batch):
    plain = tagger(**batch, return_attentions=True).attentions[0]
    mask = torch.zeros(LAYERS, HEADS, dtype=torch.float64)
    assert torch.equal(tagger(**batch, head_mask=mask, return_attentions=True).attentions[0], plain)
    dropping = randomise(
        BertForTokenClassification(
            replace(TINY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.9)
        ).double()
    )
    assert_close(dropping.train()(**batch, return_attentions=True).attentions[0], plain, **EXACT)


# Head masks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["some masked", "fractional", "all masked", "negative, large"])
def test_head_mask_equals_scaled_output_columns(tagger, batch, kind):
    mask = {
        "some masked": some_heads(LAYERS, HEADS),
        "fractional": draw(LAYERS, HEADS),
        "all masked": torch.zeros(LAYERS, HEADS).double(),
        "negative, large": 5 * draw(LAYERS, HEADS) - 2,
    }[kind]
    masked = tagger(**batch, head_mask=mask).logits
    assert (masked - tagger(**batch).logits)[batch["attention_mask"] == 1].abs().max() > 1e-3
    with_scaled_columns(tagger, mask)
    assert_close(masked, tagger(**batch).logits, **EXACT)


@pytest.mark.parametrize(("layer", "head"), [(i, h) for i in range(LAYERS) for h in range(HEADS)])
def test_each_entry_masks_its_own_head(tagger, batch, layer, head):
    mask = torch.ones(LAYERS, HEADS, dtype=torch.float64)
    mask[layer, head] = 0
    masked = tagger(**batch, head_mask=mask).logits
    with_scaled_columns(tagger, mask)
    assert_close(masked, tagger(**batch).logits, **EXACT)


def test_head_mask_of_ones_changes_nothing(tagger, batch):
    plain = tagger(**batch).logits
    for shape in [(LAYERS, HEADS), (4, LAYERS, HEADS)]:
        assert_close(tagger(**batch, head_mask=torch.ones(shape).double()).logits, plain, **EXACT)


def test_mask_per_sequence_equals_sequences_alone(tagger, batch):
    masks = draw(4, LAYERS, HEADS)
    together = tagger(**batch, head_mask=masks).logits
    for i, mask in enumerate(masks):
        alone = tagger(**{k: v[i : i + 1] for k, v in batch.items()}, head_mask=mask).logits
        assert_close(together[i], alone[0], **EXACT)


def test_mask_with_as_many_sequences_as_layers(tagger, batch):
    three = {name: value[:LAYERS] for name, value in batch.items()}
    mask = draw(LAYERS, HEADS)
    each = tagger(**three, head_mask=mask.expand(LAYERS, LAYERS, HEADS)).logits
    assert_close(tagger(**three, head_mask=mask).logits, each, **EXACT)


@pytest.mark.parametrize(
    "shape",
    [
        (),
        (HEADS,),
        (HEADS, LAYERS),
        (LAYERS, 1),
        (1, HEADS),
        (LAYERS, HEADS + 1),
        (LAYERS - 1, HEADS),
        (1, LAYERS, HEADS),
        (5, LAYERS, HEADS),
        (4, HEADS, LAYERS),
        (LAYERS, 4, HEADS),
        (LAYERS, 1, HEADS, 1, 1),
    ],
)
def test_wrong_head_mask_shape_raises(tagger, batch, shape):
    with pytest.raises(ValueError, match=re.escape(f"not {shape}")):
        tagger(**batch, head_mask=torch.ones(shape, dtype=torch.float64))


@pytest.mark.parametrize("head_mask", [{0: [1]}, [[1.0] * HEADS] * LAYERS])
def test_head_mask_must_be_a_tensor(tagger, batch, head_mask):
    message = rf"head_mask must be a tensor \(layers, heads\).* not .*{type(head_mask).__name__}"
    with pytest.raises(ValueError, match=message):
        tagger(**batch, head_mask=head_mask)


@pytest.mark.parametrize("name", ["attention_mask", "token_type_ids", "labels"])
@pytest.mark.parametrize("shape", [(4, 10), (4, 12), (3, 11), (1, 11), (11, 4), (44,), (4, 1, 11)])
def test_inputs_must_have_the_shape_of_the_ids(tagger, batch, name, shape):
    batch[name] = torch.ones(shape, dtype=torch.long)
    message = f"{name} must be (B, L) = (4, 11), not {shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        tagger(**batch)


@pytest.mark.parametrize("family_tagger", ["distilbert"], indirect=True)
def test_token_types_of_distilbert_are_rejected(family_tagger, family_batch):
    types = torch.zeros(4, 11, dtype=torch.long)
    for model in (family_tagger, family_tagger.bert):
        with pytest.raises(ValueError, match="no token types: leave out token_type_ids"):
            model(**family_batch, token_type_ids=types)


@pytest.mark.parametrize("shape", [(11,), (4, 11, 1)])
def test_token_ids_must_be_two_dimensional(tagger, shape):
    with pytest.raises(ValueError, match=re.escape(f"input_ids must be (B, L), not {shape}")):
        tagger(torch.ones(shape, dtype=torch.long))


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_pickled_model_gives_the_same_logits(batch, act):
    """Spawned processes receive their arguments pickled."""
    model = BertForTokenClassification(replace(TINY, hidden_act=act)).double().eval()
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(**batch).logits, model(**batch).logits)


# Pruning ----------------------------------------------------------------------------------------

PRUNED = [
    {1: [0]},
    {0: [1, 3], 2: [4]},
    {0: [2], 1: [0, 1, 2, 3, 4], 2: [3, 0]},
    {i: list(range(HEADS)) for i in range(LAYERS)},
]


def pruned_copy(model: BertForTokenClassification, gone: dict) -> BertForTokenClassification:
    """The same model without the weights of the heads `gone`, sliced by hand."""
    small = BertForTokenClassification(replace(TINY, pruned_heads=gone)).double().eval()
    state = model.state_dict()
    for layer, heads in gone.items():
        keep = [h * SIZE + k for h in range(HEADS) if h not in heads for k in range(SIZE)]
        prefix = f"bert.layers.{layer}.attention"
        for part in ("query", "key", "value"):
            for kind in ("weight", "bias"):
                state[f"{prefix}.{part}.{kind}"] = state[f"{prefix}.{part}.{kind}"][keep]
        state[f"{prefix}.output.weight"] = state[f"{prefix}.output.weight"][:, keep]
    small.load_state_dict(state)
    return small


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("gone", PRUNED)
def test_pruned_equals_masked(tagger, batch, gone):
    mask = torch.ones(LAYERS, HEADS, dtype=torch.float64)
    for layer, heads in gone.items():
        mask[layer, heads] = 0
    small = pruned_copy(tagger, gone)
    full = tagger(**batch, head_mask=mask, return_attentions=True)
    out = small(**batch, return_attentions=True)
    assert_close(out.logits, full.logits, **EXACT)
    for i in range(LAYERS):
        assert_close(out.attentions[i], full.attentions[i][:, mask[i] == 1], **EXACT)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("gone", PRUNED)
@pytest.mark.parametrize("shape", [(LAYERS, HEADS), (4, LAYERS, HEADS)])
def test_pruned_model_uses_original_head_indices(tagger, batch, gone, shape):
    mask = draw(*shape)
    out = pruned_copy(tagger, gone)(**batch, head_mask=mask)
    for layer, heads in gone.items():
        mask[..., layer, heads] = 0
    assert_close(out.logits, tagger(**batch, head_mask=mask).logits, **EXACT)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_model_without_heads_has_gradients(tagger, batch):
    small = pruned_copy(tagger, PRUNED[-1]).train()
    small(**batch, labels=batch["input_ids"] % 3).loss.backward()
    assert small.bert.layers[0].attention.output.bias.grad.any()
    assert small.bert.layers[0].expand.weight.grad.any()


# Loss, dropout, fresh weights -------------------------------------------------------------------


def test_loss_is_mean_cross_entropy_of_scored_tokens(tagger, batch):
    labels = torch.full((4, 11), IGNORED)
    scored = [(0, 0, 2), (0, 10, 1), (1, 3, 0), (3, 9, 2)]
    for row, column, label in scored:
        labels[row, column] = label
    out = tagger(**batch, labels=labels)
    log_probs = out.logits - out.logits.exp().sum(-1, keepdim=True).log()
    expected = -sum(log_probs[place] for place in scored) / len(scored)
    assert_close(out.loss, expected, **EXACT)
    assert tagger(**batch).loss is None


def dropping(**probabilities: float) -> BertForTokenClassification:
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = replace(TINY, **{**none, **probabilities})
    return randomise(BertForTokenClassification(config).double())


DROPOUTS = ["hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"]
NEARLY_ONE = 1 - 1e-9


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout_is_active_in_train_mode_only(tagger, batch, name):
    model = dropping(**{name: 0.5})
    torch.manual_seed(0)
    first, second = (model.train()(**batch).logits for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(model.eval()(**batch).logits, tagger(**batch).logits)


def test_train_mode_without_dropout_equals_eval_mode(tagger, batch):
    assert torch.equal(dropping().train()(**batch).logits, tagger(**batch).logits)


def test_dropout_is_not_applied_to_the_residual(batch):
    model = dropping(hidden_dropout_prob=NEARLY_ONE).train()
    packing = Packing.of(batch["attention_mask"])
    layer, hidden = model.bert.layers[0], draw(len(packing.token_index), 30)
    expected = layer.output_norm(layer.attention_norm(hidden))
    assert_close(layer(hidden, packing), expected, **EXACT)
    assert not model.bert.start(batch["input_ids"], packing, batch["token_type_ids"]).any()


def test_attention_dropout_is_applied_to_probabilities(batch):
    attention = dropping(attention_probs_dropout_prob=NEARLY_ONE).train().bert.layers[0].attention
    packing = Packing.of(batch["attention_mask"])
    out = attention(draw(len(packing.token_index), 30), packing)
    assert_close(out, attention.output.bias.expand_as(out), **EXACT)


def test_classifier_dropout_defaults_to_hidden_dropout(batch):
    one = dropping(classifier_dropout=NEARLY_ONE).train()
    assert_close(one(**batch).logits, one.classifier.bias.expand(4, 11, 3), **EXACT)
    assert dropping(hidden_dropout_prob=0.3).dropout.p == 0.3
    assert dropping(hidden_dropout_prob=0.3, classifier_dropout=0.0).dropout.p == 0.0


def test_new_parameters_have_berts_distribution():
    config = replace(TINY, hidden_size=60, vocab_size=400, initializer_range=0.07)
    torch.manual_seed(0)
    model = BertForTokenClassification(config)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            assert parameter.std().item() == pytest.approx(0.07, rel=0.2), name
            assert abs(parameter.mean().item()) < 0.03, name


def test_encoder_equals_tagger_without_classifier(tagger, batch):
    encoder = Bert(TINY).double().eval()
    encoder.load_state_dict(tagger.bert.state_dict())
    out = encoder(**batch)
    assert torch.equal(out.last_hidden_state, tagger(**batch).last_hidden_state)
    assert (out.logits, out.loss, out.attentions) == (None, None, None)
    assert_close(tagger(**batch).logits, tagger.classifier(out.last_hidden_state), **EXACT)


def test_head_mask_of_another_precision(tagger, batch):
    mask = torch.full((3, 5), 0.5)
    half = tagger(**batch, head_mask=mask).logits
    assert torch.equal(half, tagger(**batch, head_mask=mask.double()).logits)
    assert tagger.float()(**batch, head_mask=mask.double()).logits.dtype == torch.float32
