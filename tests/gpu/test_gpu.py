"""What differs on a GPU. `pytest -m gpu` runs it there; the same code runs on the CPU beside it,
where that can fail, so that an error in a test shows without a GPU."""

import copy
import json
import os
import signal
import subprocess
import sys
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY, randomise, tagger_for

from minibert import BertConfig, BertForTokenClassification, attention, load_pretrained
from minibert.attention import attend_loop, attend_nested
from minibert.data.batches import Window, collate, make_split
from minibert.data.corpus import SAMPLE, read_documents
from minibert.heads.ablation import ablate, cumulative, masks_without
from minibert.hub import DEFAULT_MODEL, find_model
from minibert.runtime.peak import MIB
from minibert.training.memory import PLANS, predicted_peak
from minibert.training.settings import TrainSettings
from minibert.training.step import Stepper
from minibert.weights import save_pretrained
from train import training_step

ROOT = Path(__file__).parents[2]
UNCOUNTED = 200  # MiB beside a limit for fragments and libraries: docs/machines.md
GPU = pytest.param("cuda", marks=pytest.mark.gpu)
DEVICES = ["cpu", GPU]
BERT_BASE = BertConfig(30522, 768, 12, 12, 3072, initializer_range=0.1).with_labels(("O", "I"))
MINILM = BertConfig(30522, 384, 6, 12, 1536, initializer_range=0.1).with_labels(("O", "I"))
SETTINGS = TrainSettings(batch_size=5, learning_rate=1e-3, precision="float32", clip=0.5)

pytestmark = pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype")


def random_windows(lengths, vocabulary: int) -> list[Window]:
    """Windows of random pieces, each a word but for the first and the last."""
    draw = np.random.default_rng(0)
    windows = []
    for number, length in enumerate(lengths):
        words = list(range(length - 2))
        ids = draw.integers(5, vocabulary, length).tolist()
        windows.append(Window(number, ids, words, [w + 1 for w in words], [-1, *words, -1]))
    return windows


def batch_of(lengths, config: BertConfig):
    targets = [[i % len(config.labels) for i in range(length)] for length in lengths]
    return collate(random_windows(lengths, config.vocab_size), targets)


def stepper_for(device: str, model: BertForTokenClassification, **changes) -> Stepper:
    model = copy.deepcopy(model).to(device).train()
    return Stepper(model, replace(SETTINGS, **changes), steps=10)


# Parity -----------------------------------------------------------------------------------------


def outputs(model, batch, device: str) -> list[torch.Tensor]:
    """Logits, loss and all gradients, under a head mask for each sequence."""
    model = copy.deepcopy(model).to(device)
    shape = (len(batch.input_ids), model.config.num_hidden_layers, model.config.num_attention_heads)
    draw = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    head_mask = draw.to(model.classifier.weight).requires_grad_()
    ids, mask, labels = (
        x.to(device) for x in (batch.input_ids, batch.attention_mask, batch.labels)
    )
    result = model(ids, mask, head_mask=head_mask, labels=labels)
    gradients = torch.autograd.grad(result.loss, [head_mask, *model.parameters()])
    return [x.detach().cpu() for x in (result.logits, result.loss, *gradients)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("lengths", [(11, 7, 4, 9), (8, 8, 8)])
def test_forward_and_gradients_of_the_tiny_model_equal_the_cpu(device, lengths, monkeypatch):
    """In float64. The CPU runs the nested tensors of the GPU, against its own loop."""
    model = randomise(BertForTokenClassification(TINY).double()).eval()
    batch = batch_of(lengths, TINY)
    expected = outputs(model, batch, "cpu")
    monkeypatch.setattr(attention, "attend_loop", attend_nested)
    for result, other in zip(outputs(model, batch, device), expected, strict=True):
        torch.testing.assert_close(result, other, rtol=0, atol=1e-10)


@pytest.mark.gpu
def test_forward_and_gradients_of_minilm_equal_the_cpu():
    """In float32, in which kernels sum in another order: relative to the largest value."""
    torch.manual_seed(0)
    model = BertForTokenClassification(MINILM).eval()
    batch = batch_of((200, 120, 64, 33), MINILM)
    pairs = zip(outputs(model, batch, "cuda"), outputs(model, batch, "cpu"), strict=True)
    for result, expected in pairs:
        # The gradient of a key's bias is 0 in exact arithmetic: `atol` is for it.
        assert (result - expected).abs().max() <= 1e-3 * expected.abs().max() + 1e-6


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("measure", ["ablate", "cumulative"])
def test_ablation_equals_the_cpu(pieces, device, measure, monkeypatch):
    model = tagger_for(pieces)
    split = make_split(read_documents(SAMPLE / "dev.jsonl")[:2], pieces, "bio", "OBI", 60)
    heads = model.config.present_heads

    def predictions(model):
        if measure == "cumulative":
            return cumulative(model, split, [heads[:4], heads[4:]])
        return ablate(model, split, masks_without(model.config, [[head] for head in heads]))

    expected = predictions(model)
    monkeypatch.setattr(attention, "attend_loop", attend_nested)
    for result, other in zip(predictions(copy.deepcopy(model).to(device)), expected, strict=True):
        np.testing.assert_allclose(result, other, rtol=0, atol=1e-10)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2), ("float16", 3e-3)]
)
def test_nested_tensors_equal_the_loop(dtype, tolerance):
    """With the fused kernels, which tests/core/test_attention.py does not reach."""
    lengths = [100, 17, 512, 64]
    torch.manual_seed(0)
    qkv = torch.randn(3, sum(lengths), 12, 32).to("cuda", getattr(torch, dtype)).requires_grad_()
    results = []
    for attend in (attend_nested, attend_loop):
        context = attend(*qkv, lengths, 0.0)
        (gradient,) = torch.autograd.grad(context.float().square().sum(), qkv)
        results.append((context, gradient))
    for nested, loop in zip(*results):
        torch.testing.assert_close(nested, loop, rtol=tolerance, atol=tolerance)


