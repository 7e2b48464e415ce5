"""Pretrained weights: strict loading, and saving so that transformers loads the result."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minibert.config import BertConfig
from minibert.errors import InputError, check, fits
from minibert.files import atomic_path, read_object, refuse_pointer, write_text
from minibert.hub import find_model
from minibert.layers import Linear, init_weights
from minibert.model import Bert, BertForTokenClassification

# Our names of tensors and those of transformers, between "bert." and ".weight" or ".bias". * is a
# layer's number. A tagger of another family has "distilbert." or "electra." in place of "bert.".
BERT_NAMES = {
    "embeddings.word": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.token_type": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "layers.*.attention.query": "encoder.layer.*.attention.self.query",
    "layers.*.attention.key": "encoder.layer.*.attention.self.key",
    "layers.*.attention.value": "encoder.layer.*.attention.self.value",
    "layers.*.attention.output": "encoder.layer.*.attention.output.dense",
    "layers.*.attention_norm": "encoder.layer.*.attention.output.LayerNorm",
    "layers.*.expand": "encoder.layer.*.intermediate.dense",
    "layers.*.contract": "encoder.layer.*.output.dense",
    "layers.*.output_norm": "encoder.layer.*.output.LayerNorm",
    "classifier": "classifier",
}
DISTILBERT_NAMES = BERT_NAMES | {
    "layers.*.attention.query": "transformer.layer.*.attention.q_lin",
    "layers.*.attention.key": "transformer.layer.*.attention.k_lin",
    "layers.*.attention.value": "transformer.layer.*.attention.v_lin",
    "layers.*.attention.output": "transformer.layer.*.attention.out_lin",
    "layers.*.attention_norm": "transformer.layer.*.sa_layer_norm",
    "layers.*.expand": "transformer.layer.*.ffn.lin1",
    "layers.*.contract": "transformer.layer.*.ffn.lin2",
    "layers.*.output_norm": "transformer.layer.*.output_layer_norm",
}
NAMES = {"bert": BERT_NAMES, "distilbert": DISTILBERT_NAMES, "electra": BERT_NAMES}
CLASSES = {"bert": "Bert", "distilbert": "DistilBert", "electra": "Electra"}
# The beginnings of names that token classification does not use.
PRETRAINING = ("cls.", "vocab_", "generator_", "discriminator_")
UNUSED = ("embeddings.position_ids", "pooler.dense.", *PRETRAINING)
Tensors = dict[str, Tensor]


def load_pretrained(
    source: str | Path,
    labels: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float32,
    **changes: float,
) -> Bert | BertForTokenClassification:
    """Build a model from a local folder or a Hub id, in eval mode on the CPU.

    Without `labels`: a tagger if the file holds one, else the encoder. With `labels`: the encoder
    under a new classifier with random weights, one output per label, to be trained. Heads of other
    tasks are dropped. `changes` replace fields of the file's config, such as dropout.
    Raises InputError for any tensor that is missing, unexpected or of a wrong shape.
    """
    _check_arguments(labels, dtype, changes)
    folder = find_model(source)
    stored, path = read_weights(folder), folder / "config.json"
    # Labels in the file may belong to a head that is dropped.
    config = BertConfig.load(path, **changes, id2label=dict(enumerate(labels or ())))
    tensors = _as_tagger(folder, config, stored)

    is_tagger = not labels and _has_token_classifier(path, config.model_type, tensors)
    if is_tagger:
        config = BertConfig.load(path, **changes)
        if not config.labels and "classifier.weight" in tensors:
            # transformers does not write its default label names.
            count = tensors["classifier.weight"].numel() // config.hidden_size
            config = config.with_labels([f"LABEL_{i}" for i in range(count)])
    else:
        tensors = _with_new_classifier(config, tensors, dtype)

    model = _build(folder, config, tensors, dtype)  # an encoder gets a classifier without labels
    return model if is_tagger or labels else model.bert


def _with_new_classifier(config: BertConfig, tensors: Tensors, dtype: torch.dtype) -> Tensors:
    """The encoder's tensors, and a classifier with random weights in place of the file's heads."""
    encoder = {n: tensor for n, tensor in tensors.items() if n.startswith(f"{config.model_type}.")}
    classifier = Linear(config.hidden_size, len(config.labels), dtype=dtype)
    init_weights(classifier, config.initializer_range)
    return encoder | {f"classifier.{n}": tensor for n, tensor in classifier.state_dict().items()}


def _build(
    folder: Path, config: BertConfig, tensors: Tensors, dtype: torch.dtype
) -> BertForTokenClassification:
    """A tagger of exactly these tensors."""
    with torch.device("meta"):
        model = BertForTokenClassification(config)
    names = {name: their_name(name, config.model_type) for name in model.state_dict()}
    expected = {names[name]: tensor for name, tensor in model.state_dict().items()}
    _check_tensors(folder, expected, tensors)

    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    _check_finite(folder, tensors)
    model.load_state_dict({ours: tensors[theirs] for ours, theirs in names.items()}, assign=True)
    return model.eval().requires_grad_(True)


def _check_arguments(labels: Any, dtype: Any, changes: Mapping[str, Any]) -> None:
    if labels is not None:
        are_names = isinstance(labels, list | tuple) and fits([*labels], list[str]) and labels
        check(are_names, f"labels must be a list of names, as ['O', 'KEY'], not {labels!r}")
        check(len(set(labels)) == len(labels), f"labels names a label twice: {', '.join(labels)}")

    is_float = isinstance(dtype, torch.dtype) and dtype.is_floating_point and dtype.itemsize > 1
    check(is_float, f"dtype must be torch.float32 or another float type, not {dtype!r}")

    config_fields = {f.name for f in fields(BertConfig)} - {"id2label", "model_type"}
    for name in sorted(changes.keys() - config_fields):
        known = "the names of the labels, as labels=['O', 'KEY'], dtype=torch.float32, and "
        known += "fields of the config, as hidden_dropout_prob=0.1"
        raise InputError(f"load_pretrained takes no {name}; it takes {known}")


def _has_token_classifier(path: Path, model_type: str, names: Iterable[str]) -> bool:
    """Whether the file has a classifier, and one of tokens, not of whole texts."""
    if not any(name.startswith("classifier.") for name in names):
        return False
    tagger = f"{CLASSES[model_type]}ForTokenClassification"
    architectures = read_object(path).get("architectures") or [tagger]
    check(fits(architectures, list[str]), f"{path}: architectures must be a list of names")
    return tagger in architectures


def _check_tensors(folder: Path, expected: Tensors, tensors: Tensors) -> None:
    """Strict both ways: no tensor is missing or unexpected, and every shape and type fits."""
    problems = []
    if missing := sorted(expected.keys() - tensors.keys()):
        problems.append("missing " + _first_five(missing))
    if unexpected := sorted(tensors.keys() - expected.keys()):
        problems.append("unexpected " + _first_five(unexpected))

    for name in sorted(expected.keys() & tensors.keys()):
        shape, dtype = tuple(tensors[name].shape), tensors[name].dtype
        if shape != tuple(expected[name].shape):
            problems.append(f"{name} is {shape}, not {tuple(expected[name].shape)}")
        elif not dtype.is_floating_point or dtype.itemsize < 2:
            problems.append(f"{name} is {dtype}, not 16-, 32- or 64-bit floating point")
    message = f"{folder}: the weights do not fit the model: {_first_five(problems, '; ')}"
    check(not problems, message)


def _check_finite(folder: Path, tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        finite = tensor.sum().isfinite() or tensor.isfinite().all()  # the sum alone may overflow
        message = f"{name} is not finite as {tensor.dtype}: it holds NaN or a number too large"
        check(finite, f"{folder}: damaged weights: {message}")


def _first_five(items: list[str], separator: str = ", ") -> str:
    rest = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return separator.join(items[:5]) + rest


def their_name(name: str, model_type: str = "bert") -> str:
    """Our name of a tensor -> transformers'. A tagger's encoder has a prefix, such as "bert."."""
    bare = name.removeprefix("bert.")
    base, _, kind = bare.rpartition(".")
    layer = re.sub(r"\D", "", base)
    theirs = NAMES[model_type][re.sub(r"\d+", "*", base)].replace("*", layer)
    return f"{theirs}.{kind}" if bare == name else f"{model_type}.{theirs}.{kind}"


def _as_tagger(folder: Path, config: BertConfig, stored: Tensors) -> Tensors:
    """The tensors of a file under the names of a tagger that transformers writes today. In the file
    the encoder may have no prefix, such as "bert.", and TensorFlow's gamma and beta."""
    # A far too large config would take all memory.
    numbers = sum(tensor.numel() for tensor in stored.values())
    fit = config.num_hidden_layers <= len(stored) and config.hidden_size <= numbers
    check(fit, f"{folder}: the weights do not fit the model: config.json describes a larger one")

    prefix = f"{config.model_type}."
    has_prefix = any(name.startswith(prefix) for name in stored)
    tensors: Tensors = {}
    stored_names: dict[str, str] = {}
    for name, tensor in stored.items():
        bare = name.removeprefix(prefix)
        bare = re.sub(r"\.beta\Z", ".bias", re.sub(r"\.gamma\Z", ".weight", bare))
        if bare.startswith(UNUSED):
            continue
        # Where no name has the prefix, all tensors but the classifier's are of the encoder.
        in_encoder = not has_prefix and not name.startswith("classifier.")
        in_encoder |= name.startswith((prefix, "embeddings.", "encoder.", "transformer."))
        full = prefix + bare if in_encoder else bare
        twin = stored_names.setdefault(full, name)
        check(twin == name, f"{folder}: {twin} and {name} are the same tensor twice")
        tensors[full] = tensor
    return tensors


