"""The command line of a script: a frozen dataclass lists the options, an error is one sentence."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from importlib.util import find_spec
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import torch
import tyro
from tyro.conf import Positional as Positional  # a field that is given without its name
from tyro.conf import Suppress as Suppress  # a field that the command line does not have

from minibert.errors import InputError

# The packages of each optional dependency of pyproject.toml that a script checks before it starts.
EXTRAS = {
    "report": ("matplotlib", "jinja2"),
    "search": ("ir_measures",),
    "onnx": ("onnx", "onnxruntime"),
}

MISSING = tyro.MISSING  # the default of a field that must be given

MIN_COLUMNS = 40  # tyro's layout of the help page does not end in a terminal of 1 to 5 columns


def require(extra: str) -> None:
    """Raise InputError if a package of an extra is missing: before a long job, not after it."""
    missing = [package for package in EXTRAS[extra] if not find_spec(package)]
    if missing:
        raise InputError(f"this needs {' and '.join(missing)}: pip install -e '.[{extra}]'")


def run(
    script: Callable[[Any], None],
    settings: Any,
    description: str | None,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the command line into `settings`, a dataclass or a union of several, and call
    `script` with it.

    Returns the exit code: 0 success, 1 broken pipe, 2 bad input or I/O error (one line on standard
    error), 130 interrupted.
    """
    encode_output(errors="replace")
    if shutil.get_terminal_size().columns < MIN_COLUMNS:
        os.environ["COLUMNS"] = str(MIN_COLUMNS)

    try:
        options = tyro.cli(settings, args=argv, description=description)
        expanded = {f.name: _expand_home(getattr(options, f.name)) for f in fields(options)}
        script(replace(options, **expanded))
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
        print(
            f"error: out of memory ({reason}): run again with lower --tokens to continue",
            file=sys.stderr,
        )
        return 2
    except BrokenPipeError:
        return 1
    except OSError as error:
        path = f"{error.filename}: " if error.filename else ""
        print(f"error: {path}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue", file=sys.stderr)
        return 130
    finally:
        _discard_unwritten_output()

    return 0


def encode_output(encoding: str | None = None, errors: str | None = None) -> None:
    """Change the encoding of standard output, or what replaces characters that it lacks."""
    if isinstance(sys.stdout, TextIOWrapper):  # a notebook's output is not, and takes them all
        sys.stdout.reconfigure(encoding=encoding, errors=errors)


def _expand_home(value: Any) -> Any:
    """Replace ~ by the home folder in a str, a Path or a tuple of them. A shell does so only where
    a word begins with ~, not in `--out=~/x`. Other values and unknown users stay as they are."""
    if isinstance(value, tuple):
        return tuple(_expand_home(item) for item in value)
    return type(value)(os.path.expanduser(value)) if isinstance(value, str | Path) else value


def _discard_unwritten_output() -> None:
    """Send output that cannot be written to /dev/null. Python would try to write it again when it
    exits, print a traceback and change the exit code (Python's documentation of SIGPIPE)."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
