"""Texts of any source, without keyphrases: JSON lines or plain files."""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from minibert.data.corpus import field, parse_document, parse_object, read_lines
from minibert.data.documents import Document
from minibert.errors import InputError, check
from minibert.text.words import word_spans

STANDARD_INPUT = Path("-")

BLANK = b" \t\n\r\v\f\xef\xbb\xbf"  # bytes of a blank line, with a byte order mark
# How JSON lines begin, or a list of objects; but not {{Infobox}}, {"a", "b"} or [1].
JSON = re.compile(rb'(\xef\xbb\xbf)?\s*(\{\s*("([^"\\]|\\.)*"\s*:|\}?\s*$)|\[\s*(\{\s*"|$))')

# How files of other kinds begin, and what to do with them.
OTHER_KINDS = {
    b"%PDF-": "a PDF file: convert it to text first, as with pdftotext",
    b"\x1f\x8b": "compressed by gzip: decompress it first, as with zcat",
    b"PK\x03\x04": "a zip archive or an office document: give the text alone",
    b"\xff\xfe": "in UTF-16: convert it to UTF-8 first, as with iconv",
    b"\xfe\xff": "in UTF-16: convert it to UTF-8 first, as with iconv",
}


def read_texts(files: Sequence[str | Path], skipped: list[str] | None = None) -> Iterator[Document]:
    """The texts of JSON lines and of plain text files, one after another. The file - is standard
    input, which is also read without files. Wrong lines add a message to `skipped`, or raise
    InputError."""
    for path in map(Path, files or [STANDARD_INPUT]):
        where = "standard input" if path == STANDARD_INPUT else str(path)
        with _open(path) as stream:
            # A pipe cannot be read twice: the lines that show the format go before the others.
            opening = list(opening_lines(stream))
            beginning = b"".join(opening)
            if path == STANDARD_INPUT:
                check(beginning.strip(BLANK), f"{where} is empty: give text to it, or name files")

            lines = chain(opening, stream)
            if is_json_lines(path, beginning):
                yield from parse_lines(lines, where, skipped)
            else:
                decode(beginning, where)  # refuses other kinds before it reads all of them
                yield parse_plain(b"".join(lines), path.name, where)


def reads_standard_input(files: Sequence[str | Path]) -> bool:
    """Whether `read_texts` reads standard input."""
    return not files or STANDARD_INPUT in map(Path, files)


def _open(path: Path) -> AbstractContextManager[BinaryIO]:
    if path == STANDARD_INPUT:
        check(sys.stdin, "standard input is closed: give text to it, or name files")
        return nullcontext(sys.stdin.buffer)
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


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


def parse_plain(content: bytes, name: str, where: str) -> Document:
    """A plain text; `name`, of a file, is its id. `where`: the beginning of the error message."""
    text = decode(content, where)  # line ends as they are
    document_id = os.fsencode(name).decode("utf-8", "replace")
    return Document(document_id, text, word_spans(text))


def decode(content: bytes, where: str) -> str:
    """Raises InputError for anything but text in UTF-8."""
    for beginning, kind in OTHER_KINDS.items():
        check(not content.startswith(beginning), f"{where}: {kind}")
    check(b"\0" not in content, f"{where}: not text, as it contains NUL bytes: give the text alone")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: not readable as UTF-8 text ({error}): convert it first, as with iconv"
        ) from None


def read_phrases(path: str | Path) -> list[str]:
    """Phrases, one a line. Raises InputError if there is none."""
    phrases = [line.strip() for _, line in read_lines(path)]
    check(phrases, f"{path}: no phrases in it")
    return phrases
