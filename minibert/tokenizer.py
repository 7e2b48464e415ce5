"""Words <-> word pieces, tied together by character offsets."""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer as PieceTokenizer
from tokenizers.implementations import BertWordPieceTokenizer

from minibert.errors import InputError
from minibert.files import read_json, write_text

Span = tuple[int, int]  # characters (start, end), end exclusive

# Scripts written without spaces: there each character is a word, as in BERT's own tokenizer, with
# the voicing marks behind it, which NFD writes apart.
UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana, Chinese characters
CHUNK = re.compile(rf"[{UNSPACED}][\u3099\u309a]*|[^\s/\u2013\u2014\u2026{UNSPACED}]+")


@cache
def _is_letter(character: str) -> bool:
    """Letters, numbers, and the marks that belong to letters (not those that style emoji)."""
    kind = unicodedata.category(character)
    return kind[0] in "LN" or (kind in ("Mn", "Mc") and not "\ufe00" <= character <= "\ufe0f")


def word_spans(text: str) -> list[Span]:
    """The words of a text: runs without white space, slashes and long dashes, less the
    punctuation and symbols at both ends. "multi-agent" is one word, "client/server" two."""
    spans = []
    for match in CHUNK.finditer(text):
        start, end = match.span()
        while start < end and not _is_letter(text[start]):
            start += 1
        while start < end and not _is_letter(text[end - 1]):
            end -= 1
        if start < end:
            spans.append((start, end))
    return spans


def normal_form(text: str) -> str:
    """Case-folded, with everything but letters, marks and digits removed."""
    return "".join(filter(_is_letter, unicodedata.normalize("NFKC", text).casefold()))


class Pieces(NamedTuple):
    """A text as word pieces, without [CLS] and [SEP]."""

    ids: list[int]
    words: list[int]  # the word each piece belongs to, -1 for punctuation between words


class Tokenizer:
    """A BERT WordPiece tokenizer, read from tokenizer.json or, where there is none, vocab.txt."""

    def __init__(self, pieces: PieceTokenizer, source: str):
        pieces.no_truncation()  # a tokenizer.json may carry both, and would cut silently
        pieces.no_padding()
        self._pieces = pieces
        ids = {name: pieces.token_to_id(name) for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")}
        if missing := [name for name, id in ids.items() if id is None]:
            raise InputError(f"{source}: no {', '.join(missing)}: not a BERT WordPiece tokenizer")
        self.pad_id, self.unk_id, self.cls_id, self.sep_id = ids.values()

    @classmethod
    def load(cls, folder: Path, vocab_size: int) -> "Tokenizer":
        """Raises InputError where the folder has none or its ids exceed the model's vocab_size."""
        path = folder / "tokenizer.json"
        try:
            if path.exists():
                pieces = PieceTokenizer.from_file(str(path))
            elif (path := folder / "vocab.txt").exists():
                settings = folder / "tokenizer_config.json"
                lower = not settings.exists() or read_json(settings).get("do_lower_case", True)
                pieces = BertWordPieceTokenizer(str(path), lowercase=lower)._tokenizer
            else:
                raise InputError(f"{folder}: no tokenizer.json and no vocab.txt")
        except InputError:
            raise
        except Exception as error:  # the library raises bare Exception
            raise InputError(f"{path}: not a tokenizer ({error})") from None
        if (largest := max(pieces.get_vocab().values(), default=0)) >= vocab_size:
            raise InputError(
                f"{path}: has a piece {largest}, but the model's vocab_size is {vocab_size}: "
                "the tokenizer belongs to another model"
            )
        return cls(pieces, str(path))

    @property
    def size(self) -> int:
        return self._pieces.get_vocab_size()

    def save(self, folder: Path) -> None:
        write_text(folder / "tokenizer.json", self._pieces.to_str(pretty=True))

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
