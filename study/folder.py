"""Where the study reads and writes: encoders, collections, taggers, and a file of results for each
experiment."""

import json
import sys
from dataclasses import asdict
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from minibert.errors import check
from minibert.files import read_object, write_text
from minibert.hub import DEFAULT_MODEL
from minibert.search.collection import collection_files
from study import e5
from study.plan import TASKS, Counts, EncoderName, Experiment, Settings

E5 = "e5-encoder"  # the folder of the second encoder
VERSION = 1  # of the results; raise it where an experiment changes


class Study:
    """Where the experiments read and write."""

    def __init__(self, settings: Settings):
        self.settings, self.size = settings, settings.size
        self.data, self.folder = settings.data.resolve(), settings.folder.resolve()

    @property
    def encoders(self) -> list[EncoderName]:
        """Those that exist."""
        return ["minilm", "e5"] if (self.folder / E5).is_dir() else ["minilm"]

    def make_e5(self) -> None:
        """Make the model folder of the second encoder. Without its package, print how to get it."""
        if not (self.folder / E5).is_dir() and not find_spec(e5.PACKAGE):
            advice = f"the second encoder needs the package {e5.PACKAGE}: {e5.INSTALL}"
            print(f"{advice}\nThe study goes on with one encoder.", file=sys.stderr)
            return
        e5.model_folder(self.folder / E5)

    def encoder(self, name: EncoderName) -> str:
        """What loads an encoder: a name or a folder."""
        return DEFAULT_MODEL if name == "minilm" else str(self.folder / E5)

    # Results ------------------------------------------------------------------------------------

    def file(self, name: str) -> Path:
        """Of an experiment."""
        return self.settings.results / f"{name}.json"

    def results(self, name: str) -> Any:
        """What an experiment computed. Raises InputError for a file that is not its result."""
        return self.record(name)["result"]

    def of(self, kind: str, experiment: Experiment, way: str = "") -> Any:
        """The results of another kind of experiment with the same tagger."""
        return self.results(experiment._replace(kind=kind, way=way).name)

    def record(self, name: str) -> dict[str, Any]:
        file = self.file(name)
        record = read_object(file)
        advice = "remove it, or name another folder with --out"
        check(record.get("version") == VERSION, f"{file}: of another version; {advice}")
        check(record.get("quick") == self.settings.quick, f"{file}: of another size; {advice}")
        return record

    def write(self, name: str, minutes: float, result: Any) -> None:
        """Write what an experiment computed, on what, and how long that took."""
        record = {
            "version": VERSION,
            "quick": self.settings.quick,
            "machine": machine(),
            "minutes": round(minutes, 2),
            "result": result,
        }
        line = json.dumps(record, default=asdict)  # one line: it is long
        write_text(self.file(name), line + "\n")

    # Documents ----------------------------------------------------------------------------------

    def tagger(self, experiment: Experiment) -> Path:
        """The run folder of the tagger of an experiment."""
        return self.folder / experiment.encoder / f"{experiment.subject}-{experiment.seed}"

    def task_data(self, encoder: EncoderName, task: str) -> Path:
        """The data of a task, as train.py takes it: a folder, or a pattern of files."""
        if (encoder, task) not in self.size.documents:
            return self.data / TASKS[task].data
        return self.folder / "data" / encoder / TASKS[task].data

    def documents(self, experiment: Experiment, split: str, task: str = "") -> Path:
        """The file of one split of a collection of keyphrases."""
        return self.task_data(experiment.encoder, task or experiment.subject) / f"{split}.jsonl"

    def collection(self, name: str) -> Path:
        """A collection to search."""
        return self.data / name if self.size.corpus is None else self.folder / "data" / name

    def copy_parts(self) -> None:
        """Make the smaller collections, where not all documents are used."""
        for (encoder, task), counts in self.size.documents.items():
            for split, count in zip(Counts._fields, counts):
                source, copy = (
                    split_file(data, split)
                    for data in (self.data / TASKS[task].data, self.task_data(encoder, task))
                )
                copy_lines(source, copy, count)

        if self.size.corpus:
            for name in {name for names in self.size.searched.values() for name in names}:
                if (self.data / name).is_dir():
                    self._copy_corpus(self.data / name, self.collection(name))

    def _copy_corpus(self, source: Path, copy: Path) -> None:
        """The first documents of a corpus, all queries, and the judgements of these documents."""
        corpus, queries, qrels = collection_files(source)
        copy_lines(corpus, copy / "corpus.jsonl", self.size.corpus)
        copy_lines(queries, copy / "queries.jsonl", None)

        with (copy / "corpus.jsonl").open(encoding="utf-8") as file:
            ids = {json.loads(line)["id"] for line in file}
        header, *lines = qrels.read_text(encoding="utf-8").splitlines(True)
        judged = [line for line in lines if line.split()[1] in ids]
        write_text(copy / "qrels.tsv", "".join([header, *judged]))


def machine() -> str:
    """What computes: the name of the GPU, or what a vector of the CPU is."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU with {torch.backends.cpu.get_cpu_capability()}"


def split_file(data: Path, split: str) -> Path:
    """The file of one split of the data of a task."""
    if "{split}" in data.name:
        return data.with_name(data.name.replace("{split}", split))
    return data / f"{split}.jsonl"


def copy_lines(source: Path, target: Path, count: int | None) -> None:
    """Copy the first lines of a file, or all of them."""
    with source.open(encoding="utf-8") as file:
        write_text(target, "".join(islice(file, count)))
