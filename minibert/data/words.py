"""What is a word: characters of a text that belong together, without punctuation around them."""

import re
import unicodedata
from functools import cache, lru_cache

from minibert.tokenizer import Span

# Scripts written without spaces: there each character is a word, as in BERT's own tokenizer, with
# the voicing marks behind it, which NFD writes apart.
UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana, Chinese characters

# No word contains these: slashes, bars, <>, quotes (apostrophes are allowed), dashes, the ellipsis,
# and the punctuation of scripts that put no space behind it.
BARRIERS = (
    r"/\\|<>;\"\u00ab\u00bb\u2013\u2014\u201a\u201c-\u201f\u2026\u2039\u203a\u060c\u061b\u061f\u0964"
    r"\u3001-\u3003\u3008-\u301f\uff01\uff02\uff08\uff09\uff0c\uff1a-\uff1c\uff1e\uff1f"
    r"\uff3b-\uff3d\uff5b-\uff65"
)

LETTER, ALNUM = rf"[^\W\d_{UNSPACED}]", rf"[^\W_{UNSPACED}]"

_CASED = [*map(chr, range(0x590))]  # Latin, Greek, Cyrillic, Armenian

UPPER, LOWER = (f"[{''.join(filter(is_case, _CASED))}]" for is_case in (str.isupper, str.islower))

# Marks behind which a space is missing, and the double hyphen that stands for a dash. "heads.The"
# and "red,green" are two words; "U.S", "e.g", "node.js", "PEDOT:PSS" and "N,N-dimethyl" are one.
MISSING_SPACE = (
    rf"(?<={ALNUM})[.:!?](?={UPPER}{LOWER})|(?<={LOWER}{LOWER})[.:!?](?={UPPER})"
    rf"|(?<={LETTER}(?:{LETTER}|\.)),(?={LETTER})|--"
)

INNER = rf"(?:(?!{MISSING_SPACE})[^\s()\[\]{{}}{BARRIERS}{UNSPACED}])"

# A bracket is part of a word only if it closes there and the word goes on: 25(OH)D, Ca(2+)-binding.
# Excluded are references, [12], and abbreviations between words without spaces: gates(HCG)are.
BRACKETED = (
    rf"(?:(?<={ALNUM})|(?<={ALNUM}-))(?!(?<={LOWER})\({UPPER}{{2,}}\){LOWER}|\[[\d,-]*\])"
    rf"(?:\({INNER}*\)|\[{INNER}*\])(?=-?{ALNUM})"
)

TAG = r"</?[A-Za-z][\w:.-]*(?:\s+[\w:.-]+\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s\"'<>]+))*\s*/?>"

CHUNK = re.compile(
    rf"{TAG}|([{UNSPACED}][\u3099\u309a]*|{INNER}+(?:{BRACKETED}{INNER}+)*)"
)  # group 1: not a tag

# C++, CD4+, C#, A*; an asterisk behind a small letter of a longer word is a note or emphasis.
SYMBOLS = re.compile(rf"\+{{1,2}}(?!\+)|[#\u207a]|(?<!{ALNUM}{LOWER})\*(?!\*)")


@cache
def _is_letter(character: str) -> bool:
    """Letters, numbers, and the marks that belong to letters (not those that style emoji)."""
    kind = unicodedata.category(character)
    return kind[0] in "LN" or (kind in ("Mn", "Mc") and not "\ufe00" <= character <= "\ufe0f")


def word_spans(text: str) -> list[Span]:
    """The words of a text, without the punctuation and symbols at both ends.

    A word contains no white space, slash, quote, long dash, or half of a pair of brackets:
    "multi-agent" and "25(OH)D" are one word, "client/server" and "gates(HCG)" two. The symbols of
    "C++", "C#", "A*", "CD4+" and ".NET" belong to the word. HTML tags are no words.
    """
    spans = []
    for match in CHUNK.finditer(text):
        start, end = left, right = match.span(1)
        while start < end and not _is_letter(text[start]):
            start += 1
        while start < end and not _is_letter(text[end - 1]):
            end -= 1
        if start == end:
            continue
        word = text[start:end]
        if any(map(str.isalpha, word)) and (symbols := SYMBOLS.match(text, end, right)):
            end = symbols.end()
        if start == left + 1 and text[left] == "." and word[:2].isalpha() and word[:2].isupper():
            start = left
        spans.append((start, end))
    return spans


@lru_cache(maxsize=2**17)
def normal_form(text: str) -> str:
    """The words of a text one after another, case-folded, with letters, marks and digits only, and
    the symbols that belong to a word: "A C++ class" becomes "ac++class"."""
    return "".join(_form_of_word(text[start:end]) for start, end in word_spans(text))


def _form_of_word(word: str) -> str:
    folded = unicodedata.normalize("NFKC", word).casefold()
    body = folded.rstrip("+#*")
    dot = "." if folded.startswith(".") else ""
    return dot + "".join(filter(_is_letter, body)) + folded[len(body) :]
