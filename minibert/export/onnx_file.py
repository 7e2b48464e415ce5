"""Write a model as an ONNX file, checked in ONNX Runtime against the model."""

from copy import deepcopy
from pathlib import Path

import torch

from minibert.errors import check
from minibert.files import atomic_path
from minibert.model import Bert, BertForTokenClassification
from minibert.runtime import cli

LIMIT = 2**31 - 1  # bytes of a file in the format of ONNX
TOLERANCE = 1e-4  # of the largest difference, relative to the largest output if that is above 1


@torch.no_grad()
def to_onnx(model: Bert | BertForTokenClassification, path: str | Path) -> None:
    """Write the model in float32 at its true shape (minibert/export/onnx_graph.py).

    Raises InputError if the packages of the extra "onnx" are missing, if `model` is not a model of
    minibert, has no labels or is too large, or if `path` cannot be written; RuntimeError if ONNX
    Runtime computes other outputs.
    """
    cli.require("onnx")
    is_model = isinstance(model, Bert | BertForTokenClassification)
    advice = "load_pretrained makes one, and prune folds gates or a head mask into it"
    check(is_model, f"to_onnx takes a model, not {type(model).__name__}: {advice}")
    has_output = isinstance(model, Bert) or model.config.labels
    check(has_output, "a tagger needs labels; export the encoder: to_onnx(model.bert, path)")
    fits = 4 * sum(parameter.numel() for parameter in model.parameters()) <= LIMIT
    check(fits, f"{path}: the model is too large; an ONNX file holds at most 2 GiB")

    from minibert.export.onnx_graph import make_model  # here: an extra

    model = deepcopy(model).cpu().float().eval()
    content = make_model(model).SerializeToString()
    difference = compare(model, content)
    if not difference <= TOLERANCE:  # NaN fails too
        raise RuntimeError(f"the ONNX model differs from the torch model by {difference:.1e}")
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def compare(model: Bert | BertForTokenClassification, content: bytes) -> float:
    """The largest difference of the outputs at real tokens, for three sequences of random tokens
    and three lengths."""
    from onnxruntime import InferenceSession  # here: an extra

    config = model.config
    longest = min(64, config.max_position_embeddings)
    lengths = torch.tensor([longest, longest // 2 + 1, 1])
    generator = torch.Generator().manual_seed(0)
    shape = (len(lengths), longest)
    attention_mask = (torch.arange(longest) < lengths[:, None]).long()
    batch = {
        "input_ids": torch.randint(config.vocab_size, shape, generator=generator),
        "attention_mask": attention_mask,
    }
    if config.type_vocab_size:
        token_types = torch.randint(config.type_vocab_size, shape, generator=generator)
        batch["token_type_ids"] = token_types

    with torch.autocast("cpu", enabled=False):
        output = model(**batch)
    expected = output.last_hidden_state if output.logits is None else output.logits
    session = InferenceSession(content, providers=["CPUExecutionProvider"])
    feed = {name: tensor.numpy() for name, tensor in batch.items()}
    actual = torch.from_numpy(session.run(None, feed)[0])

    is_real = attention_mask.bool()
    difference = (actual - expected)[is_real].abs().max()
    return float(difference / expected[is_real].abs().max().clamp(min=1))
