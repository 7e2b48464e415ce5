"""Texts of any source, without keyphrases: JSON lines or plain files."""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from minibert.data.corpus import field, parse_document, parse_object, read_lines
from minibert.data.documents import Document
from minibert.errors import InputError, check
from minibert.text.words import word_spans

BLANK = b" \t\n\r\v\f\xef\xbb\xbf"  # bytes of a blank line, with a byte order mark
# How JSON lines begin, or a list of objects; but not {{Infobox}} or [1].
JSON = re.compile(rb'(\xef\xbb\xbf)?\s*(\{\s*("|\}|$)|\[\s*(\{\s*"|$))')


def read_texts(files: Sequence[str | Path], skipped: list[str] | None = None) -> Iterator[Document]:
    """The texts of JSON lines and of plain text files, one after another; without files, of JSON
    lines from standard input. Wrong lines add a message to `skipped`, or raise InputError."""
    if not files:
        check(sys.stdin, "standard input is closed: name files, or give JSON lines to it")
        yield from parse_lines(sys.stdin.buffer, "standard input", skipped)
    for path in map(Path, files):
        try:
            stream = path.open("rb")
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None

        with stream:
            # A pipe cannot be read twice: the lines that show the format go before the others.
            opening = list(opening_lines(stream))
            lines = chain(opening, stream)
            if is_json_lines(path, b"".join(opening)):
                yield from parse_lines(lines, str(path), skipped)
            else:
                yield parse_plain(b"".join(lines), path)


def opening_lines(stream: Iterable[bytes]) -> Iterator[bytes]:
    """The lines up to and including the first that is not blank."""
    for line in stream:
        yield line
        if line.strip(BLANK):
            return


def is_json_lines(path: str | Path, opening: bytes) -> bool:
    """By name, or because the first line begins an object. A list of objects counts as JSON too: it
    is refused with a clear message, and no plain text looks like it."""
    return Path(path).suffix.lower().startswith((".json", ".ndjson")) or bool(JSON.match(opening))


def parse_lines(
    lines: Iterable[bytes], where: str, skipped: list[str] | None = None
) -> Iterator[Document]:
    """The text of each JSON line that is not blank."""
    for number, line in enumerate(lines, 1):
        if not line.strip(BLANK):
            continue
        try:
            yield parse_text(line, f"{where}:{number}", number)
        except InputError as error:
            if skipped is None:
                raise
            skipped.append(str(error))


def parse_text(line: bytes, where: str, number: int) -> Document:
    """A JSON line with a text, or with words and their labels. Its id is by default `number`."""
    try:
        raw = parse_object(line.decode("utf-8-sig"), where)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error})") from None
    with_id = {"id": number} | raw
    if "words" in raw or "sents" in raw:
        return parse_document(json.dumps(with_id), where)

    name = field(with_id, "id", str | int, where)
    text = field(raw, "text", str, where)
    return Document(str(name), text, word_spans(text))


def parse_plain(content: bytes, path: str | Path) -> Document:
    """A plain text file; its name is the id."""
    try:
        text = content.decode("utf-8-sig")  # line ends as they are
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not readable as UTF-8 text ({error})") from None
    name = os.fsencode(Path(path).name).decode("utf-8", "replace")
    return Document(name, text, word_spans(text))


def read_phrases(path: str | Path) -> list[str]:
    """Phrases, one a line. Raises InputError if there is none."""
    phrases = [line.strip() for _, line in read_lines(path)]
    check(phrases, f"{path}: no phrases in it")
    return phrases
