"""The exception for wrong input, and checks that raise it."""

import inspect
from pathlib import Path
from reprlib import repr as short
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

MAX_LENGTH = 1000  # characters of a message


class InputError(ValueError):
    """The user's input is wrong. The message says what is wrong, where, and what to do.

    The message is one printable line of at most MAX_LENGTH characters, whatever it quotes from
    files: other characters are escaped. Scripts print it without a traceback and exit with code 2.
    """

    def __init__(self, message: str):
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message[: MAX_LENGTH + 1])
        super().__init__(line if len(line) <= MAX_LENGTH else line[: MAX_LENGTH - 1] + "…")


def check(condition: object, message: str) -> None:
    """Raise InputError(message) unless `condition` is true."""
    if not condition:
        raise InputError(message)


def fits(value: Any, kind: Any) -> bool:
    """Whether `value` has the type `kind`, which is annotated as for a type checker.

    Supports None, bool, int, float, str and other classes, list[X], tuple[X, ...], dict[K, V],
    Literal of strings, and unions of these. As for a type checker, an int is a float. Unlike there,
    a bool is not an int.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(fits(value, option) for option in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is dict:
        keys, values = arguments
        return isinstance(value, dict) and all(
            fits(k, keys) and fits(v, values) for k, v in value.items()
        )
    if origin in (list, tuple):
        return isinstance(value, origin) and all(fits(item, arguments[0]) for item in value)

    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind or NoneType)


def check_fields(record: Any, prefix: str = "") -> None:
    """Raise InputError unless each field of a dataclass fits its annotation.

    A str for a Path and a Path for a str are converted. `prefix`: the beginning of the message.
    """
    for name, kind in get_type_hints(type(record)).items():
        value = getattr(record, name)
        for text in (str, Path):
            if isinstance(value, str | Path) and text in (kind, *get_args(kind)):
                value = text(value)
                object.__setattr__(record, name, value)  # the dataclass is frozen
        choices = [get_args(o) for o in (kind, *get_args(kind)) if get_origin(o) is Literal]
        expected = f"one of {', '.join(choices[0])}" if choices else inspect.formatannotation(kind)
        check(fits(value, kind), f"{prefix}{name} must be {expected}, not {short(value)}")
