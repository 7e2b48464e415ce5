"""Damaged and hostile model folders: each is rejected in one sentence, or loads what it holds."""

import json
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from tiny import randomise

from minibert import (
    Bert,
    BertConfig,
    BertForTokenClassification,
    InputError,
    load_pretrained,
    save_pretrained,
)
from minibert.config import FIXED
from minibert.weights import their_name

resource = pytest.importorskip("resource")
SMALL = BertConfig(
    vocab_size=7,
    hidden_size=6,
    num_hidden_layers=1,
    num_attention_heads=3,
    intermediate_size=5,
    max_position_embeddings=4,
    pruned_heads={0: [1]},
    id2label={0: "O", 1: "I"},
)
DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
MORE_MEMORY = 1 << 30  # bytes that are too much for loading a model of 400 numbers

Files = dict[str, bytes]  # the files of a model folder
Tensors = dict[str, tuple[list[int], np.ndarray]]  # shape, and all numbers in a row


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Files:
    folder = tmp_path_factory.mktemp("original")
    save_pretrained(randomise(BertForTokenClassification(SMALL)), folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory if possible, because thousands of files are written."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as home:
        (Path(home) / "model").mkdir()
        yield Path(home) / "model"


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Make allocations of gigabytes fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")
    if statm.exists():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MORE_MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def fuzz(
    original: Files, folder: Path, mutate: Callable[[random.Random, Files], None], cases: int
) -> None:
    """Check that each case is rejected in one sentence or loads what its files hold, and that both
    occur often."""
    loaded = 0
    previous: Files = {}
    for case in range(cases):
        files = dict(original)
        mutate(random.Random(case), files)
        for name in previous.keys() - files.keys():
            (folder / name).unlink()
        for name, content in files.items():
            if previous.get(name) != content:  # a new file: a model may have the old one mapped
                (folder / name).unlink(missing_ok=True)
                (folder / name).write_bytes(content)
        previous = files
        try:
            loaded += loads_correctly(folder, files)
        except BaseException as error:
            error.add_note(f"case {case}")
            raise
    assert 0.05 < loaded / cases < 0.95


def loads_correctly(folder: Path, files: Files) -> bool:
    """Whether the folder loads. Fails if it loads wrongly."""
    try:
        model = load_pretrained(folder)
    except InputError as error:
        message = str(error)
        assert message.startswith(str(folder))
        assert message.isprintable()
        assert len(message) <= 1000
        return False
    parts = ["model.safetensors"]
    if parts[0] not in files:
        parts = json.loads(files["model.safetensors.index.json"])["weight_map"].values()
    tensors = {k: v for part in parts for k, v in parse_safetensors(files[part]).items()}
    check_weights(model, tensors)
    check_config(model, json.loads(files["config.json"]), tensors)
    return True


def parse_safetensors(content: bytes) -> Tensors:
    """Parse a safetensors file by its specification: length of the header, header, numbers."""
    length = int.from_bytes(content[:8], "little")
    header, numbers = json.loads(content[8 : 8 + length]), content[8 + length :]
    header.pop("__metadata__", None)
    stored = {}
    for name, tensor in header.items():
        start, end = tensor["data_offsets"]
        if tensor["dtype"] == "BF16":
            halves = np.frombuffer(numbers[start:end], np.uint16)
            flat = (halves.astype(np.uint32) << 16).view(np.float32)
        else:
            flat = np.frombuffer(numbers[start:end], DTYPES[tensor["dtype"]])
        stored[name] = tensor["shape"], flat
    return stored


def check_weights(model: torch.nn.Module, tensors: Tensors) -> None:
    """Check that all numbers of the model are finite and equal those of the file."""
    for name, parameter in model.state_dict().items():
        theirs = their_name(name)
        kind = {"weight": "gamma", "bias": "beta"}[name.rpartition(".")[2]]
        names = {theirs, f"{theirs.rpartition('.')[0]}.{kind}"}
        names |= {n.removeprefix("bert.") for n in names} | {f"bert.{n}" for n in names}
        [stored] = names & tensors.keys()
        shape, numbers = tensors[stored]
        expected = numbers.astype(np.float32)
        assert list(parameter.shape) == shape
        assert parameter.numpy(force=True).tobytes() == expected.tobytes(), name
        assert np.isfinite(expected).all()


def check_config(model: torch.nn.Module, raw: dict, tensors: Tensors) -> None:
    """Check that all fields have the values of the file, and that no key of it is ignored."""
    for f in fields(BertConfig):
        value = getattr(model.config, f.name)
        if f.default_factory is MISSING:
            expected = raw.get(f.name, f.default)
        elif f.name == "id2label" and isinstance(model, Bert):
            expected = {}  # the labels are those of a head that is dropped
        elif raw.get(f.name) or f.name == "pruned_heads":
            expected = raw.get(f.name) or {}
            value = {str(key): inner for key, inner in value.items()}
        elif isinstance(model, BertForTokenClassification):
            labels = tensors["classifier.weight"][0][0]
            expected = {i: f"LABEL_{i}" for i in range(labels)}
        else:
            expected = {}
        assert (value, type(value)) == (expected, type(expected)), f.name
    for key, allowed in FIXED.items():
        assert raw.get(key, allowed[0]) in allowed
    if isinstance(model, BertForTokenClassification):
        assert "BertForTokenClassification" in (raw.get("architectures") or [model._get_name()])


# Bytes ------------------------------------------------------------------------------------------


def damage(draw: random.Random, content: bytes) -> bytes:
    """Change, delete, insert or move a few bytes, mostly near the beginning."""
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        size = len(changed)
        place = min(draw.randrange(size + 1), draw.randrange(size + 1)) if size else 0
        reach = draw.choice([1, 1, 2, 8, 100])
        noise = draw.choice([draw.randbytes(reach), b"\0" * reach, b"\xff" * reach, b"9" * reach])
        kind = draw.choice(["flip", "flip", "overwrite", "insert", "delete", "repeat", "truncate"])
        if kind == "flip" and place < size:
            changed[place] ^= 1 << draw.randrange(8)
        elif kind == "overwrite":
            changed[place : place + reach] = noise
        elif kind == "insert":
            changed[place:place] = noise
        elif kind == "delete":
            del changed[place : place + reach]
        elif kind == "repeat":
            changed[place:place] = changed[place : place + reach]
        elif kind == "truncate" and draw.random() < 0.3:
            del changed[place:]
    return bytes(changed)


def damaged_file(draw: random.Random, files: Files) -> None:
    content = damage(draw, files["model.safetensors"])
    if draw.random() < 0.1:
        lengths = [0, 1, 7, len(content), 10**8, 10**8 + 1, 2**31, 2**32, 2**63 - 1, 2**64 - 1]
        content = struct.pack("<Q", draw.choice(lengths)) + content[8:]
    files["model.safetensors"] = content


def test_damaged_weights_file(original, folder):
    fuzz(original, folder, damaged_file, 3000)


def damaged_numbers(draw: random.Random, files: Files) -> None:
    content = bytearray(files["model.safetensors"])
    start = 8 + int.from_bytes(content[:8], "little")
    for _ in range(draw.randrange(1, 4)):
        content[draw.randrange(start, len(content))] = draw.choice([0, 0x7F, 0x80, 0xFF])
    files["model.safetensors"] = bytes(content)


def test_damaged_numbers(original, folder):
    fuzz(original, folder, damaged_numbers, 300)


# Headers ----------------------------------------------------------------------------------------

NUMBERS = [0, 1, -1, 2, 6, 7, 5, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64, 10**30, 1.0, 6.5]
ODD = [None, True, False, "", "6", [], {}, [[]], {"a": 1}, float("nan"), float("inf"), -0.0]
KINDS = ["F64", "F32", "F16", "BF16", "I64", "I32", "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"]
KINDS += ["F4", "F6_E2M3", "F8_E8M0", "C64", "U16", "U64", "f32", "X", ""]
NAMES = ["", "x", "classifier.weight", "bert.pooler.dense.weight", "\n", "\x1b[31m", "é" * 200]
NAMES += ["__metadata__", "bert.encoder.layer.9.output.dense.bias", "embeddings.LayerNorm.weight"]


def other(draw: random.Random, values: list) -> list:
    """Change, delete, insert or move one number of a list."""
    values = list(values)
    kind = draw.choice(["change", "add", "lose", "swap", "halve"])
    place = draw.randrange(len(values)) if values else 0
    if kind == "add" or not values:
        values.insert(place, draw.choice(NUMBERS + ODD))
    elif kind == "change":
        values[place] = draw.choice([*NUMBERS, *ODD, values[place] + 4, values[place] - 4])
    elif kind == "lose":
        del values[place]
    elif kind == "swap":
        draw.shuffle(values)
    else:
        values = [v // 2 if i == place else 2 * v for i, v in enumerate(values)]
    return values


def twins(name: str) -> list[str]:
    """Other names of the same tensor."""
    gamma = name.replace("LayerNorm.weight", "LayerNorm.gamma")
    return [gamma, name.removeprefix("bert."), "bert." + name]


def tamper(draw: random.Random, entries: list[tuple[str, dict]]) -> None:
    """Change one entry of a header, given as a list so that a name can occur twice."""
    place = draw.randrange(len(entries))
    name, tensor = entries[place]
    kind = draw.choice(["dtype", "shape", "offsets", "name", "lose", "twice", "odd", "extra"])
    if kind == "lose":
        del entries[place]
    elif kind == "twice":
        entries.insert(draw.randrange(len(entries)), (name, draw.choice(entries)[1]))
    elif kind == "name":
        entries[place] = (draw.choice([*NAMES, draw.choice(entries)[0], *twins(name)]), tensor)
    elif kind == "extra":
        zero = {"dtype": "F32", "shape": other(draw, [0, 6]), "data_offsets": [0, 0]}
        entries.append((draw.choice([*NAMES, "cls.x", name, *twins(name)]), zero))
    elif kind == "odd" or not isinstance(tensor, dict) or "data_offsets" not in tensor:
        entries[place] = (name, draw.choice([*ODD, 3, {"a": "b"}, {"dtype": "F32"}]))
    elif kind == "dtype":
        entries[place] = (name, tensor | {"dtype": draw.choice([*KINDS, 3, None])})
    else:
        key = {"shape": "shape", "offsets": "data_offsets"}[kind]
        entries[place] = (name, tensor | {key: other(draw, tensor[key])})


def recast(draw: random.Random, entries: list, numbers: bytes) -> bytes:
    """Convert all tensors to another type, as in a file of that type, which may be valid."""
    kind = draw.choice(["F64", "F16", "BF16", "I32", "I16", "BOOL"])
    types = {"F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16}
    types |= {"I32": torch.int32, "I16": torch.int16, "BOOL": torch.bool}
    out = b""
    for place, (name, tensor) in enumerate(entries):
        if "dtype" in tensor:
            a, b = tensor["data_offsets"]
            values = torch.from_numpy(np.frombuffer(numbers[a:b], np.float32).copy())
            more = values.to(types[kind]).view(torch.uint8).numpy().tobytes()
            offsets = [len(out), len(out) + len(more)]
            entries[place] = (name, tensor | {"dtype": kind, "data_offsets": offsets})
            out += more
    return out


def text_of(draw: random.Random, entries: list) -> bytes:
    parts = [f"{json.dumps(name)}: {json.dumps(tensor)}" for name, tensor in entries]
    text = "{" + ", ".join(parts) + "}"
    kind = draw.random()
    if kind < 0.04:
        depth = draw.choice([100, 127, 128, 1000, 100_000])
        text = text.replace("[", "[" * depth, 1)
    elif kind < 0.06:
        return text.encode("utf-16")
    elif kind < 0.08:
        return text.encode().replace(b"bert", b"b\xffrt", 1)
    elif kind < 0.1:
        text = draw.choice(["", "{}", "[]", "null", "3", "{", " " + text, text + "x", "\ufeff"])
    return text.encode()


def tampered_header(draw: random.Random, files: Files) -> None:
    content = files["model.safetensors"]
    length = int.from_bytes(content[:8], "little")
    entries, numbers = list(json.loads(content[8 : 8 + length]).items()), content[8 + length :]
    if draw.random() < 0.1:
        numbers = recast(draw, entries, numbers)
    for _ in range(draw.choice([0, 1, 2, 2, 3])):
        tamper(draw, entries)
    if draw.random() < 0.3:
        draw.shuffle(entries)
    header = text_of(draw, entries) + b" " * draw.randrange(9)
    numbers = draw.choice([*[numbers] * 20, numbers[:-4], numbers + b"\0" * 4, b""])
    files["model.safetensors"] = struct.pack("<Q", len(header)) + header + numbers


def test_tampered_header(original, folder):
    fuzz(original, folder, tampered_header, 3500)


# Configs ----------------------------------------------------------------------------------------


VALUES = [*NUMBERS, *ODD, -7, 3, 12, 1e-12, 1e-5, 0.5, 1e308, -1e-300, 10**9, 10**400, "gelu"]
VALUES += ["relu", "a\nb", "x" * 10_000, [1] * 1000, "../x", "bert"]
VALUES += [["BertModel"], ["BertForTokenClassification"], [3], {"0": "O", "1": "I"}, {"0": [0]}]
VALUES += [{"0": "A", "1": "A"}, {"0": "O", "00": "I"}, {"0": "O", " 1": "I"}, {"1_0": [1]}]
VALUES += [{"0": [1], "1": []}, {"0": [1, 1]}, {"0": [0, 1, 2]}, {"0": [1], "-0": [0]}]
VALUES += [
    {str(i): f"L{i}" for i in range(1000)},
    {"0": "O\n", "1": "O\n"},
    {"0": list(range(999))},
]
KEYS = [*(f.name for f in fields(BertConfig)), *FIXED, "architectures", "auto_map", "x"]


def tampered_config(draw: random.Random, files: Files) -> None:
    pairs = list(json.loads(files["config.json"]).items())
    for _ in range(draw.choice([1, 1, 2, 3])):
        place = draw.randrange(len(pairs))
        kind = draw.choice(["change", "change", "set", "lose", "twice"])
        if kind == "change":
            pairs[place] = (pairs[place][0], draw.choice(VALUES))
        elif kind == "set":
            key = draw.choice(KEYS)
            pairs = [*(p for p in pairs if p[0] != key), (key, draw.choice(VALUES))]
        elif kind == "lose":
            del pairs[place]
        else:
            pairs.insert(place, (draw.choice(pairs)[0], draw.choice(VALUES)))
    text = "{" + ", ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in pairs) + "}"
    content = text.encode()
    if draw.random() < 0.1:
        content = damage(draw, content)
    elif draw.random() < 0.05:
        content = text.encode(draw.choice(["utf-16", "utf-8-sig"]))
    files["config.json"] = content


def test_tampered_config(original, folder):
    fuzz(original, folder, tampered_config, 2500)


@pytest.mark.parametrize(
    "sizes",
    [
        *({f.name: n} for f in fields(BertConfig) if f.type is int for n in (10**9, 3 * 10**20)),
        {"num_attention_heads": 6 * 10**8, "hidden_size": 6 * 10**8},
        {"num_attention_heads": 6 * 10**8, "hidden_size": 6 * 10**8, "pruned_heads": {}},
        {f.name: 2**31 - 1 for f in fields(BertConfig) if f.type is int},
        {f.name: 1 for f in fields(BertConfig) if f.type is int} | {"num_hidden_layers": 200},
    ],
)
def test_absurd_sizes_are_rejected_before_allocation(original, folder, sizes):
    raw = json.loads(original["config.json"]) | {"pruned_heads": {}} | sizes
    (folder / "config.json").write_text(json.dumps(raw))
    (folder / "model.safetensors").write_bytes(original["model.safetensors"])
    with pytest.raises(InputError, match=r"do not fit|from 1 to \d|not a multiple|do not exist"):
        load_pretrained(folder)


def test_classifier_of_empty_rows_is_rejected(original, folder):
    """The config has no labels, and rows without columns must not be counted as labels."""
    raw = {k: v for k, v in json.loads(original["config.json"]).items() if "label" not in k}
    (folder / "config.json").write_text(json.dumps(raw))
    tensors = parse_safetensors(original["model.safetensors"])
    tensors["classifier.weight"] = [10**9, 0], np.zeros(0, np.float32)
    (folder / "model.safetensors").write_bytes(as_file(tensors))
    with pytest.raises(InputError, match="classifier"):
        load_pretrained(folder)


# Shards -----------------------------------------------------------------------------------------

FILES = ["a.safetensors", "c.safetensors", "../x.safetensors", "/x", "", ".", "..", "\0", "a\nb"]
FILES += ["config.json", "model.safetensors.index.json", "x" * 300, 3, None, [], "b.bin"]


def tampered_index(draw: random.Random, files: Files) -> None:
    tensors = parse_safetensors(files.pop("model.safetensors"))
    shards = ["a.safetensors", "b.safetensors"]
    placed = {name: draw.choice(shards) for name in tensors}
    for file in shards:
        part = {n: t for n, t in tensors.items() if placed[n] == file or draw.random() < 0.003}
        files[file] = as_file(part)
    for _ in range(draw.choice([0, 1, 1, 2])):
        kind = draw.choice(["file", "name", "lose", "damage"])
        name = draw.choice(list(placed))
        if kind == "file":
            placed[name] = draw.choice(FILES)
        elif kind == "name":
            placed[draw.choice(NAMES)] = placed.pop(name)
        elif kind == "lose":
            del placed[name]
        else:
            file = draw.choice(shards)
            files[file] = damage(draw, files[file])
    wrong = [placed, [placed], {}, None, {"weight_map": list(placed.items())}]
    index = json.dumps(draw.choice([*[{"weight_map": placed}] * 30, *wrong])).encode()
    files["model.safetensors.index.json"] = damage(draw, index) if draw.random() < 0.2 else index


def as_file(tensors: Tensors) -> bytes:
    header, numbers = {}, b""
    for name, (shape, values) in tensors.items():
        offsets = [len(numbers), len(numbers) + values.nbytes]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        numbers += values.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def test_tampered_index(original, folder):
    """A file outside the folder would fit, but must not be read."""
    (folder.parent / "x.safetensors").write_bytes(original["model.safetensors"])
    fuzz(original, folder, tampered_index, 800)
