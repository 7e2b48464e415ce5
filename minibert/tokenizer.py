"""Words <-> word pieces, tied together by character offsets."""

import json
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple

from tokenizers import Tokenizer as PieceTokenizer
from tokenizers.implementations import BertWordPieceTokenizer

from minibert.errors import InputError
from minibert.files import read_json, refuse_pointer, write_json, write_text

Span = tuple[int, int]  # characters (start, end), end exclusive


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


SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


AS_IT_IS = ("PreTrainedTokenizerFast", "TokenizersBackend")  # these classes obey tokenizer.json


# A key of tokenizer_config.json that changes ids, and the values with which they are minibert's.
# Where transformers does not split Chinese characters, its pieces are larger than our words.
FIXED = {
    "tokenizer_class": (None, "BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer",
                        "DistilBertTokenizerFast", "ElectraTokenizer", "ElectraTokenizerFast",
                        *AS_IT_IS),
    "do_lower_case": (True, False),
    "strip_accents": (None, True, False),
    "tokenize_chinese_chars": (True,),
    "split_special_tokens": (False,),
    **{f"{token.strip('[]').lower()}_token": (token,) for token in SPECIAL},
}  # fmt: skip


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


class Pieces(NamedTuple):
    """A text as word pieces, without [CLS] and [SEP]."""

    ids: list[int]
    words: list[int]  # the word each piece belongs to, -1 for punctuation between words


