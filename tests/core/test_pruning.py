"""Smaller models compute what the masked ones do; gates find the heads that matter."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny import TINY, tagger_for

from minibert import BertForTokenClassification, load_pretrained, save_pretrained
from minibert import pruning as pruning_module
from minibert.data.batches import Split, collate, make_split
from minibert.data.corpus import SAMPLE, read_documents
from minibert.errors import InputError
from minibert.gates import HardConcreteGates
from minibert.heads import costs as costs_module
from minibert.heads.ablation import masks_without, mean_context
from minibert.heads.costs import compare_costs
from minibert.heads.gate_training import Budget, Penalty, learn_gates
from minibert.heads.repair import repair
from minibert.pruning import at_full_shape, keep_heads, prune, without_heads
from minibert.training.loop import fine_tune
from minibert.training.settings import TrainSettings
from minibert.training.step import Stepper

pytestmark = pytest.mark.numeric

SETTINGS = TrainSettings(batch_size=4, precision="float32")


@pytest.fixture
def model(pieces) -> BertForTokenClassification:
    return tagger_for(pieces)


@pytest.fixture(scope="module")
def split(pieces) -> Split:
    documents = read_documents(SAMPLE / "dev.jsonl")[:4]
    return make_split(documents, pieces, "bio", TINY.labels, 60)


# Removal ----------------------------------------------------------------------------------------


def test_without_heads_equals_masked_and_survives_saving(tagger, batch, tmp_path):
    batch = {k: v.clamp(max=1) if k == "token_type_ids" else v for k, v in batch.items()}
    gone = [(0, 1), (0, 2), (2, 0), (2, 1), (2, 2), (2, 3), (2, 4)]
    once = without_heads(tagger, gone[:3])
    smaller = without_heads(once, gone[3:])  # again, by original numbers
    masked = tagger(**batch, head_mask=masks_without(TINY, [gone])[0].double()).logits
    torch.testing.assert_close(smaller(**batch).logits, masked, rtol=0, atol=1e-10)
    assert tagger.config.pruned_heads == {}
    assert smaller.config.pruned_heads == {0: [1, 2], 2: [0, 1, 2, 3, 4]}
    save_pretrained(smaller, tmp_path)
    loaded = load_pretrained(tmp_path, dtype=torch.float64)
    assert torch.equal(loaded(**batch).logits, smaller(**batch).logits)
    with pytest.raises(ValueError, match="not in tuple"):
        keep_heads(smaller.bert.layers[0].attention, smaller.config, [1])


def test_prune_folds_factors_into_the_output(tagger, batch):
    head_mask = torch.rand(3, 5, generator=torch.Generator().manual_seed(0)).double()
    head_mask[0, 2] = head_mask[1] = 0
    smaller = prune(tagger, head_mask)
    assert smaller.config.pruned_heads == {0: [2], 1: [0, 1, 2, 3, 4]}
    masked = tagger(**batch, head_mask=head_mask).logits
    torch.testing.assert_close(smaller(**batch).logits, masked, rtol=0, atol=1e-10)
    again = torch.ones(3, 5).double()
    again[0, 4], again[2, 1] = 0.5, 0
    twice = prune(smaller, again)
    masked = tagger(**batch, head_mask=head_mask * again).logits
    torch.testing.assert_close(twice(**batch).logits, masked, rtol=0, atol=1e-10)


@pytest.mark.parametrize("head_mask", [{0: [1]}, torch.ones(5, 3), torch.ones(2, 3, 5)])
def test_prune_rejects_invalid_head_masks(tagger, head_mask):
    with pytest.raises(ValueError, match=r"head_mask must be a tensor .* \(3, 5\)"):
        prune(tagger, head_mask)
    with pytest.raises(ValueError, match=r"\[\(0, 1\)\], not a dictionary"):
        without_heads(tagger, {0: [1]})


def test_frozen_weights_stay_frozen(tagger):
    """Three layers of 4 norm, 4 feed-forward and 8 attention tensors, 5 embeddings, 2 others."""
    tagger.bert.requires_grad_(False)
    tagger.bert.layers[1].attention.query.bias.requires_grad_(True)
    trained = {"classifier.weight", "classifier.bias", "bert.layers.1.attention.query.bias"}
    smaller = without_heads(tagger, [(0, 1), *((1, head) for head in range(5))])
    half = torch.ones(3, 5)
    half[0, 1] = half[1] = 0
    for model in (smaller, prune(tagger, half), at_full_shape(smaller)):
        assert {n for n, p in model.named_parameters() if p.requires_grad} == trained
        assert len(list(model.parameters())) == 3 * 16 + 5 + 2


def test_prune_in_float32(tagger, batch):
    head_mask = torch.linspace(0, 1, 15).view(3, 5)
    smaller = prune(tagger.float(), head_mask)
    assert smaller.classifier.weight.dtype == torch.float32
    masked = tagger(**batch, head_mask=head_mask).logits
    torch.testing.assert_close(smaller(**batch).logits, masked, rtol=0, atol=1e-4)


def test_prune_rejects_nan(tagger):
    with torch.no_grad():
        tagger.classifier.weight[0, 0] = float("nan")
    with pytest.raises(RuntimeError, match="by nan"):
        prune(tagger, masks_without(TINY, [[(0, 1)]])[0])


def test_prune_rejects_a_copy_that_differs(tagger, monkeypatch):
    def wrong(model, heads):
        smaller = without_heads(model, heads)
        smaller.bert.layers[1].attention.output.bias.data[0] += 1e-6
        return smaller

    monkeypatch.setattr(pruning_module, "without_heads", wrong)
    with pytest.raises(RuntimeError, match="differs from the masked one"):
        prune(tagger, masks_without(TINY, [[(0, 1)]])[0])


def test_full_shape_model_is_equal_and_loads_in_transformers(tagger, batch, tmp_path):
    transformers = pytest.importorskip("transformers")
    smaller = without_heads(tagger, [(0, 1), *((1, head) for head in range(5)), (2, 4)])
    wide = at_full_shape(smaller)
    assert wide.config == TINY
    torch.testing.assert_close(wide(**batch).logits, smaller(**batch).logits, rtol=0, atol=1e-10)
    assert smaller.config.pruned_heads  # untouched
    save_pretrained(wide.float(), tmp_path)
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path)
    logits = theirs.double().eval()(**batch).logits
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(logits[real].float(), wide(**batch).logits[real], rtol=0, atol=1e-4)


# Repair -----------------------------------------------------------------------------------------


def streams(model, windows) -> list[torch.Tensor]:
    """What each layer adds its attention up to, over all tokens."""
    found = []
    for layer in model.bert.layers:
        layer.attention_norm.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    batch = collate(list(windows))
    with torch.no_grad():
        model(batch.input_ids, batch.attention_mask)
    return found


@pytest.mark.parametrize("projection", [False, True])
def test_repair_leaves_nothing_for_least_squares_to_explain(model, split, projection, monkeypatch):
    """At a least-squares optimum the residual is orthogonal to every input, the constant too."""
    monkeypatch.setattr("minibert.heads.repair.RIDGE", 0.0)
    gone = [(0, 1), (0, 3), (1, 0), *((2, head) for head in range(5))]
    smaller = without_heads(model, gone)
    old = copy.deepcopy(smaller)
    repair(model, smaller, split.windows, projection, tokens=100)
    windows = sorted(split.windows, key=lambda w: -len(w.input_ids))
    whole, mended, unmended = (streams(m, windows) for m in (model, smaller, old))
    for number in range(3):
        residual = whole[number] - mended[number]
        assert residual.mean(0).abs().max() < 1e-8
        assert residual.norm() < (whole[number] - unmended[number]).norm()
    contexts = []
    for layer in smaller.bert.layers:
        layer.attention.output.register_forward_pre_hook(lambda _, i: contexts.append(i[0]))
    batch = collate(windows)
    smaller(batch.input_ids, batch.attention_mask)
    for number in range(2):  # the last has no head left
        with torch.no_grad():
            unexplained = contexts[number].T @ (whole[number] - mended[number]) / len(whole[0])
        assert (unexplained.abs().max() < 1e-8) == projection
        same = smaller.bert.layers[number].attention.output.weight
        unchanged = torch.equal(same, old.bert.layers[number].attention.output.weight)
        assert unchanged != projection


def test_repair_of_the_lowest_bias_is_mean_ablation(model, split):
    gone = [(0, 1), (0, 2)]
    smaller = without_heads(model, gone)
    repair(model, smaller, split.windows, projection=False)
    filled = without_heads(model, gone, mean_context(model, split))
    for ours, theirs in zip(smaller.parameters(), filled.parameters()):
        if ours is smaller.bert.layers[0].attention.output.bias:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)


# Learning which -----------------------------------------------------------------------------------


def test_a_budget_keeps_the_head_that_matters(model, split):
    """Of 15 heads 14 put out nothing, and the one left is trained."""
    others = [head for head in TINY.present_heads if head != (1, 2)]
    trained = without_heads(model, others)
    for _ in fine_tune(trained, split, replace(SETTINGS, learning_rate=3e-3), 40):
        pass
    one_head = at_full_shape(trained)
    one_head.requires_grad_(False).eval()
    before = copy.deepcopy(one_head.state_dict())
    gates = HardConcreteGates(one_head.config)
    goal = Budget(1, 15)
    steps = list(learn_gates(one_head, split, gates, goal, SETTINGS, 120))
    head_mask = goal.head_mask(gates)
    assert head_mask.sum() == 1
    assert head_mask[1, 2] == 1
    last = steps[-1]
    assert (last.open + last.closed + last.undecided, last.step) == (15, len(steps))
    assert last.undecided == 0
    assert 84 < len(steps) < 120  # stopped when it was settled
    assert all(torch.equal(before[name], value) for name, value in one_head.state_dict().items())


def test_a_penalty_beyond_all_worth_closes_everything(model, split):
    model.requires_grad_(False)
    gates = HardConcreteGates(model.config)
    goal = Penalty(10.0)
    last = list(learn_gates(model, split, gates, goal, SETTINGS, 80))[-1]
    assert (last.closed, last.open) == (15, 0)
    assert prune(model, goal.head_mask(gates)).config.present_heads == []


def test_joint_training_moves_weights_and_gates_but_not_lost_heads(model, split):
    smaller = without_heads(model, [(0, 0), (2, 1)])
    before = copy.deepcopy(smaller.state_dict())
    gates = HardConcreteGates(smaller.config)
    list(learn_gates(smaller.train(), split, gates, Budget(4, 13), SETTINGS, 6))
    assert any(not torch.equal(before[n], v) for n, v in smaller.state_dict().items())
    assert gates.fixed()[0, 0] == gates.fixed()[2, 1] == 0
    assert Budget(4, 13).head_mask(gates)[[0, 2], [0, 1]].sum() == 0


def test_the_price_follows_its_definition():
    penalty = Penalty(0.5)
    assert [penalty.price(p, 9) for p in (0, 0.1, 0.2, 1)] == [0, 0.25, 0.5, 0.5]
    budget = Budget(5, 15)
    assert budget.price(0, 15) == 0
    assert budget.price(0.25, 12) == pytest.approx(2 * (1e-5 + 3e-4))  # 10 wanted, 12 expected
    assert budget.price(1, 8) == pytest.approx(3 * 3e-4 + (2 + 3) * 1e-5)
    assert budget.price(1, 4) == 0  # fewer than wanted: free


def test_the_gradient_of_a_step_is_that_of_loss_and_price(model, split, monkeypatch):
    """Against finite differences of the whole objective, two micro-batches in the step."""
    model.requires_grad_(False)
    gates = HardConcreteGates(model.config).double()
    with torch.no_grad():
        gates.log_alpha.copy_(torch.linspace(-1, 1, 15).view(3, 5))
    batches = [
        collate(split.windows[:3], split.targets),
        collate(split.windows[3:5], split.targets),
    ]
    price = torch.linspace(0.1, 0.9, 15).view(3, 5).double()
    stepper = Stepper(model, SETTINGS, 10, gates)
    monkeypatch.setattr(stepper.scaler, "step", lambda _: None)
    monkeypatch.setattr(stepper.gate_optimizer, "zero_grad", lambda: None)
    stepper.step(7, batches, price)
    gradient = gates.log_alpha.grad.clone()

    def objective() -> float:
        gates.log_alpha.grad = None
        paid = (price * gates.open_probability()).sum().item()
        return stepper.step(7, batches, price) + paid

    for head in [(0, 0), (1, 2), (2, 4)]:
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                gates.log_alpha[head] += sign * 1e-6
            ends.append(objective())
            with torch.no_grad():
                gates.log_alpha[head] -= sign * 1e-6
        slope = (ends[0] - ends[1]) / 2e-6
        assert gradient[head].item() == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_every_sequence_has_a_draw_of_its_own(model, split, monkeypatch):
    stepper = Stepper(model, SETTINGS, 10, HardConcreteGates(model.config).double())
    forward, masks = model.forward, []

    def spy(*given, head_mask):
        masks.append(head_mask)
        return forward(*given, head_mask=head_mask)

    monkeypatch.setattr("minibert.model.forward", spy)
    price = torch.zeros(3, 5)
    stepper.step(0, [collate(split.windows[:3], split.targets)], price)
    (mask,) = masks
    assert mask.shape == (3, 3, 5)
    assert not torch.equal(mask[0], mask[1])


def test_a_loss_that_is_not_finite_names_the_step(model, split):
    with torch.no_grad():
        model.classifier.weight[0, 0] = float("nan")
    gates = HardConcreteGates(model.config)
    with pytest.raises(InputError, match="loss is nan at step 0"):
        list(learn_gates(model, split, gates, Penalty(0.1), SETTINGS, 3))
    assert torch.equal(gates.fixed(), torch.ones(3, 5))


def test_gates_are_undecided_until_they_are_what_the_mask_says(model, split):
    """After one step all gates have the value 1, and a budget of 3 leaves 12 of them wrong."""
    model.requires_grad_(False)
    gates = HardConcreteGates(model.config)
    (only,) = learn_gates(model, split, gates, Budget(3, 15), SETTINGS, 1)
    assert (only.closed, only.undecided) == (0, 15 - only.open)
    assert only.open <= 3


def test_repair_of_a_head_of_zeros(model, split):
    smaller = without_heads(model, [(0, 1)])
    wide = at_full_shape(smaller)
    repair(model, wide, split.windows, projection=True)
    assert all(torch.isfinite(parameter).all() for parameter in wide.parameters())


def test_speed_ups_are_medians_of_the_first_over_each(model, split, monkeypatch):
    """The clock is replaced: of each model a round of warming up, then three."""
    smaller = without_heads(model, [(0, 0)])
    dense, pruned = [9.0, 4.0, 6.0, 8.0], [9.0, 2.0, 2.0, 2.0]
    whole = [t for d, p in zip(dense, pruned) for t in (d, p)]
    turns = iter([*whole, *(t for d, p in zip(dense, pruned) for t in (10 * d, 2 * p))])
    monkeypatch.setattr(costs_module, "seconds_of", lambda _: next(turns))
    costs = compare_costs({"dense": model, "pruned": smaller}, split.windows[:1], rounds=3)
    assert (costs["dense"]["speed-up"], costs["dense"]["seconds"]) == (1, 6)
    assert (costs["pruned"]["speed-up"], costs["pruned"]["attention speed-up"]) == (3, 15)
    tokens = len(split.windows[0].input_ids)
    assert costs["pruned"]["tokens per second"] == tokens / 2


def test_costs_count_what_is_left(model, split):
    smaller = without_heads(model, [(0, 0), (0, 1), *((1, head) for head in range(5))])
    costs = compare_costs({"dense": model, "pruned": smaller}, split.windows[:3], rounds=1)
    dense, pruned = costs["dense"], costs["pruned"]
    assert (dense["heads by layer"], pruned["heads by layer"]) == ([5, 5, 5], [3, 0, 5])
    assert dense["parameters"] - pruned["parameters"] == 7 * 6 * (4 * 30 + 3)
    assert dense["bytes"] == 8 * dense["parameters"]
    lengths = [len(window.input_ids) for window in split.windows[:3]]
    tokens = sum(lengths)
    per_head = 2 * tokens * 4 * 30 * 6 + sum(4 * n * n * 6 for n in lengths)
    assert dense["flops"] - pruned["flops"] == 7 * per_head
    assert dense["flops"] == 15 * per_head + 3 * 2 * tokens * 2 * 30 * 37 + (
        2 * 3 * max(lengths) * 30 * 3
    )
    assert pruned["allowed speed-up"] > 1
    assert pruned["bytes"] < pruned["peak bytes"] < dense["peak bytes"]


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
