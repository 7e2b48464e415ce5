"""Pretrained weights: found, loaded strictly, and saved so that transformers loads them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from minibert.config import BertConfig, fits
from minibert.errors import InputError
from minibert.files import atomic_path, read_json, refuse_pointer, write_text
from minibert.hub import find_model
from minibert.model import Bert, BertForTokenClassification

TAGGER = "BertForTokenClassification"  # transformers' name of it


# transformers' names (less the "bert." in front and ".weight"/".bias" behind) and ours, * being a
# layer's number. None: dropped on purpose, token classification has no use for it.
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
    "embeddings.position_ids": None,
    "pooler.dense": None,
    "cls.*": None,
}


THEIRS = {ours: theirs for theirs, ours in NAMES.items() if ours}


def load_pretrained(
    source: str | Path,
    labels: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float32,
    **changes: float,
) -> Bert | BertForTokenClassification:
    """Build a model from a local folder or a Hub id, in eval mode on the CPU.

    Without `labels`: a tagger where the file holds one, else the encoder. With `labels`: the
    encoder under a new classifier with random weights, one output per label, to be trained. Heads
    of other tasks are dropped. `changes` replace fields of the file's config, such as dropout.
    Raises InputError for anything missing, unexpected or of a wrong shape.
    """
    _check_arguments(labels, dtype, changes)
    folder = find_model(source)
    path = folder / "config.json"
    config = BertConfig.load(path, **changes, id2label=dict(enumerate(labels or ())))
    tensors = {k: v for k, v in read_weights(folder).items() if our_name(k) is not None}

    # The file's labels are those of its own classifier, and else of a head that is dropped.
    own = labels is None and _has_token_classifier(path, tensors)
    if own:
        config = BertConfig.load(path, **changes)
        if not config.labels and "classifier.weight" in tensors:
            # transformers does not write its default names
            rows = tensors["classifier.weight"].numel() // config.hidden_size
            config = config.with_labels(tuple(f"LABEL_{i}" for i in range(rows)))
    else:
        tensors = _without_heads(tensors)
    _check_size(folder, config, tensors)

    with torch.device("meta"):
        model = BertForTokenClassification(config) if own or labels else Bert(config)
    if labels:
        tensors |= _new_classifier(config, dtype)
    names = _names_in_file(folder, model, tensors)
    _check(folder, {names[k]: v for k, v in model.state_dict().items()}, tensors)
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    _check_finite(folder, tensors)
    model.load_state_dict({k: tensors[name] for k, name in names.items()}, assign=True)
    return model.eval().requires_grad_(True)


def _new_classifier(config: BertConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    rows = len(config.labels)
    weight = torch.empty(rows, config.hidden_size, dtype=dtype)
    nn.init.normal_(weight, std=config.initializer_range)
    return {"classifier.weight": weight, "classifier.bias": torch.zeros(rows)}


def _check_arguments(labels: Any, dtype: Any, changes: Mapping[str, Any]) -> None:
    """Raises InputError for arguments that fit no model."""
    if labels is not None:
        if not isinstance(labels, list | tuple) or not fits([*labels], list[str]) or not labels:
            raise InputError(f"labels must be a list of names, as ['O', 'KEY'], not {labels!r}")
        if len(set(labels)) < len(labels):
            raise InputError(f"labels names a label twice: {', '.join(labels)}")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point or dtype.itemsize < 2:
        raise InputError(f"dtype must be torch.float32 or another float type, not {dtype!r}")
    known = {f.name for f in fields(BertConfig)} - {"id2label"}
    if unknown := sorted(changes.keys() - known):
        raise InputError(
            f"load_pretrained takes no {unknown[0]}; it takes labels=['O', 'KEY'] for a new "
            "classifier, dtype=torch.float32, and fields of the config"
        )


def _has_token_classifier(config: Path, names: Iterable[str]) -> bool:
    """Whether a file has a classifier, and one of tokens, not of whole texts."""
    if not any(name.startswith("classifier.") for name in names):
        return False
    kinds = read_json(config).get("architectures") or [TAGGER]
    if not fits(kinds, list[str]):
        raise InputError(f"{config}: architectures must be a list of names")
    return TAGGER in kinds


def _without_heads(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the classifier and, where the encoder's names begin with "bert.", without unknown
    names that do not."""
    encoder = "bert." if any(name.startswith("bert.") for name in tensors) else ""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith("classifier.")
        and (name.startswith(encoder) or our_name(name) != name)
    }


def _names_in_file(folder: Path, model: nn.Module, stored: Iterable[str]) -> dict[str, str]:
    """{name of a tensor of the model: its name in the file, or what it would be there}."""
    known: dict[str, str] = {}
    for theirs in stored:
        ours = our_name(theirs)
        if ours in known:
            raise InputError(f"{folder}: {known[ours]} and {theirs} are the same tensor twice")
        if ours != theirs or theirs.startswith("classifier."):
            known[ours] = theirs

    encoder = "bert." if any(name.startswith("bert.") for name in stored) else ""
    names = {}
    for name in model.state_dict():
        bare = name.removeprefix("bert.")
        expected = bare if bare.startswith("classifier.") else encoder + bare
        names[name] = known.get(bare) or their_name(expected)
    return names


