"""The sizes of an encoder, under the field names of BERT's config.json in transformers."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from reprlib import repr as short
from typing import Any, Literal, get_args

from torch import Tensor
from torch.nn import functional as F

from minibert.errors import InputError, check, check_fields
from minibert.files import read_object

MAX_SIZE = 2**31 - 1  # torch can represent the product of two sizes of this magnitude

Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),  # unlike a lambda, it can be pickled
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}

ModelType = Literal["bert", "distilbert", "electra"]
# Keys that change the computation, each with the values that minibert supports.
# transformers leaves out keys that have their default, so a missing key is always accepted.
FIXED: dict[str, tuple] = {
    "model_type": get_args(ModelType),
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "quantization_config": (None,),
}

# Fields that config.json of another family names differently, and fields that it does not have.
DISTILBERT_KEYS = {
    "hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim", "hidden_act": "activation", "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}  # fmt: skip
DISTILBERT_CONSTANTS = {"type_vocab_size": 0, "layer_norm_eps": 1e-12}
KEYS: dict[str, dict] = {"bert": {}, "electra": {}, "distilbert": DISTILBERT_KEYS}
CONSTANTS: dict[str, dict] = {"bert": {}, "electra": {}, "distilbert": DISTILBERT_CONSTANTS}
# Of DistilBERT, transformers reads these fields under BERT's names too, which take precedence.
ALIASES = {"hidden_size", "num_hidden_layers", "num_attention_heads"}

Head = tuple[int, int]  # (layer, original head index), both from zero


def head_name(head: Head) -> str:
    """(3, 7) -> "L3H7"."""
    return f"L{head[0]}H{head[1]}"


def parse_head(name: str) -> Head:
    """ "L3H7" -> (3, 7). Raises ValueError for any other text."""
    layer, head = name.removeprefix("L").split("H")
    return int(layer), int(head)


@dataclass(frozen=True)
class BertConfig:
    """Sizes and labels of one encoder. Raises InputError for values that no encoder can have.

    `pruned_heads` maps a layer to its removed heads. `num_attention_heads` stays the original
    number, so head indices never shift.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2  # 0 for DistilBERT, which has no token types
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    initializer_range: float = 0.02
    id2label: dict[int, str] = field(default_factory=dict)
    pruned_heads: dict[int, list[int]] = field(default_factory=dict)
    model_type: ModelType = "bert"

    def __post_init__(self) -> None:
        check_fields(self, "config: ")
        self._check_numbers()
        self._check_heads_and_labels()

    def _check_numbers(self) -> None:
        constants = CONSTANTS[self.model_type]
        for name, value in constants.items():
            message = f"config: {name} must be {value} for {self.model_type}"
            check(getattr(self, name) == value, f"{message}, not {getattr(self, name)}")
        for name in (f.name for f in fields(self) if f.type is int and f.name not in constants):
            size = getattr(self, name)
            message = f"config: {name} must be from 1 to {MAX_SIZE}, not {short(size)}"
            check(1 <= size <= MAX_SIZE, message)
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            prob = getattr(self, name) or 0
            check(0 <= prob < 1, f"config: {name} must be in [0, 1), not {prob}")
        eps, std = self.layer_norm_eps, self.initializer_range
        check(0 < eps < 1, f"config: layer_norm_eps must be in (0, 1), not {eps}")
        check(0 <= std <= 1, f"config: initializer_range must be in [0, 1], not {std}")

        message = f"hidden_act {short(self.hidden_act)} is not one of {', '.join(ACTIVATIONS)}"
        check(self.hidden_act in ACTIVATIONS, f"config: {message}")

    def _check_heads_and_labels(self) -> None:
        size, count = self.hidden_size, self.num_attention_heads
        message = f"hidden_size {size} is not a multiple of num_attention_heads {count}"
        check(size % count == 0, f"config: {message}")

        for layer, heads in self.pruned_heads.items():
            exists = 0 <= layer < self.num_hidden_layers and all(0 <= h < count for h in heads)
            where = f"layer {layer}, heads {short(heads)}"
            check(exists, f"config: pruned_heads names {where}, which do not exist")

        numbers = list(range(len(self.id2label)))
        message = "config: id2label must number its labels 0, 1, 2, ... without gaps"
        check(sorted(self.id2label) == numbers, message)
        message = f"config: id2label names a label twice: {', '.join(self.labels)}"
        check(len(set(self.labels)) == len(numbers), message)

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.id2label[i] for i in range(len(self.id2label)))

    def heads(self, layer: int) -> tuple[int, ...]:
        """The original indices of the heads that `layer` still has."""
        pruned = self.pruned_heads.get(layer, [])
        return tuple(h for h in range(self.num_attention_heads) if h not in pruned)

    @property
    def present_heads(self) -> list[Head]:
        """(layer, head) of every head that is not pruned, in order."""
        return [(layer, h) for layer in range(self.num_hidden_layers) for h in self.heads(layer)]

    def with_labels(self, labels: Sequence[str]) -> "BertConfig":
        return replace(self, id2label=dict(enumerate(labels)))

    @classmethod
    def load(cls, path: str | Path, **changes: Any) -> "BertConfig":
        """Read a config.json. `changes` replace fields of the file. Keys that do not change what
        is computed are ignored. Raises InputError."""
        raw = read_object(path)
        for key, allowed in FIXED.items():
            choices = ", ".join(map(repr, allowed))
            message = f"{key} is {short(raw.get(key))}; minibert loads {choices}"
            check(raw.get(key, allowed[0]) in allowed, f"{path}: {message}")

        model_type = raw.get("model_type", "bert")
        keys, constants = KEYS[model_type], CONSTANTS[model_type]
        renamed = {name: raw[key] for name, key in keys.items() if key in raw}
        ignored = keys.keys() - ALIASES
        raw = renamed | {k: value for k, value in raw.items() if k not in ignored} | constants
        required = [f.name for f in fields(cls) if f.default is f.default_factory is MISSING]
        missing = ", ".join(keys.get(name, name) for name in required if name not in raw)
        check(not missing, f"{path}: missing {missing}: is this a config.json of {model_type}?")
        if model_type == "electra":
            size = raw.get("embedding_size")
            why = "minibert loads the base and the large model"
            message = f"embedding_size is {short(size)}, not hidden_size: {why}"
            check(size == raw["hidden_size"], f"{path}: {message}")

        values = {f.name: raw[f.name] for f in fields(cls) if f.name in raw.keys() - changes.keys()}
        try:
            for name in ("id2label", "pruned_heads"):
                values[name] = _int_keys(name, values.get(name))
            return cls(**values | changes)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def to_json(self, architecture: str) -> str:
        """The text of a config.json that transformers' class `architecture` reads."""
        values: dict[str, Any] = {"architectures": [architecture], "model_type": self.model_type}
        keys, constants = KEYS[self.model_type], CONSTANTS[self.model_type]
        for name, value in asdict(self).items():
            if name not in constants and value not in ({}, None):
                values[keys.get(name, name)] = value
        if self.model_type == "electra":
            values["embedding_size"] = self.hidden_size
        if self.id2label:
            values["label2id"] = {label: number for number, label in self.id2label.items()}
        return json.dumps(values, indent=2)


def _int_keys(name: str, mapping: Any) -> dict[int, Any]:
    """{"0": x} -> {0: x}: in JSON every key is text. None, for an empty mapping, -> {}."""
    mapping = {} if mapping is None else mapping
    # int() would also read "00" and " 0", two keys for one number.
    number = re.compile("0|[1-9][0-9]{0,8}")
    are_numbers = isinstance(mapping, dict) and all(map(number.fullmatch, mapping))
    check(are_numbers, f"{name} must map numbers, such as {{'0': ...}}")
    return {int(key): value for key, value in mapping.items()}
