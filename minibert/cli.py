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

    0: done. 1: nobody reads the output. 2: wrong input, told in one sentence. 130: stopped with
    Ctrl-C.
    """
    try:
        script(tyro.cli(settings, args=argv, description=description))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
        print(f"error: out of memory ({reason}): lower --tokens; the run goes on", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0
