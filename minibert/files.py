"""Atomic writes: after a kill at any moment a file holds its old or its new content, whole."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minibert.errors import InputError, check

LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # the first bytes of each pointer


@contextmanager
def as_input_error(path: str | Path) -> Iterator[None]:
    """Turn an OSError inside the block, such as a full disk, into an InputError with `path`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield the path of an empty temporary file. It replaces `path` if the block succeeds.

    The temporary file is always `.NAME.tmp` beside `path`, so the next write of `path` overwrites
    what a killed one left. Two processes must not write one path at the same time.
    """
    path = Path(path)

    with as_input_error(path):
        check(path.is_file() or not path.exists(), f"{path}: cannot be written (not a file)")
        temporary = path.with_name(f".{path.name}.tmp")  # "." has no name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode

        try:
            yield temporary
            temporary.chmod(mode)  # safetensors replaces it by a file that only its owner may read
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def to_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=asdict) + "\n"


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as JSON. Dataclasses anywhere inside it become objects."""
    write_text(path, to_json(value))


def refuse_pointer(path: str | Path) -> None:
    """Raise InputError if `path` is a pointer that Git LFS has not replaced by the file yet."""
    if not os.path.isfile(path):  # reading from a pipe would consume its content
        return
    with suppress(OSError), open(path, "rb") as file:
        is_pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
        check(not is_pointer, f"{path}: a Git LFS pointer, not the file: run git lfs pull there")


def read_json(path: str | Path) -> Any:
    """Raises InputError for a file that is missing or is not JSON."""
    refuse_pointer(path)
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None


def read_object(path: str | Path) -> dict[str, Any]:
    """A JSON object. Raises InputError for any other file."""
    value = read_json(path)
    check(isinstance(value, dict), f"{path}: expected a JSON object, not {type(value).__name__}")
    return value


def sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