def read_weights(folder: str | Path) -> Tensors:
    """All tensors of a model folder, from one file or numbered shards, by their names there."""
    folder = Path(folder)
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return read_tensors(single)[0]
    if index.exists():
        return _read_shards(index)

    pickles = sorted(path.name for path in [*folder.glob("*.bin"), *folder.glob("*.pt*")])
    if pickles:
        raise InputError(
            f"{folder}: has only {pickles[0]}, a pickle, which can run any code when it is loaded; "
            "convert it where you trust it, with transformers: "
            "AutoModel.from_pretrained(X).save_pretrained(Y)"
        )
    raise InputError(f"{folder}: no model.safetensors")


def _read_shards(index: Path) -> Tensors:
    shards: Any = read_object(index).get("weight_map")
    is_map = fits(shards, dict[str, str]) and all(Path(f).name == f for f in shards.values())
    check(is_map, f"{index}: weight_map must map tensors to files of the same folder")

    tensors: Tensors = {}
    for file in sorted(set(shards.values())):
        shard = read_tensors(index.parent / file)[0]
        twice = _first_five(sorted(tensors.keys() & shard.keys()))
        check(not twice, f"{index.parent}: {twice} is in two files, one of them {file}")
        tensors |= shard
    return tensors


def read_tensors(path: str | Path) -> tuple[Tensors, dict[str, str]]:
    """The tensors of a safetensors file, mapped from disk without a copy, and its metadata."""
    refuse_pointer(path)
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, RuntimeError, TypeError, SafetensorError) as error:  # torch: shapes like 2^63
        raise InputError(f"{path}: not a whole safetensors file ({error})") from None


def write_tensors(
    path: str | Path, tensors: Tensors, metadata: dict[str, str] | None = None
) -> None:
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        # safetensors writes to a temporary file of its own, which a kill leaves behind.
        for leftover in temporary.parent.glob(".tmp??????"):
            leftover.unlink()
        try:
            save_file(contiguous, temporary, {"format": "pt", **(metadata or {})})
        except SafetensorError as error:
            raise OSError(str(error)) from None


def save_pretrained(model: Bert | BertForTokenClassification, folder: str | Path) -> None:
    """Write config.json and model.safetensors, which `load_pretrained` and transformers read."""
    folder = Path(folder)
    model_type = model.config.model_type
    task = "ForTokenClassification" if isinstance(model, BertForTokenClassification) else "Model"
    write_text(folder / "config.json", model.config.to_json(CLASSES[model_type] + task))
    tensors = {their_name(n, model_type): tensor for n, tensor in model.state_dict().items()}
    write_tensors(folder / "model.safetensors", tensors)