def our_name(name: str) -> str | None:
    """transformers' name of a tensor -> ours; None if it is dropped on purpose.

    An unknown name comes back as it is.
    """
    bare = name.removeprefix("bert.")
    if bare.startswith("cls.") or NAMES.get(bare, "kept") is None:
        return None
    base, _, kind = bare.rpartition(".")
    kind = {"gamma": "weight", "beta": "bias"}.get(
        kind, kind
    )  # TensorFlow's names, at the end only
    pattern = re.sub(r"\.(\d+)\.", ".*.", base)
    if pattern not in NAMES or kind not in ("weight", "bias"):
        return name
    ours = NAMES[pattern]
    layer = re.search(r"\.(\d+)\.", base)
    return ours and f"{ours.replace('*', layer[1]) if layer else ours}.{kind}"


def their_name(name: str) -> str:
    """Our name of a tensor -> transformers', with the "bert." of a tagger in front."""
    base, _, kind = name.removeprefix("bert.").rpartition(".")
    layer = re.search(r"\.(\d+)\.", base)
    theirs = THEIRS[re.sub(r"\.(\d+)\.", ".*.", base)]
    prefix = "bert." if name.startswith("bert.") else ""
    return f"{prefix}{theirs.replace('*', layer[1]) if layer else theirs}.{kind}"


def _check(folder: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Strict both ways: every name is known, none is missing, every shape and type fits."""
    problems = []
    if missing := sorted(expected.keys() - found.keys()):
        problems.append("missing " + _some(missing))
    if unexpected := sorted(found.keys() - expected.keys()):
        problems.append("unexpected " + _some(unexpected))
    for name in sorted(expected.keys() & found.keys()):
        if found[name].shape != expected[name].shape:
            problems.append(
                f"{name} is {tuple(found[name].shape)}, not {tuple(expected[name].shape)}"
            )
        elif not found[name].is_floating_point() or found[name].dtype.itemsize < 2:
            problems.append(f"{name} is {found[name].dtype}, not 16-, 32- or 64-bit floating point")
    if problems:
        raise InputError(f"{folder}: the weights do not fit the model: {_some(problems, '; ')}")


def _check_size(folder: Path, config: BertConfig, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a config of a model that is far larger than the files, before it is built."""
    rows = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
    rows += 2 * config.num_hidden_layers * config.intermediate_size
    found = sum(tensor.numel() for tensor in tensors.values())
    least = rows * config.hidden_size
    if least > found or config.num_hidden_layers > len(tensors):
        raise InputError(
            f"{folder}: the weights do not fit the model: config.json describes "
            f"{config.num_hidden_layers} layers and more than {least} numbers, the files hold "
            f"{len(tensors)} tensors of {found} numbers"
        )


def _check_finite(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not tensor.sum().isfinite() and not tensor.isfinite().all():  # the sum is cheap
            raise InputError(
                f"{folder}: damaged weights: {name} is not finite as {tensor.dtype}: it holds NaN "
                "or a number that is too large"
            )


def _some(items: list[str], separator: str = ", ") -> str:
    rest = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return separator.join(items[:5]) + rest


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """Every tensor of a model folder under its name in the file; one file or numbered shards."""
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    if (single := folder / "model.safetensors").exists():
        return read_tensors(single)[0]
    if index.exists():
        shards = read_json(index)
        shards = shards.get("weight_map") if isinstance(shards, dict) else None
        if not isinstance(shards, dict) or not all(
            isinstance(f, str) and Path(f).name == f for f in shards.values()
        ):
            raise InputError(f"{index}: weight_map must map tensors to files of the same folder")
        tensors: dict[str, Tensor] = {}
        for file in sorted(set(shards.values())):
            more = read_tensors(folder / file)[0]
            if twice := tensors.keys() & more.keys():
                raise InputError(f"{folder}: {_some(sorted(twice))} is there twice, once in {file}")
            tensors |= more
        return tensors
    if pickles := sorted(p.name for p in folder.glob("*.bin")) + sorted(
        p.name for p in folder.glob("*.pt*")
    ):
        raise InputError(
            f"{folder}: has only {pickles[0]}, a pickle, which can run any code when it is loaded; "
            "convert it where you trust it, with transformers: "
            "AutoModel.from_pretrained(X).save_pretrained(Y)"
        )
    raise InputError(f"{folder}: no model.safetensors")


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of one safetensors file, mapped from disk and not copied, and its metadata."""
    refuse_pointer(path)
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, RuntimeError, TypeError, SafetensorError) as error:  # torch: shapes like 2^63
        raise InputError(f"{path}: not a whole safetensors file ({error})") from None


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(contiguous, temporary, {"format": "pt", **(metadata or {})})
        except SafetensorError as error:
            raise OSError(str(error)) from None


def save_pretrained(model: Bert | BertForTokenClassification, folder: str | Path) -> None:
    """Write config.json and model.safetensors, which `load_pretrained` and transformers read."""
    folder = Path(folder)
    architecture = TAGGER if hasattr(model, "classifier") else "BertModel"
    write_text(folder / "config.json", model.config.to_json(architecture))
    tensors = {their_name(name): tensor for name, tensor in model.state_dict().items()}
    write_tensors(folder / "model.safetensors", tensors)