# Mixed precision --------------------------------------------------------------------------------


def losses_of(stepper: Stepper, batches, steps: int) -> list[float]:
    losses = [training_step(stepper.model, stepper, step, batches) for step in range(steps)]
    return list(stepper.read_losses(losses, steps - 1))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("states", ["float32", "bf16"])
@pytest.mark.parametrize("plan", PLANS)
def test_training_in_fp16_goes_on_after_an_overflow(device, plan, states):
    torch.manual_seed(0)
    model = BertForTokenClassification(replace(TINY, attention_probs_dropout_prob=0.0))
    stepper = stepper_for(device, model, precision="fp16", plan=plan, states=states)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**60, backoff_factor=2.0**-50)
    stepper.scaler = scaler
    before = [p.detach().cpu().clone() for p in stepper.model.parameters()]
    batches = [batch_of((11, 7, 4), TINY), batch_of((9, 9), TINY)]

    (overflown,) = losses_of(stepper, batches, 1)
    unchanged = zip(before, stepper.model.parameters(), strict=True)
    assert all(torch.equal(old, new.detach().cpu()) for old, new in unchanged)
    assert scaler.get_scale() == 2.0**10

    losses = losses_of(stepper, batches, 10)
    assert np.isfinite([overflown, *losses]).all()
    assert losses[-1] < losses[0]
    assert scaler.get_scale() == 2.0**10


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_losses_in_half_precision_follow_float32(device, precision):
    still = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
    torch.manual_seed(0)
    model = BertForTokenClassification(replace(TINY, initializer_range=0.1, **still))
    batches = [batch_of((11, 7, 4), TINY), batch_of((9, 9), TINY)]
    exact = losses_of(stepper_for("cpu", model), batches, 5)
    stepper = stepper_for(device, model, precision=precision)
    losses = losses_of(stepper, batches, 5)
    assert losses == pytest.approx(exact, rel=0.03)
    assert losses != exact
    assert all(p.dtype == torch.float32 for p in stepper.model.parameters())


# Waiting for the GPU ----------------------------------------------------------------------------


@contextmanager
def waits():
    """The places at which the CPU waits for the GPU inside the `with` block."""
    with warnings.catch_warnings(record=True) as records:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield records
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # Not the warning that the mode itself does not detect every "synchronizing operation".
    records[:] = [r for r in records if "called a synchronizing" in str(r.message)]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("lengths", [(64, 64), (64, 33)])
def test_a_step_does_not_wait_for_the_gpu(precision, lengths):
    """Not even once; with nested tensors at most once a layer, for their offsets."""
    stepper = stepper_for("cuda", BertForTokenClassification(MINILM), precision=precision)
    batches = [batch_of(lengths, MINILM)]
    training_step(stepper.model, stepper, 0, batches)  # what is done once
    with waits() as places:
        training_step(stepper.model, stepper, 1, batches)
    allowed = 0 if len(set(lengths)) == 1 else MINILM.num_hidden_layers
    assert len(places) <= allowed, [f"{place.filename}:{place.lineno}" for place in places]


# Kill and resume --------------------------------------------------------------------------------


