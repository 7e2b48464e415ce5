"""Weights: strict loading, the name table, damaged and foreign files, failed saves."""

import json
import os
import resource
import sys
from dataclasses import replace
from pathlib import Path

import golden
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TINY, assert_equal, randomise
from torch import Tensor

from minibert import (
    Bert,
    BertForTokenClassification,
    InputError,
    load_pretrained,
    save_pretrained,
    weights,
)
from minibert.files import write_json
from minibert.weights import their_name

WORD = "bert.embeddings.word_embeddings.weight"
NORM = "bert.encoder.layer.1.attention.output.LayerNorm"
QUERY = "bert.encoder.layer.1.attention.self.query.weight"


@pytest.fixture
def model() -> BertForTokenClassification:
    return randomise(BertForTokenClassification(TINY)).eval()


@pytest.fixture
def folder(model, tmp_path) -> Path:
    """The saved model, which tests damage."""
    save_pretrained(model, tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, **changes) -> None:
    """Rewrite model.safetensors. None removes a tensor, `_rename` maps all names."""
    rename = changes.pop("_rename", lambda name: name)
    tensors = load_file(folder / "model.safetensors") | changes
    renamed = {rename(k): v.contiguous() for k, v in tensors.items() if v is not None}
    save_file(renamed, folder / "model.safetensors")


# Loading what was saved -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_save_load_is_bit_equal(family_tagger, tmp_path, dtype):
    model = family_tagger.to(dtype)
    save_pretrained(model, tmp_path)
    loaded = load_pretrained(tmp_path, dtype=dtype)
    assert isinstance(loaded, BertForTokenClassification)
    assert loaded.config == model.config
    assert_equal(loaded, model)


def test_saved_encoder_loads_as_encoder(family_tagger, tmp_path):
    model = family_tagger.float()
    save_pretrained(model.bert, tmp_path)
    loaded = load_pretrained(tmp_path)
    assert isinstance(loaded, Bert)
    assert loaded.config == replace(model.config, id2label={})
    assert_equal(loaded, model.bert)
    assert_equal(load_pretrained(tmp_path, ["O", "I"]).bert, model.bert)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_saved_pruned_model_loads_pruned(batch, tmp_path):
    config = replace(TINY, pruned_heads={0: [1, 3], 2: [0, 1, 2, 3, 4]})
    model = randomise(BertForTokenClassification(config)).eval()
    save_pretrained(model, tmp_path)
    loaded = load_pretrained(tmp_path)
    assert loaded.config == config
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_loaded_models_are_in_eval_mode_and_trainable(folder):
    model = load_pretrained(folder)
    assert not any(module.training for module in model.modules())
    assert all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())


def test_labels_give_a_new_classifier_on_the_same_encoder(folder, model):
    names = tuple(f"label {i}" for i in range(40))
    torch.manual_seed(0)
    tagger = load_pretrained(folder, names)
    assert tagger.config.labels == names
    assert_equal(tagger.bert, model.bert)
    assert tagger.classifier.weight.shape == (40, 30)
    assert tagger.classifier.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not tagger.classifier.bias.any()
    again = load_pretrained(folder, names)
    assert not torch.equal(again.classifier.weight, tagger.classifier.weight)


def test_labels_turn_an_encoder_into_a_tagger(model, tmp_path):
    save_pretrained(model.bert, tmp_path)
    tagger = load_pretrained(tmp_path, ("O", "I"), dtype=torch.float64)
    assert tagger.classifier.weight.dtype == tagger.classifier.bias.dtype == torch.float64
    assert torch.equal(tagger.bert.embeddings.word.weight, model.bert.embeddings.word.weight)


def test_changes_replace_config_fields(folder):
    model = load_pretrained(folder, hidden_dropout_prob=0.25, attention_probs_dropout_prob=0.5)
    assert model.bert.layers[2].dropout.p == 0.25
    assert model.bert.layers[2].attention.dropout_prob == 0.5
    with pytest.raises(InputError, match="hidden_dropout_prob"):
        load_pretrained(folder, hidden_dropout_prob=1.5)


