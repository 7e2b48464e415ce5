"""What the scripts share: a frozen dataclass is the command line, bad input is one sentence."""

import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TypeVar

import torch
import tyro

from minibert.errors import InputError

EXTRAS = {"report": ("matplotlib", "jinja2"), "search": ("ir_measures",)}
Settings = TypeVar("Settings")
Positional = tyro.conf.Positional  # a field that is given without its name
MISSING = tyro.MISSING  # the default of a field that must be given


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
    try:
        script(tyro.cli(settings, args=argv, description=description))
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
