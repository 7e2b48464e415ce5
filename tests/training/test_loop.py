"""One optimizer step, the schedule and the loop of train.py; slow/test_faults.py kills it."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from tiny import randomise
from torch.utils._python_dispatch import TorchDispatchMode

from minibert import BertForTokenClassification, InputError, load_pretrained
from minibert.data.batches import collate, make_batches, make_split
from minibert.data.corpus import SAMPLE, read_documents
from minibert.evaluation.metrics import PrecisionRecallCurve
from minibert.evaluation.tagger import by_document, in_keyphrase, predict
from minibert.gates import HardConcreteGates
from minibert.heads.gate_training import GATE_RATE, step_gates
from minibert.model import IGNORED
from minibert.runtime.device import choose_device, choose_precision
from minibert.training import loop
from minibert.training.loop import CHECKPOINT, accumulation_windows, fine_tune
from minibert.training.memory import PLANS
from minibert.training.settings import TrainSettings
from minibert.training.step import Stepper, scored_words
from train import fit, training_step

pytestmark = pytest.mark.numeric

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SETTINGS = TrainSettings(
    epochs=2, batch_size=5, learning_rate=1e-3, device="cpu", precision="float32"
)


@pytest.fixture
def split(pieces):
    documents = read_documents(SAMPLE / "dev.jsonl")[:7]
    return make_split(documents, pieces, "io", ("O", "I"), 128)


@pytest.fixture
def model(encoder_folder) -> BertForTokenClassification:
    torch.manual_seed(3)
    return load_pretrained(encoder_folder, ("O", "I"), **STILL).double()


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def stepped(model, settings, batches, number=0):
    Stepper(model.train(), settings, steps=10).step(number, batches)
    return weights(model)


def test_accumulation_equals_full_batch(split, encoder_folder):
    results = []
    for tokens in (100_000, 150):
        torch.manual_seed(3)
        model = load_pretrained(encoder_folder, ("O", "I"), **STILL).double()
        groups = [collate(g, split.targets) for g in make_batches(split.windows, tokens)]
        results.append((len(groups), stepped(model, SETTINGS, groups)))

    (batch_count, full), (micro_batch_count, accumulated) = results
    assert batch_count == 1
    assert micro_batch_count > 4
    for name in full:
        torch.testing.assert_close(full[name], accumulated[name], rtol=0, atol=1e-10)


def test_step_is_adamw_on_clipped_mean_loss(split, model):
    """By hand: gradient of the mean loss, clipped, then Adam's first step and decoupled decay."""
    batch = collate(split.windows, split.targets)
    settings = dataclasses.replace(SETTINGS, weight_decay=0.1, clip=0.01)
    loss = model.train()(batch.input_ids, batch.attention_mask, labels=batch.labels).loss
    loss.backward()

    before = weights(model)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    blocks = {name: ".".join(name.split(".")[: 3 if ".layers." in name else 2]) for name in before}
    norms = {
        block: torch.sqrt(sum((g**2).sum() for n, g in gradients.items() if blocks[n] == block))
        for block in ("bert.embeddings", "bert.layers.0", "bert.layers.1", "classifier.weight")
    }
    blocks["classifier.bias"] = "classifier.weight"
    norms["classifier.weight"] = torch.sqrt(
        sum((gradients[f"classifier.{n}"] ** 2).sum() for n in ("weight", "bias"))
    )
    assert all(norm > settings.clip for norm in norms.values())

    model.zero_grad()
    stepper = Stepper(model, settings, steps=10)
    value = stepper.step(0, [batch])
    assert value == pytest.approx(loss.item(), abs=1e-12)

    rate = stepper.rate(0)
    for name, after in weights(model).items():
        g = gradients[name] * settings.clip / (norms[blocks[name]] + 1e-6)
        decay = 0.1 if after.ndim > 1 else 0.0
        expected = before[name] * (1 - rate * decay) - rate * g / (g.abs() + 1e-8)
        torch.testing.assert_close(after, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("frozen", [False, True])
def test_all_plans_give_the_same_update(split, family_folder, frozen):
    """Two steps of three micro-batches, with dropout and gates, for trained and frozen weights."""
    results = []
    for name in PLANS:
        torch.manual_seed(3)
        model = randomise(
            load_pretrained(
                family_folder, ("O", "I"), torch.float64, hidden_dropout_prob=0.2,
                attention_probs_dropout_prob=0.1,
            )
        )  # fmt: skip
        model.train().requires_grad_(not frozen)

        gates = HardConcreteGates(model.config).double()
        settings = dataclasses.replace(SETTINGS, plan=name, clip=0.05)
        stepper = Stepper(model, settings, 10)
        optimizer = torch.optim.Adam([gates.log_alpha], lr=GATE_RATE)
        price = torch.full_like(gates.present, 0.01)
        batches = [collate(split.windows[i : i + 2], split.targets) for i in (0, 2, 4)]
        losses = []
        for number in range(2):
            losses.append(stepper.step(number, batches, gates.sample))
            step_gates(stepper, optimizer, gates, price)

        assert all(p.grad is None for p in model.parameters())
        results.append([losses, *weights(model).values(), gates.log_alpha.detach().clone()])

    for plain, other in zip(*results):
        torch.testing.assert_close(plain, other, rtol=0, atol=1e-10)
    assert results[0][0][0] != results[0][0][1]


@pytest.mark.parametrize("plan", PLANS)
def test_train_script_step_equals_stepper_step(split, encoder_folder, plan):
    """The step that train.py writes out is the one that prune.py calls, bit for bit."""
    batches = [collate(split.windows[i : i + 2], split.targets) for i in (0, 2, 4)]
    results = []
    for take_step in (training_step, lambda model, stepper, *step: stepper.step(*step)):
        torch.manual_seed(3)
        model = load_pretrained(encoder_folder, ("O", "I"), hidden_dropout_prob=0.2).train()
        stepper = Stepper(model, dataclasses.replace(SETTINGS, plan=plan), steps=10)
        losses = [take_step(model, stepper, step, batches) for step in range(2)]
        results.append([torch.tensor(losses), *weights(model).values()])
    assert all(map(torch.equal, *results))


def test_layerwise_step_holds_one_gradient_block_at_a_time(split, model, monkeypatch):
    stepper = Stepper(model.train(), dataclasses.replace(SETTINGS, plan="layerwise"), 10)
    calls = []
    apply_block = stepper.apply_block

    def spy(block: int) -> None:
        layers_with_gradient = {
            name.split(".")[2]
            for name, p in model.named_parameters()
            if p.grad is not None and ".layers." in name
        }
        calls.append((block, layers_with_gradient))
        apply_block(block)

    monkeypatch.setattr(stepper, "apply_block", spy)
    stepper.step(0, [collate(split.windows[:3], split.targets)] * 2)
    assert calls == [(-1, set()), (2, {"1"}), (1, {"0"}), (0, set())]


def test_learning_rate_warms_up_and_decays(model):
    stepper = Stepper(model, dataclasses.replace(SETTINGS, warmup=0.2), steps=10)
    rates = [stepper.rate(i) / SETTINGS.learning_rate for i in range(10)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert rates[3:] == pytest.approx([7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])


def test_learning_rate_with_warmup_only(model):
    stepper = Stepper(model, dataclasses.replace(SETTINGS, warmup=0.99), steps=4)
    assert [stepper.rate(i) / SETTINGS.learning_rate for i in range(4)] == [0.25, 0.5, 0.75, 1]


def test_epoch_shuffles_every_window_once(split):
    def order(epoch):
        batches = [b for window in accumulation_windows(split, SETTINGS, epoch) for b in window]
        return [w.document for b in batches for w in b.windows]

    assert sorted(order(0)) == sorted(order(1)) == sorted(w.document for w in split.windows)
    assert order(0) != order(1)
    assert order(0) == order(0)


@pytest.mark.slow
def test_training_learns_sample_and_saves_best_epoch(split, model, tmp_path):
    settings = dataclasses.replace(SETTINGS, out=tmp_path, epochs=12, learning_rate=1e-2)
    best = fit(model, split, split, settings)

    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    losses = [line["loss"] for line in lines if "loss" in line]
    scores = [line["dev_score"] for line in lines if "dev_score" in line]
    assert np.mean(losses[-3:]) < 0.6 * losses[0]
    assert best == {"best_epoch": int(np.argmax(scores)), "dev_score": max(scores)}

    saved = load_pretrained(tmp_path)
    ranks = by_document(predict(saved, split).log_odds[0], split.documents)
    ap = PrecisionRecallCurve(in_keyphrase(split.targets, ("O", "I")), ranks).average_precision()
    assert ap == pytest.approx(max(scores), abs=1e-6)


def test_non_finite_loss_raises_with_step(split, model, tmp_path):
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    with pytest.raises(InputError, match="step 0"):
        fit(model, split, split, dataclasses.replace(SETTINGS, out=tmp_path))
    assert not (tmp_path / "model.safetensors").exists()


# Losses that are read together --------------------------------------------------------------------

GROUPED = dataclasses.replace(SETTINGS, batch_size=3, epochs=2)


def fitted(encoder_folder, split, out, save_every=120.0):
    """The weights of a training run in `out`, and its log without speeds."""
    torch.manual_seed(3)
    model = load_pretrained(encoder_folder, ("O", "I"), hidden_dropout_prob=0.1)
    fit(model, split, split, dataclasses.replace(GROUPED, out=out), save_every)
    return weights(model), logged(out)


def logged(out) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    assert all(line.pop("tokens_per_s", 1) > 0 for line in lines)
    return lines


def assert_same_run(run, other) -> None:
    assert run[1] == other[1]
    assert all(torch.equal(run[0][name], other[0][name]) for name in run[0])


@pytest.mark.parametrize("group", [2, 3, 100])
def test_losses_read_together_are_those_read_one_by_one(
    split, encoder_folder, tmp_path, monkeypatch, group
):
    expected = fitted(encoder_folder, split, tmp_path / "single")
    sizes = []
    read_losses = Stepper.read_losses

    def spy(stepper, losses, last):
        sizes.append(len(losses))
        return read_losses(stepper, losses, last)

    monkeypatch.setattr(Stepper, "read_losses", spy)
    monkeypatch.setitem(loop.READ_EVERY, "cpu", group)
    assert_same_run(fitted(encoder_folder, split, tmp_path / "grouped"), expected)

    steps = len([line for line in expected[1] if "loss" in line]) // 2  # of an epoch
    assert steps > 3
    rest = [steps % group] if steps % group else []
    assert sizes == 2 * ([group] * (steps // group) + rest)


def test_non_finite_loss_within_a_group_is_not_saved(split, model, tmp_path, monkeypatch):
    """The weights break in the second step of the second epoch; losses are read in threes."""
    epoch_steps = -(-len(split.windows) // GROUPED.batch_size)
    broken = epoch_steps + 1

    def step_that_breaks(model, stepper, step, batches):
        if step == broken:
            with torch.no_grad():
                model.classifier.bias[0] = float("nan")
        return training_step(model, stepper, step, batches)

    monkeypatch.setattr("train.training_step", step_that_breaks)
    monkeypatch.setitem(loop.READ_EVERY, "cpu", 3)
    with pytest.raises(InputError, match=f"loss is nan at step {broken}: try a lower"):
        fit(model, split, split, dataclasses.replace(GROUPED, out=tmp_path), save_every=0.0)

    assert logged(tmp_path)[-1]["step"] == broken  # steps are counted from 1 in the log
    assert all(p.isfinite().all() for p in load_pretrained(tmp_path).parameters())
    restored = Stepper(model, GROUPED, 2 * epoch_steps)
    assert restored.load(tmp_path / CHECKPOINT)["step"] == epoch_steps
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("end", [1, 4, 5, 7])
def test_run_stopped_within_a_group_resumes(split, encoder_folder, tmp_path, monkeypatch, end):
    monkeypatch.setitem(loop.READ_EVERY, "cpu", 2)
    expected = fitted(encoder_folder, split, tmp_path / "whole", save_every=0.0)

    def step_that_stops(model, stepper, step, batches):
        if step == end:
            raise KeyboardInterrupt
        return training_step(model, stepper, step, batches)

    with monkeypatch.context() as patch:
        patch.setattr("train.training_step", step_that_stops)
        with pytest.raises(KeyboardInterrupt):
            fitted(encoder_folder, split, tmp_path / "stopped", save_every=0.0)
    assert_same_run(fitted(encoder_folder, split, tmp_path / "stopped", save_every=0.0), expected)


class ReadValues(TorchDispatchMode):
    """Collects the operations whose result the CPU must know: on a GPU it would wait for them."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique")

    def __init__(self):
        super().__init__()
        self.read = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masks = [x for x in (args[1] if name == "index" else ()) if x is not None]
        if name.startswith(self.NAMES) or any(x.dtype == torch.bool for x in masks):
            self.read.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("with_teacher", [False, True])
def test_a_step_reads_no_value(split, encoder_folder, precision, plan, with_teacher):
    model = load_pretrained(encoder_folder, ("O", "I"))
    teacher = copy.deepcopy(model).eval() if with_teacher else None
    settings = dataclasses.replace(SETTINGS, plan=plan, precision=precision)
    stepper = Stepper(model.train(), settings, steps=10, teacher=teacher)
    batches = [collate(split.windows[i : i + 2], split.targets) for i in (0, 2)]

    with ReadValues() as values:
        if teacher:
            stepper.queue(0, batches)
            stepper.scaler.update()
        else:
            training_step(model, stepper, 0, batches)
    assert values.read == []


def test_read_values_are_noticed():
    x = torch.arange(3.0)
    with ReadValues() as values:
        assert x[1].item() == 1
        assert x[x > 0].shape == (2,)
        assert x[torch.tensor([2])].shape == (1,)  # known in advance
        assert torch.equal(x, x)
    assert values.read == ["_local_scalar_dense", "index", "equal"]


def test_dropout_depends_on_step_only(split, encoder_folder):
    def loss(step: int, rng_seed: int) -> float:
        torch.manual_seed(3)
        model = load_pretrained(encoder_folder, ("O", "I"), hidden_dropout_prob=0.3).train()
        torch.manual_seed(rng_seed)
        stepper = Stepper(model, SETTINGS, steps=10)
        return stepper.step(step, [collate(split.windows, split.targets)])

    assert loss(1, 0) == loss(1, 99)
    assert loss(1, 0) != loss(2, 0)


def test_each_micro_batch_draws_its_own_gates(split, encoder_folder):
    torch.manual_seed(3)
    model = load_pretrained(encoder_folder, ("O", "I"), hidden_dropout_prob=0.3).train()
    gates = HardConcreteGates(model.config)
    gates.warm_start([[0.0] * 3] * 2)
    drawn = []

    def sample(count: int) -> torch.Tensor:
        drawn.append(gates.sample(count))
        return drawn[-1]

    stepper = Stepper(model, SETTINGS, 10)
    same = [collate(split.windows[:1], split.targets)] * 3
    for number in range(2):
        stepper.step(number, same, sample)
    masks = torch.cat(drawn).flatten(1)
    assert len(masks.unique(dim=0)) == len(masks) == 6


def test_best_epoch_is_saved_not_last(split, model, tmp_path, monkeypatch):
    epochs = []

    def score(model, dev, tokens):
        epochs.append(weights(model))
        return [0.5, 0.7, 0.7, 0.6][len(epochs) - 1]

    monkeypatch.setattr("train.dev_score", score)
    best = fit(model, split, split, dataclasses.replace(SETTINGS, out=tmp_path, epochs=4))
    assert best == {"best_epoch": 1, "dev_score": 0.7}
    saved = load_pretrained(tmp_path, dtype=torch.float64)
    for name, tensor in saved.named_parameters():
        assert torch.equal(tensor, epochs[1][name])
    assert not torch.equal(saved.classifier.weight, epochs[2]["classifier.weight"])


def test_settings_out_of_range_are_rejected():
    for name, value in (("epochs", 0), ("dropout", 1.0), ("learning_rate", -1.0), ("tokens", 0)):
        with pytest.raises(InputError, match=name.replace("_", "-")):
            TrainSettings(**{name: value})


def test_device_and_precision_choice(monkeypatch):
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(InputError, match="--device abacus"):
        choose_device("abacus")
    assert choose_precision("fp16", torch.device("cpu")) == "fp16"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert choose_precision("auto", torch.device("cpu")) == "float32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert choose_precision("auto", torch.device("cuda")) == "bf16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert choose_precision("auto", torch.device("cuda")) == "fp16"


def test_bf16_follows_float32(split, encoder_folder):
    results = []
    for precision in ("float32", "bf16"):
        torch.manual_seed(3)
        model = randomise(load_pretrained(encoder_folder, ("O", "I"), **STILL))
        stepper = Stepper(
            model.train(), dataclasses.replace(SETTINGS, precision=precision), steps=10
        )
        results.append(stepper.step(0, [collate(split.windows, split.targets)]))
        assert all(p.dtype == torch.float32 for p in model.parameters())
    assert results[1] == pytest.approx(results[0], rel=0.03)
    assert results[1] != results[0]


def train_step(model, stepper, step, batches):
    training_step(model, stepper, step, batches)
    return []


def gate_step(model, stepper, step, batches):
    gates = HardConcreteGates(model.config).to(model.classifier.weight.dtype)
    optimizer = torch.optim.Adam([gates.log_alpha], lr=GATE_RATE)
    stepper.step(step, batches, gates.sample)
    step_gates(stepper, optimizer, gates, torch.full_like(gates.present, 0.01))
    return [gates.log_alpha.detach()]


@pytest.mark.parametrize("take_step", [train_step, gate_step])
@pytest.mark.parametrize("plan", PLANS)
def test_overflow_in_fp16_changes_no_weight_and_lowers_the_scale(
    split, encoder_folder, plan, take_step
):
    torch.manual_seed(3)
    model = load_pretrained(encoder_folder, ("O", "I"), **STILL).train()
    settings = dataclasses.replace(SETTINGS, plan=plan, precision="fp16")
    stepper = Stepper(model, settings, steps=10)
    stepper.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60, backoff_factor=2.0**-50)
    batches = [collate(split.windows[i : i + 2], split.targets) for i in (0, 2, 4)]

    before = weights(model)
    take_step(model, stepper, 0, batches)
    assert all(torch.equal(before[name], p) for name, p in weights(model).items())
    assert stepper.scaler.get_scale() == 2.0**10

    take_step(model, stepper, 1, batches)
    assert all(not torch.equal(before[name], p) for name, p in weights(model).items())
    assert stepper.scaler.get_scale() == 2.0**10


@pytest.mark.parametrize("take_step", [train_step, gate_step])
@pytest.mark.parametrize("plan", PLANS)
def test_scale_of_the_loss_does_not_change_the_update(split, encoder_folder, plan, take_step):
    """In float64, where nothing overflows, and with a gradient that is clipped."""
    batches = [collate(split.windows[i : i + 2], split.targets) for i in (0, 2, 4)]
    results = []
    for enabled in (False, True):
        torch.manual_seed(3)
        model = load_pretrained(encoder_folder, ("O", "I"), **STILL).double().train()
        stepper = Stepper(model, dataclasses.replace(SETTINGS, plan=plan, clip=1e-3), steps=10)
        stepper.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, enabled=enabled)
        gates = take_step(model, stepper, 0, batches)
        results.append([*gates, *weights(model).values()])
    for expected, scaled in zip(*results):
        torch.testing.assert_close(scaled, expected, rtol=0, atol=1e-10)


def test_fine_tuning_in_fp16_follows_float32(split, encoder_folder):
    results = []
    for precision in ("float32", "fp16"):
        torch.manual_seed(3)
        model = load_pretrained(encoder_folder, ("O", "I"), **STILL)
        settings = dataclasses.replace(SETTINGS, precision=precision)
        results.append(list(fine_tune(model, split, settings, 3)))
    assert results[1] == pytest.approx(results[0], rel=0.03)
    assert results[1] != results[0]


def test_checkpoint_restores_the_scale_of_the_loss(split, model, tmp_path):
    settings = dataclasses.replace(SETTINGS, precision="fp16")
    first, second = (Stepper(copy.deepcopy(model), settings, steps=10) for _ in range(2))
    training_step(first.model, first, 0, [collate(split.windows[:2], split.targets)])
    first.scaler.update(2.0**7)
    first.save(tmp_path / "checkpoint", {"step": 1})
    assert second.load(tmp_path / "checkpoint")["step"] == 1
    assert second.scaler.get_scale() == 2.0**7


def test_ignored_labels_do_not_change_loss(split, model):
    batch = collate(split.windows, split.targets)
    fewer = batch.labels.clone()
    fewer[0] = IGNORED

    def summed(batch) -> float:
        mean = Stepper(copy.deepcopy(model), SETTINGS, 10).step(0, [batch])
        return mean * scored_words([batch])

    first = summed(collate(split.windows[:1], split.targets))
    assert summed(batch) - summed(batch._replace(labels=fewer)) == pytest.approx(first, abs=1e-9)


@pytest.mark.parametrize("plan", PLANS)
def test_teacher_adds_divergence_and_distance_to_loss(split, model, plan):
    """Against a sum over words of cross-entropy, KL divergence and distance, and its gradient."""
    teacher = randomise(copy.deepcopy(model), seed=5).eval()
    groups = [collate(g, split.targets) for g in make_batches(split.windows, 150)]
    by_hand, words = torch.zeros((), dtype=torch.float64), 0
    for batch in groups:
        student, answers = (m(batch.input_ids, batch.attention_mask) for m in (model, teacher))
        for row, column in (batch.labels != IGNORED).nonzero().tolist():
            p, q = (out.logits[row, column].softmax(0) for out in (answers, student))
            by_hand = by_hand - q[batch.labels[row, column]].log() + (p * (p / q).log()).sum()
            goal, state = (out.last_hidden_state[row, column] for out in (answers, student))
            by_hand = by_hand + 5 * (state - goal) @ (state - goal) / (goal @ goal)
            words += 1
    expected = torch.autograd.grad(by_hand / words, list(model.parameters()))

    settings = dataclasses.replace(SETTINGS, plan=plan, clip=1e9)
    stepper = Stepper(model.train(), settings, steps=10, teacher=teacher)
    before = weights(teacher)
    gradients = {}
    apply_block = stepper.apply_block

    def spy(block: int) -> None:
        for parameter in model.parameters():
            if parameter.grad is not None:  # the first one that is seen is not clipped yet
                gradients.setdefault(parameter, parameter.grad.clone())
        apply_block(block)

    stepper.apply_block = spy
    assert stepper.step(0, groups) == pytest.approx(by_hand.item() / words, abs=1e-10)
    for parameter, gradient in zip(model.parameters(), expected):
        torch.testing.assert_close(gradients[parameter], gradient, rtol=0, atol=1e-10)
    assert all(torch.equal(before[name], p) for name, p in teacher.named_parameters())


@pytest.mark.parametrize("plan", PLANS)
def test_logits_of_fixed_weights_get_the_moments_of_the_teacher(split, model, plan):
    """Loss and gradient of the head masks, against a sum over words."""
    teacher = randomise(copy.deepcopy(model), seed=5).eval()
    groups = [collate(g, split.targets) for g in make_batches(split.windows, 150)]
    config = model.config
    shape = (config.num_hidden_layers, config.num_attention_heads)
    generator = torch.Generator().manual_seed(3)
    masks = [torch.rand(len(b.input_ids), *shape, generator=generator) for b in groups]
    masks = [mask.double().requires_grad_() for mask in masks]

    by_hand, words = torch.zeros((), dtype=torch.float64), 0
    for batch, mask in zip(groups, masks):
        student = model(batch.input_ids, batch.attention_mask, head_mask=mask).logits
        answers = teacher(batch.input_ids, batch.attention_mask).logits
        for row, labels in enumerate(batch.labels):
            columns = labels != IGNORED
            (values, mean), (goal, goal_mean) = (
                (x[row, columns], x[row, columns].mean(0)) for x in (student, answers)
            )
            spread, goal_spread = (
                ((x - m).square().sum() / len(x) + 1e-5).sqrt()
                for x, m in ((values, mean), (goal, goal_mean))
            )
            moved = (values - mean) * goal_spread / spread + goal_mean
            chosen = moved.log_softmax(-1)[range(len(moved)), labels[columns]]
            by_hand = by_hand - chosen.sum()
            words += len(moved)
    expected = torch.autograd.grad(by_hand / words, masks)

    settings = dataclasses.replace(SETTINGS, plan=plan)
    stepper = Stepper(model.eval().requires_grad_(False), settings, steps=10, teacher=teacher)
    drawn = iter(masks)
    loss = stepper.step(0, groups, lambda count: next(drawn))
    assert loss == pytest.approx(by_hand.item() / words, abs=1e-10)
    for mask, gradient in zip(masks, expected):
        torch.testing.assert_close(mask.grad, gradient, rtol=0, atol=1e-10)


def test_checkpoint_before_the_first_update_can_be_loaded(model, tmp_path):
    """AdamW has no moments yet, as after steps that an overflow in fp16 skipped."""
    path = tmp_path / "checkpoint.safetensors"
    Stepper(model, SETTINGS, 10).save(path, {"step": 3})
    restored = Stepper(copy.deepcopy(model), SETTINGS, 10)
    assert restored.load(path)["step"] == 3
    assert not any(optimizer.state for optimizer in restored.optimizers if optimizer)