def test_training_does_not_change_the_file(folder):
    before = (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        for parameter in load_pretrained(folder).parameters():
            parameter.add_(1.0)
    assert (folder / "model.safetensors").read_bytes() == before


def test_saving_over_the_loaded_file(folder, model):
    loaded = load_pretrained(folder)  # its tensors are mapped from the file
    save_pretrained(loaded, folder)
    assert_equal(loaded, model)
    assert_equal(load_pretrained(folder), model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_load_as_float32(folder, model, dtype):
    save_pretrained(model.to(dtype), folder)
    loaded = load_pretrained(folder)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert_equal(loaded, model.float())


@pytest.mark.parametrize("kind", [str, Path])
def test_folder_may_be_str_or_path(model, tmp_path, kind):
    save_pretrained(model, kind(tmp_path / "new"))
    assert_equal(load_pretrained(kind(tmp_path / "new")), model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_labels": 4}, r"no num_labels; it takes the names .*, as labels=\['O', 'KEY'\]"),
        ({"torch_dtype": torch.float16}, "no torch_dtype; .* dtype=torch.float32"),
        ({"id2label": {0: "O", 1: "I"}}, "no id2label; .* labels="),
        ({"model_type": "electra"}, "no model_type; .* as hidden_dropout_prob=0.1"),
        ({"dropout": 0.2}, "no dropout; .* as hidden_dropout_prob=0.1"),  # DistilBERT's name of it
        ({"labels": 4}, "labels must be a list of names, .* not 4"),
        ({"labels": "B-KEY"}, "labels must be a list of names, .* not 'B-KEY'"),
        ({"labels": []}, r"labels must be a list of names, .* not \[\]"),
        ({"labels": ()}, r"labels must be a list of names"),
        ({"labels": ["O", 1]}, "labels must be a list of names"),
        ({"labels": {"O", "I"}}, "labels must be a list of names"),  # in no order
        ({"labels": {0: "O"}}, "labels must be a list of names"),
        ({"labels": ["O", "I", "O"]}, "labels names a label twice: O, I, O"),
        ({"dtype": "float16"}, "dtype must be torch.float32 .* not 'float16'"),
        ({"dtype": torch.int64}, "dtype must be torch.float32 .* not torch.int64"),
        ({"dtype": None}, "dtype must be"),
    ],
)
def test_wrong_arguments_are_rejected_by_name(folder, arguments, message):
    with pytest.raises(InputError, match=message):
        load_pretrained(folder, **arguments)


# Names ------------------------------------------------------------------------------------------


def test_names_equal_transformers(model):
    groups, _ = golden.read(golden.GOLDEN)
    assert {their_name(name) for name in model.state_dict()} == groups["weights"].keys()
    assert (
        their_name("layers.123.attention.key.bias") == "encoder.layer.123.attention.self.key.bias"
    )


@pytest.mark.parametrize(
    "name",
    [
        "embeddings.gamma.weight",
        "embeddings.LayerNorm.gamma.weight",
        "embeddings.LayerNorm.gamma_scale",
        "gamma.LayerNorm.weight",
        "encoder.layer.x.output.dense.weight",
        "encoder.layer.0.crossattention.self.query.weight",
        "encoder.layer.0.attention.self.distance_embedding.weight",
        "bert.bert.embeddings.LayerNorm.weight",
        "roberta.embeddings.LayerNorm.weight",
        "distilbert.transformer.layer.0.attention.q_lin.weight",  # of another family
        "transformer.layer.0.attention.q_lin.weight",
        "embeddings.LayerNorm.running_mean",
        "qa_outputs.weight",
        "pre_classifier.weight",
        "classifier.dense.weight",
        "pooler.weight",
        "weight",
        "",
        "embeddings.LayerNorm",  # a name of the table, but of no tensor
    ],
)
def test_unknown_name_is_unexpected(folder, name):
    change(folder, **{name: torch.ones(1)})
    text = complaint(folder)
    assert text.endswith((f"unexpected {name}", f"unexpected bert.{name}"))


@pytest.mark.parametrize(
    ("new", "old"), [("LayerNorm.weight", "gamma"), ("LayerNorm.bias", "beta")]
)
def test_tensorflow_names_load(folder, model, new, old):
    change(folder, _rename=lambda name: name.replace(new, f"LayerNorm.{old}"))
    assert_equal(load_pretrained(folder), model)


def test_prefix_is_optional(folder, model):
    change(folder, _rename=lambda name: name.removeprefix("bert."))
    assert_equal(load_pretrained(folder), model)


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_unused_tensors_are_dropped(folder, model, prefix):
    extra = {
        f"{prefix}embeddings.position_ids": torch.arange(19)[None],
        f"{prefix}pooler.dense.weight": torch.ones(30, 30),
        f"{prefix}pooler.dense.bias": torch.ones(30),
        "cls.predictions.bias": torch.ones(53),
        "cls.predictions.transform.LayerNorm.gamma": torch.ones(30),
        "vocab_layer_norm.weight": torch.ones(30),  # of DistilBERT
        "generator_lm_head.bias": torch.ones(53),  # of ELECTRA
        "discriminator_predictions.dense.weight": torch.ones(30, 30),
    }
    change(folder, **extra)
    assert_equal(load_pretrained(folder), model)


# Files that do not fit --------------------------------------------------------------------------


def complaint(source: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        load_pretrained(source)
    return str(caught.value)


def test_missing_tensor_is_named(folder):
    change(folder, **{QUERY: None, f"{NORM}.bias": None})
    text = complaint(folder)
    assert "missing" in text
    assert QUERY in text
    assert f"{NORM}.bias" in text
    assert "unexpected" not in text


def test_unexpected_tensor_is_named(folder):
    change(folder, **{"bert.adapter.weight": torch.ones(2), "head.bias": torch.ones(2)})
    text = complaint(folder)
    assert "unexpected" in text
    assert "adapter.weight" in text
    assert "head.bias" in text
    assert "missing" not in text


@pytest.mark.parametrize("name", ["encoder.layer.3.output.dense.bias", "embeddings.LayerNorm"])
def test_tensor_of_no_module_is_unexpected(folder, name):
    change(folder, **{f"bert.{name}": torch.ones(30)})
    assert "unexpected" in complaint(folder)


@pytest.mark.parametrize("prefix", ["", "electra."])
@pytest.mark.parametrize("family_tagger", ["electra"], indirect=True)
def test_tensor_inside_the_encoder_is_unexpected(family_tagger, tmp_path, prefix):
    """Where the encoder has no prefix, any tensor may be inside it."""
    save_pretrained(family_tagger.bert, tmp_path)
    extra = {f"{prefix}embeddings_project.weight": torch.ones(30, 30)}
    change(tmp_path, _rename=lambda name: name if name in extra else prefix + name, **extra)
    for labels in (None, ["O", "I"]):
        with pytest.raises(InputError, match=r"unexpected electra\.embeddings_project\.weight"):
            load_pretrained(tmp_path, labels)


def test_duplicate_tensor_of_an_encoder_is_rejected(folder):
    change(folder, **{WORD.removeprefix("bert."): torch.ones(53, 30)})
    with pytest.raises(InputError, match="twice"):
        load_pretrained(folder, ["O", "I"])


def test_our_names_in_a_file_are_unexpected(model, folder):
    save_file(model.bert.state_dict(), folder / "model.safetensors")
    assert "unexpected" in complaint(folder)


def test_misspelt_tensor_is_missing_and_unexpected(folder):
    change(folder, _rename=lambda name: name.replace("LayerNorm", "layer_norm"))
    assert {"missing", "unexpected"} <= set(complaint(folder).split())


@pytest.mark.parametrize(
    "wrong", [torch.ones(30, 6), torch.ones(6, 30), torch.ones(900), torch.ones(31, 30)]
)
def test_message_names_both_shapes(folder, wrong):
    change(folder, **{QUERY: wrong})
    text = complaint(folder)
    assert QUERY in text
    assert str(tuple(wrong.shape)) in text
    assert "(30, 30)" in text


def test_transposed_matrix_is_rejected(folder):
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    change(folder, **{name: torch.ones(30, 37)})
    assert f"{name} is (30, 37), not (37, 30)" in complaint(folder)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.float8_e4m3fn])
