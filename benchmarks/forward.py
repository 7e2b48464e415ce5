"""One forward pass beside the other engines that run a BERT on a CPU.

python -m benchmarks.forward. Ours and the peers are loaded from one folder, run in one process on
the same batches with the same threads, and take turns. Each batch is padded to its longest sequence
and has its attention mask, as in usual code. Before the timing, the hidden states at real tokens
of the first batch must equal ours in float32 to 1e-4; in int8 and bf16 their correlation with ours
is printed. A ratio above 1 means that ours is faster in the same precision, or in float32 for int8.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.workload import (
    DTYPES,
    SPEED_COLUMNS,
    Lengths,
    Rows,
    Workload,
    describe_documents,
    has_bf16,
    markdown,
    matrix_jobs,
    matrix_speed,
    save,
    speed_cells,
)
from minibert import Bert, load_pretrained
from minibert.data.batches import Batch
from minibert.files import read_json, write_json
from minibert.heads.costs import flops_of, take_turns
from minibert.runtime import cli

if TYPE_CHECKING:
    from transformers import BertModel

Precision = Literal["float32", "int8", "bf16"]
Encoder = Callable[[Tensor, Tensor], Tensor]  # ids and mask (B, L) -> hidden states (B, L, D)
OURS = "minibert float32"


@dataclass(frozen=True)
class Settings(Workload):
    precisions: tuple[Precision, ...] = ("float32", "int8", *(("bf16",) if has_bf16() else ()))
    """Each engine runs in those that it supports. Ours always runs in float32."""


def with_minibert(folder: Path, threads: int, precision: Precision) -> Encoder:
    model = load_pretrained(folder, dtype=DTYPES[precision])
    return lambda ids, mask: model(ids, mask).last_hidden_state


def with_transformers(folder: Path, threads: int, precision: Precision) -> Encoder:
    model: torch.nn.Module = _transformers(folder)
    model = model.to(DTYPES[precision])
    return lambda ids, mask: model(ids, attention_mask=mask).last_hidden_state


def _transformers(folder: Path) -> "BertModel":
    from transformers import BertModel

    return BertModel.from_pretrained(
        folder, add_pooling_layer=False, attn_implementation="sdpa"
    ).eval()


def with_onnxruntime(folder: Path, threads: int, precision: Precision) -> Encoder:
    from onnxruntime import InferenceSession, SessionOptions
    from onnxruntime.quantization import quantize_dynamic

    file = _onnx(folder)
    if precision == "int8":
        # Reduced range: without VNNI, the sums of products of whole bytes overflow.
        quantize_dynamic(file, folder / "int8.onnx", per_channel=True, reduce_range=True)
        file = folder / "int8.onnx"

    options = SessionOptions()
    options.intra_op_num_threads = threads
    session = InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def encode(ids: Tensor, mask: Tensor) -> Tensor:
        feed = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        return torch.from_numpy(session.run(None, feed)[0])

    return encode


@cache
def _onnx(folder: Path) -> Path:
    """Export the model of transformers and fuse its operations by ONNX Runtime's own tool."""
    from onnxruntime.transformers.optimizer import optimize_model

    model = _transformers(folder)
    plain, fused = folder / "plain.onnx", folder / "fused.onnx"
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    inputs = _example()
    shapes = dict.fromkeys(inputs, axes)
    torch.onnx.export(model, (), plain, kwargs=inputs, dynamic_shapes=shapes, verbose=False)
    heads, width = model.config.num_attention_heads, model.config.hidden_size
    optimize_model(str(plain), "bert", heads, width).save_model_to_file(str(fused))
    return fused


def _example() -> dict[str, Tensor]:
    ids = torch.full((2, 16), 1000)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def with_openvino(folder: Path, threads: int, precision: Precision) -> Encoder:
    import openvino

    if precision == "bf16" and "BF16" not in openvino.Core().get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        raise NotImplementedError("this CPU has no bf16; it would silently compute in float32")
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # a pinned thread would wait for a busy core
        "INFERENCE_PRECISION_HINT": "f32" if precision == "float32" else precision,
    }
    model = openvino.convert_model(_transformers(folder), example_input=_example())
    compiled = openvino.compile_model(model, "CPU", options)

    def encode(ids: Tensor, mask: Tensor) -> Tensor:
        feed = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        return torch.from_numpy(compiled(feed)[0])

    return encode


def with_ctranslate2(folder: Path, threads: int, precision: Precision) -> Encoder:
    from ctranslate2 import Encoder, StorageView
    from ctranslate2.converters import TransformersConverter

    config = read_json(folder / "config.json")  # the converter needs a field of transformers 4
    write_json(folder / "config.json", config | {"position_embedding_type": "absolute"})
    converted = folder / "ctranslate2"
    TransformersConverter(str(folder)).convert(str(converted), force=True)
    model = Encoder(str(converted), compute_type=precision, intra_threads=threads)

    def encode(ids: Tensor, mask: Tensor) -> Tensor:
        dense, lengths = (StorageView.from_array(t.int().numpy()) for t in (ids, mask.sum(1)))
        return torch.from_numpy(np.asarray(model.forward_batch(dense, lengths).last_hidden_state))

    return encode