class Tokenizer:
    """A BERT WordPiece tokenizer, read from tokenizer.json or, where there is none, vocab.txt.

    `settings`: of tokenizer_config.json, with which transformers gives the same ids.
    """

    def __init__(self, pieces: PieceTokenizer, source: str, settings: dict | None = None):
        pieces.no_truncation()  # a tokenizer.json may carry both, and would cut silently
        pieces.no_padding()
        self._pieces = pieces
        self._settings = settings
        ids = {name: pieces.token_to_id(name) for name in SPECIAL if name != "[MASK]"}
        if missing := [name for name, id in ids.items() if id is None]:
            raise InputError(f"{source}: no {', '.join(missing)}: not a BERT WordPiece tokenizer")
        self.pad_id, self.unk_id, self.cls_id, self.sep_id = ids.values()

    @classmethod
    def load(cls, folder: str | Path, vocab_size: int | None = None) -> "Tokenizer":
        """Raises InputError where the folder has none, where transformers would give other ids,
        and where ids exceed the model's vocab_size."""
        folder = Path(folder)
        settings = _read_settings(folder)
        path = folder / "tokenizer.json"
        if not path.exists() and not (path := folder / "vocab.txt").exists():
            raise InputError(f"{folder}: no tokenizer.json and no vocab.txt")
        refuse_pointer(path)
        try:
            if path.name == "vocab.txt":
                pieces = _word_pieces(str(path), settings)
            else:
                pieces = PieceTokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise InputError(f"{path}: not a tokenizer ({error})") from None
        if settings.get("tokenizer_class") not in AS_IT_IS:
            _check_rules(path, pieces, settings)
        _check_added_tokens(path, pieces, settings)
        largest = max(pieces.get_vocab().values(), default=0)
        if vocab_size is not None and largest >= vocab_size:
            raise InputError(
                f"{path}: has a piece {largest}, but the model's vocab_size is {vocab_size}: "
                "the tokenizer belongs to another model"
            )
        return cls(pieces, str(path), settings)

    @property
    def size(self) -> int:
        return self._pieces.get_vocab_size()

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, and tokenizer_config.json where there was one."""
        write_text(Path(folder) / "tokenizer.json", self._pieces.to_str(pretty=True))
        if self._settings:
            write_json(Path(folder) / "tokenizer_config.json", self._settings)

    def encode(self, texts: Sequence[str], words: Sequence[Sequence[Span]]) -> list[Pieces]:
        """Cut each text into pieces and say to which of its words each belongs.

        A piece belongs to the word it overlaps. A word that the tokenizer drops altogether (one
        of control characters, say) becomes one [UNK], so that every word has a piece.
        """
        encodings = self._pieces.encode_batch(list(texts), add_special_tokens=False)
        return [self._align(e.ids, e.offsets, spans) for e, spans in zip(encodings, words)]

    def _align(self, ids: list[int], offsets: list[Span], words: Sequence[Span]) -> Pieces:
        ends = [end for _, end in words]
        owners = []
        for start, end in offsets:
            word = bisect_right(ends, start)
            owners.append(word if word < len(words) and words[word][0] < end else -1)
        for word in sorted(set(range(len(words))) - set(owners)):
            at = bisect_right(offsets, words[word])
            offsets.insert(at, words[word])
            ids.insert(at, self.unk_id)
            owners.insert(at, word)
        return Pieces(ids, owners)


# What transformers reads beside the vocabulary --------------------------------------------------


def _read_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, with a tokenizer class that only config.json names. Raises InputError
    where transformers cuts text by them in a way that minibert does not have."""
    settings = _read_object(folder / "tokenizer_config.json")
    kind = _read_object(folder / "config.json").get("tokenizer_class")
    if kind and not settings.get("tokenizer_class"):
        settings["tokenizer_class"] = kind
    older = _read_object(folder / "special_tokens_map.json")
    for key, allowed in FIXED.items():
        value = _content((settings | older).get(key, allowed[0]))
        if not any(value == a and type(value) is type(a) for a in allowed):  # 1 is not True
            possible = " or ".join(map(repr, allowed))
            raise InputError(f"{folder}: {key} is {short(value)}; minibert reads {possible} only")
    return settings


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no file."""
    found = read_json(path) if path.exists() else {}
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def _content(token: Any) -> Any:
    """The text of a token, which may be written as an object with options."""
    return token.get("content") if isinstance(token, dict) else token


def _word_pieces(vocabulary: str | dict[str, int], settings: dict[str, Any]) -> PieceTokenizer:
    return BertWordPieceTokenizer(
        vocabulary,
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
    )._tokenizer


def _check_rules(path: Path, pieces: PieceTokenizer, settings: dict[str, Any]) -> None:
    """Of a tokenizer.json transformers takes the vocabulary, and its rules from the settings.
    Raises InputError where the two differ."""
    theirs = _rules(_word_pieces({token: i for i, token in enumerate(SPECIAL)}, settings))
    ours = _rules(pieces)
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            raise InputError(
                f"{path}: {key} is {short(ours.get(key))}, but by tokenizer_config.json, or its "
                f"defaults, transformers takes {short(theirs.get(key))}: correct the one or the "
                'other, or write "tokenizer_class": "PreTrainedTokenizerFast" into '
                "tokenizer_config.json to keep what tokenizer.json says"
            )


def _rules(pieces: PieceTokenizer) -> dict[str, Any]:
    """What decides how a text is cut, but for the vocabulary."""
    raw = json.loads(pieces.to_str())
    rules = {
        f"{part}.{key}": value
        for part in ("normalizer", "pre_tokenizer", "model")
        for key, value in (raw[part] or {}).items()
        if key != "vocab"
    }
    if rules.get("normalizer.strip_accents", False) is None:  # then as lower-casing is
        rules["normalizer.strip_accents"] = rules["normalizer.lowercase"]
    return rules


def _check_added_tokens(path: Path, pieces: PieceTokenizer, settings: dict[str, Any]) -> None:
    """Raises InputError where transformers adds other tokens to the vocabulary than `pieces`."""
    present = {token.content: id for id, token in pieces.get_added_tokens_decoder().items()}
    added = _read_object(path.with_name("added_tokens.json"))
    missing = set()
    try:
        if (decoder := settings.get("added_tokens_decoder")) is not None:
            added = {_content(token): int(id) for id, token in decoder.items()}
            missing = present.keys() - added.keys()
        every = settings | _read_object(path.with_name("special_tokens_map.json"))
        named = [v for k, v in every.items() if k.endswith("_token") and not isinstance(v, bool)]
        for key in ("additional_special_tokens", "extra_special_tokens"):
            tokens = every.get(key) or []
            named += tokens.values() if isinstance(tokens, dict) else tokens
        missing |= {_content(token) for token in named} - {None} - present.keys()
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{path.parent}: damaged list of added tokens") from None
    missing |= {token for token, id in added.items() if present.get(token) != id}
    if missing := sorted(map(str, missing - {*SPECIAL})):
        raise InputError(
            f"{path}: does not have the same added tokens as the files beside it, such as "
            f"{missing[0]!r}: load the folder with transformers' AutoTokenizer and save it again"
        )
