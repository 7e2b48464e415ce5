"""A run folder: its record run.json, its log metrics.jsonl, and how a killed run continues."""

import json
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from minibert.errors import InputError, check
from minibert.files import as_input_error, read_json, to_json, write_json, write_text
from minibert.runtime import distributed

# Settings that may change when a run continues, such as those that save memory, or write further
# files. `run` and `order` name files, whose checksums are compared instead.
FREE = ("out", "show", "device", "tokens", "plan", "memory_limit", "export", "onnx", "run", "order")

PRUNED = "pruned"  # in run.json: how prune.py made this model from that of the recorded run

LIBRARIES = ("minibert", "torch", "numpy", "tokenizers", "safetensors")


# The record -------------------------------------------------------------------------------------


@contextmanager
def open_run(
    folder: str | Path,
    settings: Any,
    inputs: dict[str, str],
    free: Sequence[str] = (),
    device: torch.device | str = "cpu",
) -> Iterator[None]:
    """Begin a run in `folder`, or continue the one it holds if settings and inputs are the same.

    `settings`: a dataclass, compared except for FREE and `free`. `inputs`: checksums by name.
    `device` and the number of threads are recorded and not compared. Other processes cannot open
    the folder inside the `with` block. In a process that does not write (distributed.rank() above
    0) nothing happens. Raises InputError.
    """
    if distributed.rank() > 0:
        yield
        return

    folder = Path(folder)
    record = {
        "settings": _as_json(settings),
        "inputs": inputs,
        "machine": {"device": str(device), "threads": torch.get_num_threads()},
        "versions": {"python": platform.python_version()} | {n: _version(n) for n in LIBRARIES},
    }
    for name in [*FREE, *free]:
        record["settings"].pop(name, None)

    with _lock(folder):
        if (folder / "run.json").exists():
            old = _read_record(folder)
            if PRUNED in old:
                raise InputError(f"{folder}: a model that prune.py made; name another folder")
            _compare(folder, old, record)
        else:
            write_json(folder / "run.json", record)

        yield


def _lock(folder: Path) -> AbstractContextManager:
    """Create `folder` where it is missing and acquire its lock, which the `with` block releases.
    Raises InputError for a folder with other content, or one that another process has locked."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_run = (folder / "run.json").exists() or all(p.name[0] == "." for p in folder.iterdir())
        if not is_run:
            raise InputError(f"{folder}: not empty, and not a run folder; name another")
        return FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:  # which is an OSError too
        busy = f"{folder}: another process is working there; wait or name another"
        raise InputError(busy) from None
    except OSError as error:
        raise InputError(f"{folder}: no folder to write to ({error.strerror})") from None


@contextmanager
def only_writer(path: str | Path | None) -> Iterator[None]:
    """Lock the output file `path` inside the `with` block. Raises InputError if another process has
    locked it. None locks nothing."""
    if path is None:
        yield
        return

    path = Path(path)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with as_input_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:  # which is an OSError too
            raise InputError(f"{path}: another process is writing it") from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def recorded_precision(folder: str | Path) -> Any:
    """The precision of the run in `folder`; None if no run has begun there."""
    folder = Path(folder)
    if not (folder / "run.json").exists():
        return None
    return _read_record(folder)["settings"].get("precision")


def inherit(parent: str | Path, folder: str | Path, settings: Any) -> None:
    """Make `folder` a run with the record of `parent`, whose model was pruned by `settings`."""
    record = _read_record(Path(parent))
    write_json(Path(folder) / "run.json", record | {PRUNED: _as_json(settings)})


def _version(package: str) -> str:
    """The version of a package; "unknown" if it is not installed, as in a clone of minibert."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _as_json(settings: Any) -> dict:
    return json.loads(json.dumps(asdict(settings), default=str))


def _read_record(folder: Path) -> dict:
    record = read_json(folder / "run.json")
    parts = ("settings", "inputs")
    if not isinstance(record, dict) or not all(isinstance(record.get(p), dict) for p in parts):
        raise InputError(f"{folder}: run.json is not the record of a run; name another folder")
    return record


def _compare(folder: Path, old: dict, new: dict) -> None:
    """Raise InputError for the first setting or checksum that differs between two records."""
    advice = "name another folder, or delete this one to start over"
    same_names = old["settings"].keys() - {*FREE} == new["settings"].keys() - {*FREE}
    check(same_names, f"{folder}: made by another script or version of minibert; {advice}")

    for part in ("settings", "inputs"):
        for key in sorted((old[part].keys() | new[part].keys()) - {*FREE}):
            before, now = (record[part].get(key, "(none)") for record in (old, new))
            message = f"{folder}: holds a run with {key} = {before}, not {now}; {advice}"
            check(before == now, message)


# Results and the log ----------------------------------------------------------------------------


def once(path: str | Path, compute: Callable[[], Any]) -> Any:
    """The JSON value in the file `path`. If the file is missing, all processes call `compute`, and
    the first one writes the value, which all return. A killed run continues after the last one."""
    if distributed.broadcast(Path(path).exists()):
        return read_json(path)

    text = distributed.broadcast(to_json(compute()))
    if distributed.rank() == 0:
        write_text(path, text)
    return json.loads(text)


def read_log(run: str | Path) -> list[dict]:
    """The lines of metrics.jsonl."""
    lines = (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


class Log:
    """metrics.jsonl: one JSON object a line, each with its step.

    A resumed run repeats the steps after its last saved state: their lines, and one that a kill
    left incomplete, are removed here. Raises InputError.
    """

    def __init__(self, path: str | Path, step: int):
        path = Path(path)
        lines = path.read_text(encoding="utf-8").splitlines(True) if path.exists() else []
        try:
            complete = [line for line in lines if line.endswith("\n")]
            kept_lines = [line for line in complete if json.loads(line)["step"] <= step]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path}: damaged; delete the run folder to start over") from None
        write_text(path, "".join(kept_lines))

        self._path = path
        with as_input_error(path):
            self._file = path.open("a", encoding="utf-8")

    def write(self, **values: Any) -> None:
        """Append one line, at once on the disk."""
        with as_input_error(self._path):
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()
