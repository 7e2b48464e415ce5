"""Pretrained weights: strict loading, and saving so that transformers loads the result."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minibert.config import BertConfig
from minibert.errors import InputError, check, fits
from minibert.files import atomic_path, read_object, refuse_pointer, write_text
from minibert.hub import find_model
from minibert.layers import init_weights
from minibert.model import Bert, BertForTokenClassification

TAGGER = "BertForTokenClassification"  # a tagger's class in transformers

# transformers' names and ours, between "bert." and ".weight" or ".bias". * is a layer's number.
NAMES = {
    "embeddings.word_embeddings": "embeddings.word",
    "embeddings.position_embeddings": "embeddings.position",
    "embeddings.token_type_embeddings": "embeddings.token_type",
    "embeddings.LayerNorm": "embeddings.norm",
    "encoder.layer.*.attention.self.query": "layers.*.attention.query",
    "encoder.layer.*.attention.self.key": "layers.*.attention.key",
    "encoder.layer.*.attention.self.value": "layers.*.attention.value",
    "encoder.layer.*.attention.output.dense": "layers.*.attention.output",
    "encoder.layer.*.attention.output.LayerNorm": "layers.*.attention_norm",
    "encoder.layer.*.intermediate.dense": "layers.*.expand",
    "encoder.layer.*.output.dense": "layers.*.contract",
    "encoder.layer.*.output.LayerNorm": "layers.*.output_norm",
    "classifier": "classifier",
}
THEIRS = {ours: theirs for theirs, ours in NAMES.items()}
# Tensors that token classification does not use.
DROPPED = re.compile(r"embeddings\.position_ids|pooler\.dense\.\w+|cls\..*", re.DOTALL)
LAYER = re.compile(r"\.(\d+)\.")
Model = TypeVar("Model", Bert, BertForTokenClassification)
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
    tensors = {k: v for k, v in read_weights(folder).items() if our_name(k) is not None}

    if labels is None:
        return _load_as_saved(folder, tensors, dtype, changes)
    return _load_with_labels(folder, tensors, labels, dtype, changes)


def _load_as_saved(
    folder: Path, tensors: Tensors, dtype: torch.dtype, changes: dict[str, Any]
) -> Bert | BertForTokenClassification:
    path = folder / "config.json"
    if not _has_token_classifier(path, tensors):
        # Labels in the file belong to a head that is dropped.
        config = BertConfig.load(path, **changes, id2label={})
        return _load(folder, Bert, config, _without_task_heads(tensors), dtype)

    config = BertConfig.load(path, **changes)
    if not config.labels and "classifier.weight" in tensors:
        # transformers does not write its default label names.
        count = tensors["classifier.weight"].numel() // config.hidden_size
        config = config.with_labels([f"LABEL_{i}" for i in range(count)])
    return _load(folder, BertForTokenClassification, config, tensors, dtype)


def _load_with_labels(
    folder: Path, tensors: Tensors, labels: Sequence[str], dtype: torch.dtype, changes: dict
) -> BertForTokenClassification:
    config = BertConfig.load(folder / "config.json", **changes, id2label=dict(enumerate(labels)))
    encoder = _load(folder, Bert, config, _without_task_heads(tensors), dtype)

    with torch.device("meta"):
        model = BertForTokenClassification(config)
    model.bert = encoder
    model.classifier.to(dtype).to_empty(device="cpu")
    init_weights(model.classifier, config.initializer_range)
    return model.eval()


def _load(
    folder: Path, kind: type[Model], config: BertConfig, tensors: Tensors, dtype: torch.dtype
) -> Model:
    """Build a model from exactly these tensors."""
    # A far too large config would take all memory.
    numbers = sum(tensor.numel() for tensor in tensors.values())
    fit = config.num_hidden_layers <= len(tensors) and config.hidden_size <= numbers
    check(fit, f"{folder}: the weights do not fit the model: config.json describes a larger one")

    with torch.device("meta"):
        model = kind(config)
    expected = model.state_dict()
    names = _names_in_file(folder, expected, tensors)
    _check_tensors(folder, {names[name]: tensor for name, tensor in expected.items()}, tensors)

    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    _check_finite(folder, tensors)
    model.load_state_dict({ours: tensors[theirs] for ours, theirs in names.items()}, assign=True)
    return model.eval().requires_grad_(True)


def _check_arguments(labels: Any, dtype: Any, changes: Mapping[str, Any]) -> None:
    if labels is not None:
        are_names = isinstance(labels, list | tuple) and fits([*labels], list[str]) and labels
        check(are_names, f"labels must be a list of names, as ['O', 'KEY'], not {labels!r}")
        unique = len(set(labels)) == len(labels)
        check(unique, f"labels names a label twice: {', '.join(labels)}")

    is_float = isinstance(dtype, torch.dtype) and dtype.is_floating_point and dtype.itemsize > 1
    check(is_float, f"dtype must be torch.float32 or another float type, not {dtype!r}")

    config_fields = {f.name for f in fields(BertConfig)} - {"id2label"}
    for name in sorted(changes.keys() - config_fields):
        known = "labels=['O', 'KEY'], dtype=torch.float32 and fields of the config"
        raise InputError(f"load_pretrained takes no {name}; it takes {known}")


def _has_token_classifier(config: Path, names: Iterable[str]) -> bool:
    """Whether the file has a classifier, and one of tokens, not of whole texts."""
    if not any(name.startswith("classifier.") for name in names):
        return False
    architectures = read_object(config).get("architectures") or [TAGGER]
    check(fits(architectures, list[str]), f"{config}: architectures must be a list of names")
    return TAGGER in architectures


def _without_task_heads(tensors: Tensors) -> Tensors:
    """Drop the classifier and, if the encoder's names begin with "bert.", unknown other names."""
    prefix = "bert." if any(name.startswith("bert.") for name in tensors) else ""
    names = [name for name in tensors if name.startswith(prefix) or our_name(name) != name]
    return {name: tensors[name] for name in names if not name.startswith("classifier.")}


