"""Texts from files and from standard input: which are JSON lines, and when they are read."""

import io
import os
import sys
import threading

import pytest

from minibert.data.texts import read_texts
from minibert.errors import InputError


def read(content: bytes, source: str, tmp_path, monkeypatch) -> list[tuple[str, str]]:
    """(id, text) of each document."""
    if source == "-":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return [(document.id, document.text) for document in read_texts([])]
    (tmp_path / source).write_bytes(content)
    return [(document.id, document.text) for document in read_texts([tmp_path / source])]


PLAIN = [b"{{Infobox}}", b"{\\rtf1 x}", b"[1] Old castles", b"{a} old", b"[x", b"\r\n old\rcastles"]
PLAIN += [b'{"old", "castles"} is a set', b"{} is the empty set", b'{"old castles', b"\x1b[1m\x7f"]


@pytest.mark.parametrize("source", ["x.txt", "-"])
@pytest.mark.parametrize("content", PLAIN)
def test_plain_texts_are_not_read_as_json(tmp_path, monkeypatch, content, source):
    assert read(content, source, tmp_path, monkeypatch) == [(source, content.decode())]


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_empty_file_is_one_text(tmp_path, monkeypatch, content):
    assert read(content, "x.txt", tmp_path, monkeypatch) == [("x.txt", content.decode())]


@pytest.mark.parametrize("source", ["x.txt", "-"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("line", [b'{"text": "x"}', b' { "a\\"b" : 1, "text": "x"}\r\n'])
def test_json_lines_begin_with_an_object(tmp_path, monkeypatch, source, mark, line):
    content = mark + b"\n" + line
    assert read(content, source, tmp_path, monkeypatch) == [("2", "x")]


@pytest.mark.parametrize("source", ["x.txt", "-"])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{}", "no field 'text'"),
        (b"{", "not JSON"),
        (b'{"text": "x"} {"text": "y"}', "not JSON"),
        (b'{"text": \xff', "not UTF-8"),
        (b'[{"text": "x"}]', "expected an object"),
        (b"\0", "NUL"),
        (b"old castles\n" + b"\0", "NUL"),
        (b"%PDF-", "pdftotext"),
        (b"\x1f\x8b", "zcat"),
        (b"PK\x03\x04", "zip"),
        (b"\xff\xfeo\0", "UTF-16"),
        (b"\xfe\xff\0o", "UTF-16"),
        (b"\xe9", "iconv"),
    ],
)
def test_other_json_and_binary_content_is_rejected(tmp_path, monkeypatch, content, why, source):
    with pytest.raises(InputError, match=why) as raised:
        read(content, source, tmp_path, monkeypatch)
    where = "standard input" if source == "-" else str(tmp_path / source)
    assert str(raised.value).startswith(f"{where}:")


@pytest.fixture
def feed(monkeypatch):
    """The end of a pipe; the other end is standard input. It is closed if a test has to wait."""
    source, end = os.pipe()
    with open(source) as standard_input, open(end, "wb", buffering=0) as pipe:
        monkeypatch.setattr(sys, "stdin", standard_input)
        limit = threading.Timer(10, pipe.close)  # seconds
        limit.start()
        yield pipe
        limit.cancel()


@pytest.mark.parametrize("files", [[], ["-"]])
def test_json_lines_are_read_as_they_come(feed, files):
    texts = read_texts(files)
    for text in ("old castles", "green hills"):
        feed.write(f'{{"text": "{text}"}}\n'.encode())
        assert next(texts).text == text
        assert not feed.closed
    feed.close()
    assert list(texts) == []


def test_binary_content_is_refused_before_the_input_ends(feed):
    feed.write(b"old\xff castles\n")
    with pytest.raises(InputError, match="standard input: not readable"):
        next(read_texts([]))
    assert not feed.closed
