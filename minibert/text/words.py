"""The words of a text, as character spans, and their normal form for comparisons."""

import re
import unicodedata
from functools import cache, lru_cache

Span = tuple[int, int]  # characters (start, end), end exclusive

# Scripts written without spaces. Each character is a word, as in BERT's own tokenizer, with the
# voicing marks after it, which NFD separates.
UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana, Chinese characters

# No word contains these: slashes, bars, <>, quotes (apostrophes are allowed), dashes, the ellipsis,
# and the punctuation of scripts that put no space after it.
BARRIERS = (
    r"/\\|<>;\"\u00ab\u00bb\u2013\u2014\u201a\u201c-\u201f\u2026\u2039\u203a\u060c\u061b\u061f\u0964"
    r"\u3001-\u3003\u3008-\u301f\uff01\uff02\uff08\uff09\uff0c\uff1a-\uff1c\uff1e\uff1f"
    r"\uff3b-\uff3d\uff5b-\uff65"
)

LETTER, ALNUM = rf"[^\W\d_{UNSPACED}]", rf"[^\W_{UNSPACED}]"
CASED = [chr(code) for code in range(0x590)]  # Latin, Greek, Cyrillic, Armenian
UPPER = f"[{''.join(filter(str.isupper, CASED))}]"
LOWER = f"[{''.join(filter(str.islower, CASED))}]"

# Marks after which a space is missing, and the double hyphen that replaces a dash. "heads.The"
# and "red,green" are two words; "U.S", "e.g", "node.js", "PEDOT:PSS" and "N,N-dimethyl" are one.
MISSING_SPACE = (
    rf"(?<={ALNUM})[.:!?](?={UPPER}{LOWER})|(?<={LOWER}{LOWER})[.:!?](?={UPPER})"
    rf"|(?<={LETTER}(?:{LETTER}|\.)),(?={LETTER})|--"
)

INNER = rf"(?:(?!{MISSING_SPACE})[^\s()\[\]{{}}{BARRIERS}{UNSPACED}])"

# A pair of brackets is part of a word if the word continues after it: 25(OH)D, Ca(2+)-binding.
# Exceptions: references, [12], and abbreviations between words without spaces, gates(HCG)are.
BRACKETED = (
    rf"(?:(?<={ALNUM})|(?<={ALNUM}-))(?!(?<={LOWER})\({UPPER}{{2,}}\){LOWER}|\[[\d,-]*\])"
    rf"(?:\({INNER}*\)|\[{INNER}*\])(?=-?{ALNUM})"
)

TAG = r"</?[A-Za-z][\w:.-]*(?:\s+[\w:.-]+\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s\"'<>]+))*\s*/?>"

# A tag, or (group 1) a candidate for a word.
CHUNK = re.compile(rf"{TAG}|([{UNSPACED}][\u3099\u309a]*|{INNER}+(?:{BRACKETED}{INNER}+)*)")

# C++, CD4+, C#, A*. An asterisk after a small letter of a longer word is a note or emphasis.
SYMBOLS = re.compile(rf"\+{{1,2}}(?!\+)|[#\u207a]|(?<!{ALNUM}{LOWER})\*(?!\*)")


@cache
def _is_letter(character: str) -> bool:
    """Letters, numbers, and marks that belong to letters (not the variation selectors of emoji)."""
    kind = unicodedata.category(character)
    return kind[0] in "LN" or (kind in ("Mn", "Mc") and not "\ufe00" <= character <= "\ufe0f")


def word_spans(text: str) -> list[Span]:
    """The words of a text, without the punctuation and symbols at both ends.

    A word contains no white space, slash, quote, long dash, or half of a pair of brackets:
    "multi-agent" and "25(OH)D" are one word, "client/server" and "gates(HCG)" two. The symbols of
    "C++", "C#", "A*", "CD4+" and ".NET" belong to the word. HTML tags are not words.
    """
    spans = []
    for match in CHUNK.finditer(text):
        left, right = start, end = match.span(1)
        while start < end and not _is_letter(text[start]):
            start += 1
        while start < end and not _is_letter(text[end - 1]):
            end -= 1
        if start == end:
            continue

        # Take back the symbols of C++ and the dot of .NET.
        word = text[start:end]
        if any(map(str.isalpha, word)) and (symbols := SYMBOLS.match(text, end, right)):
            end = symbols.end()
        if start == left + 1 and text[left] == "." and word[:2].isalpha() and word[:2].isupper():
            start = left

        spans.append((start, end))
    return spans


@lru_cache(maxsize=2**17)
def normal_form(text: str) -> str:
    """The words of a text joined, case-folded, reduced to letters, marks and digits, and to the
    symbols that belong to a word: "A C++ class" becomes "ac++class"."""
    return "".join(_normal_word(text[start:end]) for start, end in word_spans(text))


def _normal_word(word: str) -> str:
    folded = unicodedata.normalize("NFKC", word).casefold()
    body = folded.rstrip("+#*")
    dot = "." if folded.startswith(".") else ""
    return dot + "".join(filter(_is_letter, body)) + folded[len(body) :]