def test_unsupported_dtype_is_rejected(folder, dtype):
    change(folder, **{QUERY: torch.ones(30, 30).to(dtype)})
    text = complaint(folder)
    assert QUERY in text
    assert str(dtype) in text


@pytest.mark.parametrize(
    "twin", [WORD.removeprefix("bert."), f"{NORM}.gamma", f"{NORM}.beta".removeprefix("bert.")]
)
def test_duplicate_tensor_is_rejected_by_name(folder, twin):
    change(folder, **{twin: torch.ones(30)})
    text = complaint(folder)
    assert "twice" in text
    assert f"and {twin} are" in text or f" {twin} and" in text


def test_message_counts_further_problems(folder):
    change(folder, **{f"extra.{i}.tensor": torch.ones(1) for i in range(100)})
    text = complaint(folder)
    assert "95 more" in text
    assert len(text) < 600


def test_wrong_number_of_labels_is_rejected(folder):
    change(folder, **{"classifier.weight": torch.ones(2, 30), "classifier.bias": torch.ones(2)})
    assert "classifier.weight is (2, 30), not (3, 30)" in complaint(folder)


def test_half_a_classifier_is_rejected(folder):
    for half in ("weight", "bias"):
        change(folder, **{f"classifier.{half}": None})
        assert f"missing classifier.{half}" in complaint(folder)
        change(folder, **{"classifier.weight": torch.ones(3, 30)})


