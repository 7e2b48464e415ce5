"""The ONNX file: equal outputs in ONNX Runtime and in ONNX's own reference, names, refusals."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnxruntime import InferenceSession
from tiny import TINY, randomise

from minibert import BertForTokenClassification, InputError
from minibert.export import onnx_file, onnx_graph, to_onnx
from minibert.gates import HardConcreteGates

UNEVEN = replace(TINY, pruned_heads={0: [1, 3], 2: [0, 1, 2, 3, 4]})

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element")


@pytest.fixture
def model() -> BertForTokenClassification:
    """5 heads, of which the first layer has 3, the second all, and the third none."""
    return randomise(BertForTokenClassification(UNEVEN)).eval()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "model.onnx"


def feed(batch: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in batch.items()}


def run(path: Path, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, feed(batch))
    return torch.from_numpy(output)


def assert_equal_outputs(actual: torch.Tensor, expected: torch.Tensor, mask: torch.Tensor) -> None:
    """At real tokens."""
    real = mask.bool()
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual[real], expected[real], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("act", onnx_graph.ACTIVATIONS)
@torch.no_grad()
def test_logits_equal_those_of_the_model(path, batch, act):
    model = randomise(BertForTokenClassification(replace(UNEVEN, hidden_act=act))).eval()
    to_onnx(model, path)
    assert_equal_outputs(run(path, batch), model(**batch).logits, batch["attention_mask"])


@torch.no_grad()
def test_each_family_has_its_inputs(family_tagger, family_batch, path):
    to_onnx(family_tagger, path)
    model = family_tagger.float()
    expected = model(**family_batch).logits
    assert_equal_outputs(run(path, family_batch), expected, family_batch["attention_mask"])


@torch.no_grad()
def test_onnx_reference_computes_the_same(model, path, batch):
    """Which needs operators of the standard only."""
    to_onnx(model, path)
    (logits,) = ReferenceEvaluator(onnx.load(path)).run(None, feed(batch))
    expected = model(**batch).logits
    assert_equal_outputs(torch.from_numpy(logits), expected, batch["attention_mask"])


@torch.no_grad()
def test_encoder_gives_hidden_states(model, path, batch):
    to_onnx(model.bert, path)
    expected = model.bert(**batch).last_hidden_state
    assert_equal_outputs(run(path, batch), expected, batch["attention_mask"])
    assert [output.name for output in onnx.load(path).graph.output] == ["last_hidden_state"]


@pytest.mark.parametrize("shape", [(1, 1), (1, 19), (3, 2)])
@torch.no_grad()
def test_batch_and_length_are_dynamic(model, path, shape):
    to_onnx(model, path)
    ids = torch.randint(53, shape)
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.randint(3, shape),
    }
    assert_equal_outputs(run(path, batch), model(**batch).logits, batch["attention_mask"])


def test_padding_does_not_change_logits(model, path, batch):
    to_onnx(model, path)
    before = run(path, batch)
    real = batch["attention_mask"].bool()
    batch["input_ids"] = torch.where(real, batch["input_ids"], torch.tensor(52))
    assert torch.equal(run(path, batch)[real], before[real])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@torch.no_grad()
def test_every_precision_is_written_as_float32(model, path, batch, dtype):
    model = model.to(dtype).train()
    to_onnx(model, path)
    assert model.training
    assert model.classifier.weight.dtype == dtype
    expected = model.float().eval()(**batch).logits
    assert_equal_outputs(run(path, batch), expected, batch["attention_mask"])


def test_file_describes_itself(model, path):
    to_onnx(model, path)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 20)]
    names = [value.name for value in proto.graph.input]
    assert names == ["input_ids", "attention_mask", "token_type_ids"]
    assert [value.name for value in proto.graph.output] == ["logits"]

    metadata = {p.key: json.loads(p.value) for p in proto.metadata_props}
    assert metadata == {
        "labels": ["O", "B", "I"],
        "heads": [[0, 2, 4], [0, 1, 2, 3, 4], []],
        "max_length": 19,
    }
    sizes = [tuple(w.dims) for w in proto.graph.initializer if tuple(w.dims) == (30, 18)]
    assert len(sizes) == 3  # query, key and value of the layer with 3 of 5 heads


def test_error_for_a_long_sequence_names_the_limit(model, path):
    to_onnx(model, path)
    ids = torch.ones(2, 20, dtype=torch.long)
    batch = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), ids)
    with pytest.raises(Exception, match="at most 19 tokens"):
        run(path, batch)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (HardConcreteGates(TINY), "HardConcreteGates"),
        (torch.full((3, 5), 0.5), "Tensor"),
        ("runs/mine", "str"),
        (torch.nn.Linear(2, 2), "Linear"),
    ],
)
def test_only_models_are_written(path, wrong, name):
    with pytest.raises(InputError, match=f"takes a model, not {name}: .* prune folds gates"):
        to_onnx(wrong, path)
    assert not path.exists()


def test_tagger_without_labels_is_refused(path):
    with pytest.raises(InputError, match="a tagger needs labels"):
        to_onnx(BertForTokenClassification(replace(TINY, id2label={})), path)


def test_model_beyond_the_limit_of_the_format_is_refused(model, path, monkeypatch):
    monkeypatch.setattr(onnx_file, "LIMIT", 4 * sum(p.numel() for p in model.parameters()) - 1)
    with pytest.raises(InputError, match="an ONNX file holds at most 2 GiB"):
        to_onnx(model, path)
    assert not path.exists()


def test_autocast_does_not_change_the_check(model, path):
    with torch.autocast("cpu", torch.bfloat16):
        to_onnx(model, path)
    assert path.exists()


def test_missing_package_is_named_with_its_extra(model, path, monkeypatch):
    monkeypatch.setattr("minibert.runtime.cli.find_spec", lambda name: name != "onnxruntime")
    with pytest.raises(InputError, match=r"needs onnxruntime: pip install -e '.\[onnx\]'"):
        to_onnx(model, path)


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_wrong_file_is_not_written(model, path, monkeypatch, factor):
    path.write_text("before")
    add_linear = onnx_graph.add_linear

    def wrong(graph, x, module):
        return graph.node("Mul", add_linear(graph, x, module), graph.constant(factor))

    monkeypatch.setattr(onnx_graph, "add_linear", wrong)
    with pytest.raises(RuntimeError, match="differs from the torch model"):
        to_onnx(model, path)
    assert path.read_text() == "before"
    assert list(path.parent.iterdir()) == [path]


def test_tolerance_is_relative_above_one(model):
    content = onnx_graph.make_model(model).SerializeToString()
    with torch.no_grad():
        model.classifier.weight.mul_(1.5)
        model.classifier.bias.mul_(1.5)
        assert onnx_file.compare(model, content) == pytest.approx(1 / 3, abs=0.01)

        model.classifier.weight.zero_()
        model.classifier.bias.zero_()
        logits = onnx_file.compare(model, content)
        assert logits > 1  # of the file, compared with 0


def test_folder_that_cannot_be_written_is_named(model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        to_onnx(model, tmp_path / "file" / "model.onnx")
