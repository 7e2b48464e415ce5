"""The sizes of a BERT encoder, under the field names of Hugging Face's config.json."""

import inspect
import json
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from reprlib import repr as short
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from minibert.errors import InputError
from minibert.files import read_json

LARGEST = 2**31 - 1  # of a size: the product of two is still a number to torch


ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")


# A key that changes what is computed, and the values under which it is what minibert computes.
# transformers leaves a key out where it has its default, so an absent key is always fine.
FIXED = {
    "model_type": ("bert",),
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "quantization_config": (None,),
}


Head = tuple[int, int]  # (layer, head), both from zero and as the model was born


def head_name(head: Head) -> str:
    """(3, 7) -> "L3H7"."""
    return f"L{head[0]}H{head[1]}"


def parse_head(name: str) -> Head:
    """The inverse of `name_of`. Raises ValueError for any other text."""
    layer, head = name.removeprefix("L").split("H")
    return int(layer), int(head)


def fits(value: Any, kind: Any) -> bool:
    """Whether a value has the annotated type: of JSON, of a settings field, or one of the choices
    of a Literal. A whole number passes as float."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType or isinstance(kind, UnionType):
        return any(fits(value, k) for k in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is dict:
        return isinstance(value, dict) and all(
            fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items()
        )
    if origin in (list, tuple):
        return isinstance(value, origin) and all(fits(v, inner[0]) for v in value)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind or type(None))


def check_fields(record: Any, prefix: str = "") -> None:
    """Check each field of a dataclass against its annotation. A str and a Path pass for each
    other, and become what is annotated. Raises InputError, which `prefix` begins."""
    for name, kind in get_type_hints(type(record)).items():
        value = getattr(record, name)
        for other in (str, Path):
            if isinstance(value, str | Path) and other in (kind, *get_args(kind)):
                value = other(value)
                object.__setattr__(record, name, value)  # the dataclass is frozen
        if not fits(value, kind):
            choices = get_origin(kind) is Literal and f"one of {', '.join(get_args(kind))}"
            wanted = choices or inspect.formatannotation(kind)
            raise InputError(f"{prefix}{name} must be {wanted}, not {short(value)}")


@dataclass(frozen=True)
class BertConfig:
    """Sizes and labels of one encoder. Raises InputError where they cannot belong to a BERT.

    `pruned_heads` maps a layer to the heads removed for good; `num_attention_heads` stays the
    original number, so head indices never shift.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    initializer_range: float = 0.02
    id2label: dict[int, str] = field(default_factory=dict)
    pruned_heads: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, "config: ")
        for f in fields(self):
            value = getattr(self, f.name)
            if f.type is int and not 1 <= value <= LARGEST:
                bound = "at least 1" if value < 1 else f"at most {LARGEST}"
                raise InputError(f"config: {f.name} must be {bound}, not {short(value)}")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise InputError(f"config: {name} must be in [0, 1), not {getattr(self, name)}")
        if not 0 < self.layer_norm_eps < 1:
            raise InputError(f"config: layer_norm_eps must be in (0, 1), not {self.layer_norm_eps}")
        if not 0 <= self.initializer_range <= 1:
            raise InputError(
                f"config: initializer_range must be in [0, 1], not {self.initializer_range}"
            )
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"config: hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise InputError(
                f"config: hidden_act {short(self.hidden_act)} is not one of "
                f"{', '.join(ACTIVATIONS)}"
            )
        if sorted(self.id2label) != list(range(len(self.id2label))):
            raise InputError("config: id2label must number its labels 0, 1, 2, ... without gaps")
        if len(set(self.labels)) < len(self.labels):
            raise InputError(f"config: id2label names a label twice: {', '.join(self.labels)}")
        for layer, heads in self.pruned_heads.items():
            if not 0 <= layer < self.num_hidden_layers or not all(
                0 <= head < self.num_attention_heads for head in heads
            ):
                raise InputError(
                    f"config: pruned_heads names layer {layer}, heads {short(heads)}: no such"
                )

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.id2label[i] for i in range(len(self.id2label)))

    def heads(self, layer: int) -> tuple[int, ...]:
        """The original indices of the heads that `layer` still has."""
        gone = self.pruned_heads.get(layer, [])
        return tuple(h for h in range(self.num_attention_heads) if h not in gone)

    @property
    def present_heads(self) -> list[Head]:
        """(layer, head) of every head that the model has, in reading order."""
        return [(layer, h) for layer in range(self.num_hidden_layers) for h in self.heads(layer)]

    def with_labels(self, labels: tuple[str, ...]) -> "BertConfig":
        return replace(self, id2label=dict(enumerate(labels)))

    @classmethod
    def load(cls, path: str | Path, **changes: Any) -> "BertConfig":
        """Read a config.json, with `changes` in place of the fields of the file. Keys that do not
        change the computation are ignored."""
        raw = read_json(path)
        if not isinstance(raw, dict):
            raise InputError(f"{path}: expected a JSON object, found {type(raw).__name__}")
        for key, allowed in FIXED.items():
            if key in raw and raw[key] not in allowed:
                raise InputError(
                    f"{path}: {key} is {short(raw[key])}; "
                    f"minibert loads encoders with {allowed[0]!r}"
                )
        required = [f.name for f in fields(cls) if f.default is f.default_factory is MISSING]
        if missing := [name for name in required if name not in raw]:
            raise InputError(f"{path}: missing {', '.join(missing)}: is this a BERT config.json?")
        values = {f.name: raw[f.name] for f in fields(cls) if f.name in raw.keys() - changes.keys()}
        try:
            for key in ("id2label", "pruned_heads"):
                values[key] = _by_number(values.get(key))
            return cls(**values | changes)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except (AttributeError, ValueError):
            raise InputError(f"{path}: {key} must map numbers, such as {{'0': ...}}") from None

    def to_json(self, architecture: str) -> str:
        """The text of a config.json that transformers' `architecture` reads."""
        label2id = {name: i for i, name in self.id2label.items()}
        head = {"architectures": [architecture], "model_type": "bert"}
        body = {k: v for k, v in asdict(self).items() if v not in ({}, None)}
        return json.dumps(
            {**head, **body, **({"label2id": label2id} if label2id else {})}, indent=2
        )


def _by_number(given: dict[str, Any] | None) -> dict[int, Any]:
    """{"0": x} -> {0: x}. Raises AttributeError or ValueError for what is not written so."""
    found = {} if given is None else {int(key): value for key, value in given.items()}
    if given and list(given) != list(map(str, found)):  # "00" would stand for "0" too
        raise ValueError
    return found