def change_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def test_sequence_classifier_loads_as_encoder(folder, model):
    """Its logits come from the pooler, which is dropped. Its encoder is usable."""
    change(folder, **{"bert.pooler.dense.weight": torch.ones(30, 30)})
    change_config(folder, architectures=["BertForSequenceClassification"])
    assert_equal(load_pretrained(folder), model.bert)
    assert_equal(load_pretrained(folder, ("O", "I")).bert, model.bert)


HEADS = {
    "qa_outputs.weight": (2, 30),
    "qa_outputs.bias": (2,),
    "classifier.weight": (1, 30),
    "classifier.bias": (1,),
    "linear.weight": (128, 30),  # of ColBERT
    "crf.transitions": (3, 3),
}


@pytest.mark.parametrize("kind", ["QuestionAnswering", "MultipleChoice", "SequenceClassification"])
def test_heads_of_other_tasks_are_dropped(folder, model, kind):
    heads = {name: torch.ones(shape) for name, shape in HEADS.items()}
    change(folder, **{"bert.pooler.dense.bias": torch.ones(30)}, **heads)
    change_config(folder, architectures=[f"BertFor{kind}"], id2label={"0": "A", "7": "A"})
    encoder = load_pretrained(folder)
    assert_equal(encoder, model.bert)
    assert encoder.config.labels == ()
    assert_equal(load_pretrained(folder, ["O", "I"]).bert, model.bert)


def test_tagger_with_another_head_is_rejected(folder, model):
    """Without its conditional random field the tagger would give other labels."""
    change(folder, **{"crf.transitions": torch.ones(3, 3)})
    assert "unexpected crf.transitions" in complaint(folder)
    assert_equal(load_pretrained(folder, ["O", "I"]).bert, model.bert)


@pytest.mark.parametrize("family", ["Bert", "DistilBert", "Electra"])
def test_heads_of_all_transformers_tasks_are_dropped(family, tmp_path):
    """The file of each task holds the same encoder."""
    transformers = pytest.importorskip("transformers")
    theirs = golden.theirs(family=family.lower())
    theirs.save_pretrained(tmp_path / "tagger")
    encoder = load_pretrained(tmp_path / "tagger").bert

    kinds = [k for k in dir(transformers) if k.startswith(f"{family}For") and "Token" not in k]
    assert len(kinds) >= 4
    theirs.config.num_labels = 2  # which question answering requires
    for kind in kinds:
        other = getattr(transformers, kind)(theirs.config).double()
        other.base_model.load_state_dict(theirs.base_model.state_dict(), strict=False)
        other.save_pretrained(tmp_path / kind)
        assert_equal(load_pretrained(tmp_path / kind), encoder)


BROKEN_LABELS = [{"0": "O", "2": "B"}, {"0": "O", "1": "O"}, {"0": 0, "1": 1}, {"O": 0}, ["O"]]


@pytest.mark.parametrize("id2label", BROKEN_LABELS)
def test_labels_replace_broken_labels_of_the_file(folder, id2label):
    change_config(folder, id2label=id2label)
    assert "id2label" in complaint(folder)
    assert load_pretrained(folder, labels=["O", "I"]).config.labels == ("O", "I")


def test_messages_use_names_of_transformers_today(folder):
    """The file has no "bert." prefix, and TensorFlow's gamma."""
    change(
        folder, _rename=lambda name: name.removeprefix("bert.").replace("Norm.weight", "Norm.gamma")
    )
    norm = f"{NORM}.gamma".removeprefix("bert.")
    change(folder, **{norm: torch.ones(31), QUERY.removeprefix("bert."): None})
    text = complaint(folder)
    assert f"missing {QUERY};" in text
    assert f"{NORM}.weight is (31,), not (30,)" in text
    change(
        folder,
        **{norm: torch.full((30,), torch.nan), QUERY.removeprefix("bert."): torch.ones(30, 30)},
    )
    assert f"{NORM}.weight is not finite" in complaint(folder)


