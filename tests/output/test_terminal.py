"""Keyphrases for a shell and for a reader."""

import random
import unicodedata

import pytest

from minibert.data.documents import Document
from minibert.output import terminal
from minibert.phrases.ranking import Keyphrase
from minibert.text.words import word_spans


def document(text: str, name: str = "x") -> Document:
    return Document(name, text, word_spans(text))


def phrase(text: str, score: float, *spans: tuple[int, int]) -> Keyphrase:
    return Keyphrase(text[slice(*spans[0])], score, list(spans))


def test_worked_example():
    """Phrases that overlap, that touch, and that are broken across lines."""
    text = "Deep  lakes\r\nand old castles, now."
    phrases = [
        phrase(text, 12.3456, (17, 28)),
        phrase(text, 0.000123456, (6, 16)),
        phrase(text, -1, (21, 28), (13, 20)),
    ]
    assert terminal.marked_text(document(text, "a\x1bb"), phrases, styles=False) == (
        "==> a\ufffdb <==\n"
        "Deep  [lakes\r\nand old castles], now.\n\n"
        "   1  12.35      old castles\n"
        "   2  0.0001235  lakes and\n"
        "   3  -1         castles\n"
    )
    touching = terminal.marked_text(document("ab"), [phrase("ab", 1, (0, 1), (1, 2))], styles=False)
    assert "[a][b]\n" in touching
    assert terminal.phrase_lines(document(text), phrases) == "old castles\nlakes and\ncastles\n"


def test_marked_characters_are_those_of_the_spans():
    """Any spans, nested and touching ones too, against one flag a character."""
    draw = random.Random(0)
    text = "abcdefghijklmnopqrstuvwxyz"
    for _ in range(300):
        spans = [(start, start + draw.randint(1, 9)) for start in draw.choices(range(17), k=4)]
        shown = terminal.marked_text(document(text), [phrase(text, 1, *spans)], styles=True)
        flags, is_marked = [], False
        body = shown.split("\n")[1].replace(terminal.MARK, "<").replace(terminal.RESET, ">")
        for character in body:
            if character in "<>":
                assert is_marked == (character == ">")  # no mark inside a mark
                is_marked = character == "<"
            else:
                flags.append((character, is_marked))
        expected = [any(start <= i < end for start, end in spans) for i in range(26)]
        assert flags == list(zip(text, expected))


def test_control_characters_are_replaced_one_by_one():
    controls = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) == "Cc"]
    assert len(controls) == 65
    for character in (*controls, "\u202e", "\u2066"):
        shown = terminal.printable(f"a{character}b")
        assert shown == (f"a{character}b" if character in "\n\t" else "a\ufffdb")
    text = "é 漢字 \U0001f469\u200d\U0001f52c \u06cc\u200c\u062e\r\n\u2028"
    assert terminal.printable(text) == text
    assert terminal.printable("\r\r\n") == "\ufffd\r\n"


@pytest.mark.parametrize(
    ("no_color", "term", "expected"),
    [(None, "xterm", True), ("", None, True), ("1", "xterm", False), (None, "dumb", False)],
)
def test_styles_follow_the_environment(monkeypatch, no_color, term, expected):
    for name, value in (("NO_COLOR", no_color), ("TERM", term)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert terminal.shows_styles() == expected