def train_process(folder: Path, arguments: list[str], saves: int = 0, cap: int = 0):
    """train.py in a process: its exit code, and what it printed."""
    command = [sys.executable, str(Path(__file__).with_name("train_process.py"))]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    # For a deterministic cuBLAS.
    environment = os.environ | {"PYTHONPATH": path, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    words = [*command, str(saves), str(cap), "--out", str(folder), *arguments]
    process = subprocess.run(words, env=environment, capture_output=True, text=True)
    return process.returncode, process.stdout + process.stderr


def small_data(folder: Path, documents: int) -> Path:
    for name in ("train", "dev", "test"):
        few = read_documents(SAMPLE / f"{name}.jsonl")[:documents]
        rows = [{"id": d.id, "text": d.text[:300], "keyphrases": d.keyphrases} for d in few]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def logged(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open(encoding="utf-8")]
    return [{k: v for k, v in line.items() if k != "tokens_per_s"} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_killed_run_resumes_with_the_same_weights(device, encoder_folder, tmp_path):
    """Killed in the second epoch, eight steps after the first: so far losses are logged, and the
    last checkpoint is four steps old.

    On a CPU to the bit. On a GPU `index_add` and attention's backward pass may sum in any order,
    and AdamW turns the rounding error of a gradient that is 0 (of a key's bias) into a step as long
    as any. So the distance between the two ends is compared with the distance from the start.
    """
    (tmp_path / "data").mkdir()
    data = small_data(tmp_path / "data", 8)
    arguments = ["--data", str(data), "--model", str(encoder_folder), "--device", device]
    arguments += ["--batch-size", "1", "--epochs", "2", "--precision", "float32"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    code, text = train_process(whole, arguments)
    assert code == 0, text
    steps = logged(whole)[-1]["step"] // 2  # of an epoch
    assert steps > 8
    code, text = train_process(killed, arguments, saves=-(-steps // 4) + 2)
    assert code == -signal.SIGKILL, text
    assert logged(killed)[-1]["step"] == steps + 8
    code, text = train_process(killed, arguments)
    assert code == 0, text

    weights = [load_pretrained(f).state_dict() for f in (whole, killed)]
    if device == "cpu":
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        assert logged(whole) == logged(killed)
    else:
        start = load_pretrained(encoder_folder).state_dict()
        moved, apart = 0.0, 0.0
        for name, end in weights[0].items():
            if name.removeprefix("bert.") in start:
                moved += float((end - start[name.removeprefix("bert.")]).square().sum())
                apart += float((end - weights[1][name]).square().sum())
        assert apart <= 1e-4 * moved
        for line, other in zip(logged(whole), logged(killed), strict=True):
            assert line == pytest.approx(other, rel=1e-3)


# Memory -----------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("documents", [1, 4])
def test_peak_on_the_gpu_is_the_simulated_one(plan, documents):
    """BERT-base, documents of 512 pieces. Simulated are neither cuBLAS's workspace (some ten MiB)
    nor temporary memory inside a kernel."""
    config = replace(BERT_BASE, attention_probs_dropout_prob=0.0)
    settings = replace(SETTINGS, plan=plan, tokens=512)
    windows = random_windows([512] * documents, config.vocab_size)
    predicted = predicted_peak(config, settings, windows)

    targets = [[0] * 512] * documents
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    stepper = Stepper(BertForTokenClassification(config).cuda().train(), settings, 10)
    for step in range(2):
        loss = stepper.queue(step, [collate([window], targets) for window in windows])
    assert torch.isfinite(loss)
    measured = (torch.cuda.max_memory_allocated() - before) / MIB
    assert 0.95 * predicted <= measured <= 1.1 * predicted + 64


def limited_run(device: str, tmp_path: Path, encoder: Path, limit: int) -> tuple[str, float]:
    """train.py with --memory-limit, in an allocator that gives little more; its output, and the
    peak in MiB."""
    (tmp_path / "data").mkdir()
    data = small_data(tmp_path / "data", 4)
    arguments = ["--data", str(data), "--model", str(encoder), "--device", device, "--epochs", "1"]
    arguments += ["--memory-limit", str(limit), "--precision", "float32"]
    code, text = train_process(tmp_path / "run", arguments, cap=limit + UNCOUNTED)
    assert code == 0, text
    assert f"MiB predicted of {limit}" in text
    assert "out of memory" not in text
    return text, float(text.split("predicted of")[1].splitlines()[-1])


@pytest.mark.slow
def test_run_with_a_memory_limit_on_the_cpu(tmp_path, encoder_folder):
    limited_run("cpu", tmp_path, encoder_folder, 100)


@pytest.mark.gpu
def test_bert_base_trains_within_1500_mib(tmp_path):
    encoder = tmp_path / "encoder"
    save_pretrained(BertForTokenClassification(BERT_BASE).bert, encoder)
    for file in find_model(DEFAULT_MODEL).glob("tokenizer*.json"):
        (encoder / file.name).write_bytes(file.read_bytes())
    _, peak = limited_run("cuda", tmp_path, encoder, 1500)
    assert 1000 < peak <= 1548