def test_config_of_another_size_is_rejected(folder):
    change_config(folder, vocab_size=54)
    assert f"{WORD} is (53, 30), not (54, 30)" in complaint(folder)


@pytest.mark.parametrize("architectures", [3, "BertForTokenClassification", [3], {"a": 1}])
def test_invalid_architectures_are_rejected(folder, architectures):
    change_config(folder, architectures=architectures)
    assert "architectures must be a list of names" in complaint(folder)


def test_message_is_one_printable_line(folder):
    change(folder, **{f"\n\x1b[31m{i}\u202e{'x' * 500}": torch.ones(1) for i in range(9)})
    text = complaint(folder)
    assert "\\n\\x1b[31m" in text
    assert text.isprintable()
    assert len(text) == 1000


# Numbers that are not finite ---------------------------------------------------------------------

NO_NUMBERS = [(torch.nan,), (torch.inf,), (-torch.inf,), (torch.inf, -torch.inf)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("values", NO_NUMBERS)
def test_nonfinite_weights_are_rejected_by_name(folder, values, dtype):
    wrong = torch.ones(30, 30, dtype=dtype)
    wrong[17, 5 : 5 + len(values)] = torch.tensor(values, dtype=dtype)
    change(folder, **{QUERY: wrong})
    text = complaint(folder)
    assert f"{QUERY} is not finite" in text


def test_one_nan_is_found_in_every_tensor(folder, model):
    for name in model.state_dict():
        save_pretrained(model, folder)
        tensor = load_file(folder / "model.safetensors")[their_name(name)].clone()
        tensor.view(-1)[-1] = torch.nan
        change(folder, **{their_name(name): tensor})
        assert f" {their_name(name)} is not finite" in complaint(folder)


def test_large_numbers_with_infinite_sum_load(folder):
    large = torch.full((30, 30), torch.finfo(torch.float32).max)
    change(folder, **{QUERY: large})
    assert torch.equal(load_pretrained(folder).bert.layers[1].attention.query.weight, large)


def test_overflow_of_the_dtype_is_rejected(folder):
    change(folder, **{QUERY: torch.full((30, 30), 1e300, dtype=torch.float64)})
    assert "query.weight is not finite as torch.float32" in complaint(folder)
    assert load_pretrained(folder, dtype=torch.float64).bert.layers[1].attention.query.weight.all()


def test_replaced_classifier_is_not_checked(folder):
    change(folder, **{"classifier.weight": torch.full((3, 30), torch.nan)})
    assert load_pretrained(folder, ("O", "I")).classifier.weight.isfinite().all()


# Shards -----------------------------------------------------------------------------------------


def shard(folder: Path, names: tuple[str, ...] = ("a.safetensors", "b.safetensors")) -> dict:
    """Replace model.safetensors by shards. Returns the weight_map of the index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    placed = {name: names[i % len(names)] for i, name in enumerate(sorted(tensors))}
    for file in names:
        save_file({k: tensors[k] for k, f in placed.items() if f == file}, folder / file)
    write_index(folder, placed)
    return placed


def write_index(folder: Path, weight_map: object) -> None:
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def test_shards_load(folder, model):
    shard(folder, tuple(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)))
    assert_equal(load_pretrained(folder), model)


def test_missing_shard_is_named(folder):
    shard(folder)
    (folder / "b.safetensors").unlink()
    assert "b.safetensors" in complaint(folder)


def test_truncated_shard_is_named(folder):
    shard(folder)
    content = (folder / "b.safetensors").read_bytes()
    (folder / "b.safetensors").write_bytes(content[:-1])
    assert "b.safetensors" in complaint(folder)


def test_tensor_in_no_shard_is_missing(folder):
    placed = shard(folder)
    tensors = load_file(folder / placed[QUERY])
    del tensors[QUERY]
    save_file(tensors, folder / placed[QUERY])
    assert f"missing {QUERY}" in complaint(folder)


def test_tensor_in_two_shards_is_rejected_by_name(folder):
    placed = shard(folder)
    other = next(file for file in placed.values() if file != placed[QUERY])
    save_file(load_file(folder / other) | {QUERY: torch.ones(30, 30)}, folder / other)
    text = complaint(folder)
    assert "is in two files" in text
    assert "attention" in text


@pytest.mark.parametrize("file", ["../x.safetensors", "/etc/x", "sub/x.safetensors", "./x", "."])
def test_shard_outside_the_folder_is_rejected(folder, file):
    save_file({"x": torch.ones(1)}, folder.parent / "x.safetensors")
    placed = shard(folder)
    write_index(folder, placed | {QUERY: file})
    assert "weight_map must map tensors to files of the same folder" in complaint(folder)


@pytest.mark.parametrize("file", ["..", "", "config.json", "\0"])
def test_shard_of_another_format_is_rejected(folder, file):
    write_index(folder, shard(folder) | {QUERY: file})
    complaint(folder)


@pytest.mark.parametrize("weight_map", [None, [], "a.safetensors", {QUERY: 3}, {QUERY: ["a"]}, {}])
def test_invalid_weight_map_is_rejected(folder, weight_map):
    shard(folder)
    write_index(folder, weight_map)
    complaint(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", "{"])
def test_index_without_json_object_is_rejected(folder, content):
    shard(folder)
    (folder / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in complaint(folder)


LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


def test_git_lfs_pointer_is_rejected_by_name(folder):
    message = "a Git LFS pointer, not the file: run git lfs pull"
    for name in ("model.safetensors", "config.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(LFS)
        assert f"{name}: {message}" in complaint(folder)
        (folder / name).write_bytes(content)
    shard(folder)
    for name in ("b.safetensors", "model.safetensors.index.json"):
        (folder / name).write_bytes(LFS)
        assert f"{name}: {message}" in complaint(folder)


# Damaged and foreign folders --------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, -1])
def test_truncated_file_is_rejected(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "model.safetensors: not a whole safetensors file" in complaint(folder)


def test_random_bytes_are_rejected(folder):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (5000,), generator=generator, dtype=torch.uint8)
    (folder / "model.safetensors").write_bytes(bytes(noise.tolist()))
    assert "not a whole safetensors file" in complaint(folder)


def test_folder_in_place_of_a_file_is_rejected(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    complaint(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_pickle_is_rejected_and_never_opened(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    text = complaint(folder)
    assert name in text
    assert "pickle" in text
    assert "save_pretrained" in text


def test_pickle_named_safetensors_is_never_opened(folder):
    opened = folder / "opened"
    code = f"cos\nmkdir\n(S'{opened}'\ntR.".encode()
    for content in (code, b"\x80\x04" + code):
        (folder / "model.safetensors").write_bytes(content)
        assert "not a whole safetensors file" in complaint(folder)
    assert not opened.exists()


def test_pickle_beside_safetensors_is_ignored(folder, model):
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert_equal(load_pretrained(folder), model)


def test_folder_without_weights_is_rejected(folder):
    (folder / "model.safetensors").unlink()
    assert "no model.safetensors" in complaint(folder)


def test_folder_without_config_is_rejected(folder):
    (folder / "config.json").unlink()
    assert "config.json" in complaint(folder)


# Writing ----------------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_failed_save_keeps_the_old_model(folder, model, monkeypatch, name):
    real = os.replace

    def fail(source, target):
        if Path(target).name == name:
            raise OSError(28, os.strerror(28))
        real(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match="No space left"):
        save_pretrained(randomise(model, seed=9), folder)
    monkeypatch.undo()
    assert names(folder) == ["config.json", "model.safetensors"]
    assert_equal(load_pretrained(folder), randomise(model, seed=0))


@pytest.mark.skipif(sys.platform != "linux", reason="file size limits")
def test_full_disk_gives_one_sentence(folder, model):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(InputError, match=r"model\.safetensors: cannot be written"):
            save_pretrained(randomise(model, seed=9), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(folder) == ["config.json", "model.safetensors"]
    assert_equal(load_pretrained(folder), randomise(model, seed=0))


def test_file_in_place_of_the_folder_is_rejected(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_pretrained(model, tmp_path / "file")


def test_saved_config_names_the_architecture(model, tmp_path):
    for part, name in [(model, "BertForTokenClassification"), (model.bert, "BertModel")]:
        save_pretrained(part, tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [name]


def test_saved_metadata_names_pytorch(folder):
    content = (folder / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"]["format"] == "pt"  # transformers refuses any other


def test_views_are_saved_whole(tmp_path):
    tensors: dict[str, Tensor] = {"t": torch.arange(6.0).view(2, 3).T, "row": torch.ones(4)[1:3]}
    weights.write_tensors(tmp_path / "x", tensors, {"step": "3"})
    back, metadata = weights.read_tensors(tmp_path / "x")
    assert torch.equal(back["t"], tensors["t"])
    assert torch.equal(back["row"], tensors["row"])
    assert metadata["step"] == "3"
