"""What the scripts share: a frozen dataclass is the command line, bad input is one sentence."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from importlib.util import find_spec
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TypeVar

import torch
import tyro
from tyro.conf import Positional as Positional  # a field that is given without its name
from tyro.conf import Suppress as Suppress  # a field that the command line does not have

from minibert.errors import InputError

EXTRAS = {"report": ("matplotlib", "jinja2"), "search": ("ir_measures",)}


Settings = TypeVar("Settings")


MISSING = tyro.MISSING  # the default of a field that must be given


NARROWEST = 40  # columns of a terminal: tyro lays out a page of help for 1 to 5 without an end


def require(extra: str) -> None:
    """Raises InputError where the packages of an extra are missing: better before a long job than
    after."""
    missing = [package for package in EXTRAS[extra] if not find_spec(package)]
    if missing:
        raise InputError(f"this needs {' and '.join(missing)}: pip install -e '.[{extra}]'")


def run(
    script: Callable[[Settings], None],
    settings: type[Settings],
    description: str | None,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the command line into `settings` and run the script; returns the exit code.

    0: done. 1: nobody reads the output. 2: wrong input, or a disk that is full or read-only, told
    in one sentence. 130: stopped with Ctrl-C.
    """
    _open_streams()
    encode_output(errors="replace")
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
    try:
        given = tyro.cli(settings, args=argv, description=description)
        paths = {f.name: _expanded(getattr(given, f.name)) for f in fields(given)}
        script(replace(given, **paths))
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
        print(f"error: out of memory ({reason}): lower --tokens; the run goes on", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    finally:
        _let_go()
    return 0


def encode_output(**changes: str) -> None:
    """Change the encoding of standard output, or what becomes of characters that it lacks."""
    if isinstance(sys.stdout, TextIOWrapper):  # a notebook's is not, and takes any character
        sys.stdout.reconfigure(**changes)


def _expanded(value: Any) -> Any:
    """A path whose ~ is the home folder: a shell leaves `--out=~/x` as it is. Other values, and an
    unknown ~user, stay the same."""
    if isinstance(value, tuple):
        return tuple(map(_expanded, value))
    return type(value)(os.path.expanduser(value)) if isinstance(value, str | Path) else value


def _open_streams() -> None:
    """Standard output or error that is closed, as after `>&-`, is taken to be /dev/null."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(_nowhere(), "w"))


def _let_go() -> None:
    """Output that cannot be written: Python would try again as it ends, and fail."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(_nowhere(), sys.stdout.fileno())


def _nowhere() -> int:
    return os.open(os.devnull, os.O_WRONLY)