class Engine(NamedTuple):
    load: Callable[[Path, int, Precision], Encoder]
    """From a folder, a number of threads and a precision."""

    precisions: tuple[Precision, ...]

    packages: tuple[str, ...] = ()
    """The packages that it needs."""


ENGINES = {
    "minibert": Engine(with_minibert, ("float32", "bf16")),
    "transformers": Engine(with_transformers, ("float32", "bf16"), ("transformers",)),
    "onnxruntime": Engine(
        with_onnxruntime, ("float32", "int8"), ("onnxruntime", "onnx", "onnxscript", "transformers")
    ),
    "openvino": Engine(with_openvino, ("float32", "bf16"), ("openvino", "transformers")),
    "ctranslate2": Engine(with_ctranslate2, ("float32", "int8"), ("ctranslate2", "transformers")),
}


def load(folder: Path, settings: Settings) -> dict[str, Encoder]:
    """Each engine that works here, in each precision of the settings that it has on this CPU.
    Prints what is left out."""
    encoders = {}
    for name, engine in ENGINES.items():
        if missing := [package for package in engine.packages if not find_spec(package)]:
            print(f"{name}: left out; for it: pip install {' '.join(missing)}\n")
            continue

        for precision in engine.precisions:
            title = f"{name} {precision}"
            if precision not in settings.precisions and title != OURS:
                continue
            try:
                encoders[title] = engine.load(folder, settings.threads, precision)
            except Exception as error:  # of a peer: the others are measured without it
                print(f"{title}: left out; {type(error).__name__}: {error}\n")
    return encoders


def encode(encoder: Encoder, batches: Sequence[Batch]) -> list[Tensor]:
    return [encoder(b.input_ids, b.attention_mask) for b in batches]


def real_tokens(encoder: Encoder, batch: Batch) -> Tensor:
    """(T, D): the hidden states at the real tokens."""
    return encoder(batch.input_ids, batch.attention_mask)[batch.attention_mask.bool()].float()


def compare(name: str, hidden: Tensor, ours: Tensor) -> str:
    """How close two outputs are. Raises AssertionError if float32 differs by more than 1e-4."""
    if name.endswith("float32"):
        torch.testing.assert_close(hidden, ours, atol=1e-4, rtol=0, msg=lambda m: f"{name}: {m}")
        return f"difference at most {float((hidden - ours).abs().max()):.0e}"

    both = torch.stack([hidden.flatten(), ours.flatten()])
    return f"correlation {float(torch.corrcoef(both)[0, 1]):.4f}"


@torch.no_grad()
def run(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    model = settings.model().bert
    rows = [["documents", "engine", *SPEED_COLUMNS, "output beside ours"]]
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder))
        encoders = load(Path(folder), settings)
        for lengths in settings.lengths:
            rows += time_engines(model, encoders, lengths, settings)

    print(f"{settings.describe()}\n\n{markdown(rows, 2)}")


def time_engines(
    model: Bert, encoders: Mapping[str, Encoder], lengths: Lengths, settings: Settings
) -> Rows:
    """The rows of one arrangement of the documents."""
    batches = settings.batches(lengths, model.config)
    sizes = [len(window.input_ids) for batch in batches for window in batch.windows]
    ours = real_tokens(encoders[OURS], batches[0])
    notes = {n: compare(n, real_tokens(e, batches[0]), ours) for n, e in encoders.items()}

    jobs: dict[str, Callable] = {n: partial(encode, e, batches) for n, e in encoders.items()}
    precisions = [name for name in DTYPES if f"minibert {name}" in encoders]
    for name in precisions:
        jobs |= matrix_jobs(model.config, DTYPES[name], sum(sizes))
    seconds = take_turns(jobs, settings.rounds)
    limits = {p: matrix_speed(seconds, model.config, p, sum(sizes)) for p in precisions}
    flops = flops_of(partial(encode, encoders[OURS], batches))

    rows = []
    for name in encoders:
        precision = name.split()[-1]
        same = precision if precision in precisions else "float32"  # int8: beside float32
        cells = speed_cells(
            seconds[name], seconds[f"minibert {same}"], sum(sizes), flops, limits[same]
        )
        rows.append(["", name, *cells, notes[name] if name != OURS else ""])
    rows[0][0] = describe_documents(lengths, sizes, settings.batch_size)
    for precision, limit in limits.items():
        rows.append(["", f"limit {precision}", "", f"{limit / 1e9:.0f} GFLOP/s", "100%", ""])
    return rows


main = partial(cli.run, run, Settings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
