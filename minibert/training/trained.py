"""Load a tagger; load a finished run: the tagger with its documents."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from minibert.data.batches import Split, first_documents, make_splits
from minibert.data.corpus import load_corpus
from minibert.data.documents import OUTSIDE
from minibert.errors import InputError, check
from minibert.files import read_json
from minibert.model import BertForTokenClassification
from minibert.runtime.folder import PRUNED, _read_record
from minibert.text.tokenizer import Tokenizer
from minibert.weights import load_pretrained

FEW = 20  # documents; below this number intervals are wide


class TrainedTagger(NamedTuple):
    """A finished run of train.py."""

    model: BertForTokenClassification
    splits: dict[str, Split]
    threshold: float | None  # of `Predictions.log_odds`; None where no label is O

    def first_documents_only(self, count: int) -> "TrainedTagger":
        """The run with at most `count` documents of dev and of test; all of them if it is 0.

        Raises InputError if the model has no heads, or if all words of dev or test have the same
        gold label.
        """
        names = self.model.config.labels
        check(self.model.config.present_heads, "the model has no heads left")

        splits = dict(self.splits)
        for name in ("dev", "test"):
            if count:
                splits[name] = first_documents(splits[name], count)
            if OUTSIDE not in names:
                continue
            outside = {names[i] == OUTSIDE for target in splits[name].targets for i in target}
            words = "no word" if True in outside else "every word"
            why = f"{words} is in a keyphrase: average precision cannot be computed"
            check(len(outside) == 2, f"{name}: {why}; take other or more --documents")
        return self._replace(splits=splits)

    def describe(self) -> str:
        """How many documents are scored, and a warning where they are few."""
        lines = []
        for name in ("dev", "test"):
            count = len(self.splits[name].documents)
            warning = "; the intervals will be wide" if count < FEW else ""
            lines.append(f"{name}: {count} documents{warning}")
        return "\n".join(lines)


def load_tagger(
    source: str | Path,
    labels: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float32,
    **changes: float,
) -> BertForTokenClassification:
    """`load_pretrained` for a token classifier. Raises InputError where `source` has none."""
    model = load_pretrained(source, labels, dtype, **changes)
    if not isinstance(model, BertForTokenClassification):
        raise InputError(f"{source}: an encoder without a classifier; train one with train.py")
    return model


def load_run(folder: str | Path) -> TrainedTagger:
    """The model of a run with the documents it was trained, chosen and scored on.

    Raises InputError if the folder is not a finished run, or the documents have changed since.
    """
    folder = Path(folder)
    advice = f"make a run with train.py --out {folder}"
    check((folder / "run.json").exists(), f"{folder}: no run.json in it; {advice}")
    record = _read_record(folder)
    settings = record["settings"]
    check({"data", "labels", "max_length"} <= settings.keys(), f"{folder}: not a run of train.py")
    script = "prune.py" if PRUNED in record else "train.py"
    finished = (folder / "results.json").exists()
    check(finished, f"{folder}: not finished; run the same {script} again")

    corpus = load_corpus(settings["data"])
    for file, checksum in corpus.checksums.items():
        recorded = record["inputs"].get(file)
        why = "has changed since" if recorded else "is not one of the files on which"
        check(recorded == checksum, f"{folder}: {file} {why} the model was trained")

    model = load_tagger(folder)
    tokenizer = Tokenizer.load(folder, model.config.vocab_size)
    splits = make_splits(
        corpus.splits, tokenizer, settings["labels"], model.config, settings["max_length"]
    )
    return TrainedTagger(model, splits, read_json(folder / "results.json").get("threshold"))
