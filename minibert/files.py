"""Writing so that a kill at any moment leaves either the old file or the new one, whole."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from minibert.errors import InputError

LFS = b"version https://git-lfs.github.com/spec/"  # how every pointer of Git LFS begins


@contextmanager
def as_input_error(path: str | Path) -> Iterator[None]:
    """What the disk refuses inside, for want of space, say, is an InputError that names `path`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


def locked(path: str | Path, busy: str) -> IO:
    """`path`, made where it is missing, with a lock until it is closed. Raises InputError(busy)
    where another process has the lock."""
    path = Path(path)
    lock = path.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise InputError(busy) from None
    return lock


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that takes the place of `path` when the block ends well.

    It is in a hidden folder beside `path`: whatever a library leaves there when it is killed, the
    next write of `path` clears away. A second process that writes `path` meanwhile is refused.
    """
    path = Path(path)
    folder = path.with_name(f".{path.name}.tmp")
    with as_input_error(path):
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: cannot be written (not a file)")
        folder.mkdir(parents=True, exist_ok=True)
        lock = locked(folder / ".lock", f"{path}: another process is writing it")
        try:
            temporary = folder / path.name
            yield temporary
            # safetensors makes a file that nobody else may read
            temporary.chmod(folder.stat().st_mode & 0o666)
            os.replace(temporary, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.close()


def clear_left_over(folder: str | Path) -> None:
    """Remove what killed writes left in and below `folder`, not what others are writing there."""
    for left_over in filter(Path.is_dir, [*Path(folder).rglob(".*.tmp")]):
        with suppress(InputError), locked(left_over / ".lock", "in use"):
            shutil.rmtree(left_over)


def write_text(path: str | Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def to_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=asdict) + "\n"


def write_json(path: str | Path, value: Any) -> None:
    """`value` may hold dataclasses anywhere; they become objects."""
    write_text(path, to_json(value))


def refuse_pointer(path: str | Path) -> None:
    """Raises InputError where Git LFS has not yet replaced its pointer by the file."""
    if not os.path.isfile(path):  # of a pipe, what is read here would be lost
        return
    with suppress(OSError), open(path, "rb") as file:
        if file.read(len(LFS)) == LFS:
            raise InputError(f"{path}: a Git LFS pointer, not the file: run git lfs pull there")


def read_json(path: str | Path) -> Any:
    refuse_pointer(path)
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None


def sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