def _names_in_file(folder: Path, ours: Iterable[str], theirs: Iterable[str]) -> dict[str, str]:
    """{name of a tensor of the model: its name in the file, or the name expected there}."""
    in_file: dict[str | None, str] = {}
    for name in theirs:
        translated = our_name(name)
        twin = in_file.get(translated)
        check(twin is None, f"{folder}: {twin} and {name} are the same tensor twice")
        if translated != name or name.startswith("classifier."):
            in_file[translated] = name

    prefix = "bert." if any(name.startswith("bert.") for name in theirs) else ""
    names = {}
    for name in ours:
        bare = name.removeprefix("bert.")
        expected = bare if bare.startswith("classifier.") else prefix + bare
        names[name] = in_file.get(bare) or their_name(expected)
    return names


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


def our_name(name: str) -> str | None:
    """transformers' name of a tensor -> ours. None if it is dropped; unknown names are kept."""
    bare = name.removeprefix("bert.")
    if DROPPED.fullmatch(bare):
        return None
    base, _, kind = bare.rpartition(".")
    kind = {"gamma": "weight", "beta": "bias"}.get(kind, kind)  # TensorFlow's names
    ours = _translate(base, NAMES)
    return f"{ours}.{kind}" if ours and kind in ("weight", "bias") else name


def their_name(name: str) -> str:
    """Our name of a tensor -> transformers'. The "bert." of a tagger's encoder is kept."""
    bare = name.removeprefix("bert.")
    base, _, kind = bare.rpartition(".")
    return f"{name.removesuffix(bare)}{_translate(base, THEIRS)}.{kind}"


def _translate(base: str, table: Mapping[str, str]) -> str | None:
    layer = LAYER.search(base)
    name = table.get(LAYER.sub(".*.", base))
    return name.replace("*", layer[1]) if name and layer else name


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
    architecture = TAGGER if isinstance(model, BertForTokenClassification) else "BertModel"
    write_text(folder / "config.json", model.config.to_json(architecture))
    tensors = {their_name(name): tensor for name, tensor in model.state_dict().items()}
    write_tensors(folder / "model.safetensors", tensors)
