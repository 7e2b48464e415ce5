"""The model of a finished run, with its documents."""

from pathlib import Path
from typing import NamedTuple

from minibert.data.batches import Split, first_documents, make_splits
from minibert.data.corpus import load_corpus
from minibert.data.documents import OUTSIDE
from minibert.data.tokenizer import Tokenizer
from minibert.errors import InputError
from minibert.files import read_json
from minibert.model import BertForTokenClassification
from minibert.runtime.folder import PRUNED, _read_record
from minibert.weights import load_pretrained


class TrainedTagger(NamedTuple):
    """A finished run of train.py."""

    model: BertForTokenClassification
    splits: dict[str, Split]
    threshold: float | None  # of `evaluation.tagger.log_odds`; None where no label is O

    def first_documents_only(self, count: int) -> "TrainedTagger":
        """With only so many documents of dev and of test, if `count` is not 0. Raises InputError
        where there is nothing to measure."""
        names = self.model.config.labels
        if not self.model.config.present_heads:
            raise InputError("the model has no heads left")
        splits = dict(self.splits)
        for name in ("dev", "test"):
            if count:
                splits[name] = first_documents(splits[name], count)
            found = {names[i] == OUTSIDE for target in splits[name].targets for i in target}
            if OUTSIDE in names and len(found) < 2:
                raise InputError(
                    f"{name}: {'no' if True in found else 'every'} word is in a keyphrase: average "
                    "precision cannot be computed; take other or more --documents"
                )
        return self._replace(splits=splits)

    def describe(self) -> str:
        """On how much is measured, and where that is little."""
        counts = {name: len(self.splits[name].documents) for name in ("dev", "test")}
        return "\n".join(
            f"{name}: {count} documents" + "; the intervals will be wide" * (count < 20)
            for name, count in counts.items()
        )


def load_run(folder: str | Path) -> TrainedTagger:
    """The model of a run with the documents it was trained, chosen and reported on.

    Raises InputError where the folder is no finished run or the documents have changed since.
    """
    folder = Path(folder)
    if not (folder / "run.json").exists():
        raise InputError(f"{folder}: no run.json in it; make a run with train.py --out {folder}")
    record = _read_record(folder)
    settings = record["settings"]
    if not {"data", "labels", "max_length"} <= settings.keys():
        raise InputError(f"{folder}: not a run of train.py")
    if not (folder / "results.json").exists():
        again = "prune.py" if PRUNED in record else "train.py"
        raise InputError(f"{folder}: not finished; run the same {again} again")
    corpus = load_corpus(settings["data"])
    for file, checksum in corpus.checksums.items():
        if (was := record["inputs"].get(file)) != checksum:
            why = "is not what it was when" if was else "is none of the files on which"
            raise InputError(f"{folder}: {file} {why} the model was trained")
    model = load_pretrained(folder)
    tokenizer = Tokenizer.load(folder, model.config.vocab_size)
    scheme, length = settings["labels"], settings["max_length"]
    splits = make_splits(corpus.splits, tokenizer, scheme, model.config, length)
    return TrainedTagger(model, splits, read_json(folder / "results.json").get("threshold"))
