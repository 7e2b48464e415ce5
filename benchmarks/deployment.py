"""A tagger and its pruned copy in ONNX Runtime: size, speed and test AP, in float32 and int8.

python -m benchmarks.deployment --run runs/mine --pruned runs/mine/prune-keep/keep-36. Both models
are exported by `to_onnx`; int8 is ONNX Runtime's dynamic quantisation. The sessions take turns on a
batch of random sequences of one length.
"""

import logging
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from onnxruntime import InferenceSession, SessionOptions
from onnxruntime.quantization import quantize_dynamic
from torch import Tensor

from benchmarks.workload import machine, markdown
from minibert import BertConfig, BertForTokenClassification
from minibert.data.batches import Split
from minibert.evaluation import intervals
from minibert.evaluation.metrics import Array
from minibert.evaluation.tagger import measures, predict
from minibert.export import to_onnx
from minibert.heads.costs import flops_of, take_turns
from minibert.model import Output
from minibert.output.numbers import percent
from minibert.runtime import cli
from minibert.runtime.peak import MIB
from minibert.training.trained import load_run, load_tagger


@dataclass(frozen=True, kw_only=True)
class Settings:
    run: Path
    """Run folder of train.py, of a task with keyphrases."""

    pruned: Path
    """Folder of a smaller model that prune.py made of it."""

    length: int = 256
    """Word pieces of each sequence that is timed."""

    batch_size: int = 4

    rounds: int = 9
    """Number of timed rounds."""

    threads: int = 1


class OnnxTagger(BertForTokenClassification):
    """A tagger whose logits ONNX Runtime computes from a file."""

    def __init__(self, config: BertConfig, path: Path, threads: int):
        super().__init__(config)
        options = SessionOptions()
        options.intra_op_num_threads = threads
        self.session = InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def forward(self, input_ids: Tensor, attention_mask: Tensor, head_mask: None = None) -> Output:
        ids, mask = input_ids.numpy(), attention_mask.numpy()
        batch = {"input_ids": ids, "attention_mask": mask}
        if self.config.type_vocab_size:
            batch["token_type_ids"] = np.zeros_like(ids)
        logits = torch.from_numpy(self.session.run(["logits"], batch)[0])
        return Output(torch.empty(0), logits)


def run(settings: Settings) -> None:
    dense = load_run(settings.run)
    models = {"dense": dense.model, "pruned": load_tagger(settings.pruned)}
    shape = (settings.batch_size, settings.length)
    ids = torch.randint(dense.model.config.vocab_size, shape)
    batch = (ids, torch.ones_like(ids))

    sizes, taggers, flops = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for model_name, model in models.items():
            heads = len(model.config.present_heads)
            flops_of_model = flops_of(partial(model, *batch))
            for precision, path in write_files(model, Path(folder) / model_name).items():
                name = f"{model_name}, {heads} heads, {precision}"
                sizes[name] = path.stat().st_size / MIB
                taggers[name] = OnnxTagger(model.config, path, settings.threads)
                flops[name] = flops_of_model

    jobs: dict[str, Callable] = {n: partial(tagger, *batch) for n, tagger in taggers.items()}
    seconds = take_turns(jobs, settings.rounds)
    ap = {name: average_precision(tagger, dense.splits["test"]) for name, tagger in taggers.items()}

    first = next(iter(taggers))
    rows = [["model", "MiB", "faster", "FLOPs allow", "AP, %", "of dense AP, %"]]
    for name in taggers:
        faster = median(a / b for a, b in zip(seconds[first], seconds[name]))
        scores = [ap[name], ap[name] / ap[first]]
        cells = [f"{sizes[name]:.1f}", f"{faster:.2f}", f"{flops[first] / flops[name]:.2f}"]
        rows.append([name, *cells, *(percent(intervals.interval(score)) for score in scores)])

    documents = len(dense.splits["test"].documents)
    what = (
        f"{settings.batch_size} sequences of {settings.length} pieces, {settings.threads} thread(s)"
    )
    print(f"{machine()}; {what}, medians of {settings.rounds} rounds; {documents} test documents\n")
    print(markdown(rows))


def write_files(model: BertForTokenClassification, folder: Path) -> dict[str, Path]:
    """The model as ONNX, in float32 and in int8."""
    logging.disable(logging.WARNING)  # quantisation advises to optimise first
    paths = {name: folder / f"{name}.onnx" for name in ("float32", "int8")}
    to_onnx(model, paths["float32"])
    # Reduced range: without VNNI, the sums of 8-bit products overflow.
    quantize_dynamic(paths["float32"], paths["int8"], per_channel=True, reduce_range=True)
    return paths


def average_precision(tagger: OnnxTagger, split: Split) -> Array:
    """(1 + R,): of all documents, and of every resample."""
    draws = intervals.resamples(len(split.documents))
    predictions = predict(tagger.eval(), split)
    return measures(predictions, split, tagger.config.labels, 0.0, draws)["AP"][:, 0]


main = partial(cli.run, run, Settings, __doc__)

if __name__ == "__main__":
    sys.exit(main())
