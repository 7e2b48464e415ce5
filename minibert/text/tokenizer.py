"""Words <-> word pieces, aligned by character offsets."""

import json
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple

from tokenizers import Encoding
from tokenizers import Tokenizer as PieceTokenizer
from tokenizers.implementations import BertWordPieceTokenizer
from tokenizers.processors import BertProcessing

from minibert.errors import InputError, check
from minibert.files import read_object, refuse_pointer, write_json, write_text
from minibert.text.words import Span

# The special tokens of BERT, and in the same order those of SentencePiece, as XLM-R has them.
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SENTENCEPIECE = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
METASPACE = "\u2581"  # in SentencePiece, the space before a word, which belongs to the word

# For these classes transformers takes the rules of tokenizer.json as they are. For all others it
# takes them from tokenizer_config.json.
RULES_FROM_FILE = ("PreTrainedTokenizerFast", "TokenizersBackend")

# Keys of tokenizer_config.json that change ids, with the values that minibert supports. Without
# tokenize_chinese_chars the pieces of transformers would be larger than our words.
FIXED: dict[str, tuple] = {
    "tokenizer_class": (None, "BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer",
                        "DistilBertTokenizerFast", "ElectraTokenizer", "ElectraTokenizerFast",
                        *RULES_FROM_FILE),
    "do_lower_case": (True, False),
    "strip_accents": (None, True, False),
    "tokenize_chinese_chars": (True,),
    "split_special_tokens": (False,),
    **{f"{a.strip('[]').lower()}_token": (a, b) for a, b in zip(SPECIAL, SENTENCEPIECE)},
}  # fmt: skip


class Pieces(NamedTuple):
    """A text as pieces, without the special tokens around it."""

    ids: list[int]
    words: list[int]  # the word that each piece belongs to, -1 for punctuation between words


class Tokenizer:
    """A WordPiece or Unigram tokenizer that gives the same ids as transformers.

    `settings`: the content of tokenizer_config.json. `special`: the names of the special tokens,
    SPECIAL or SENTENCEPIECE.
    """

    def __init__(self, pieces: PieceTokenizer, source: str, settings: dict[str, Any] | None = None):
        pieces.no_truncation()  # a tokenizer.json may contain both, and would cut silently
        pieces.no_padding()
        self._pieces = pieces
        self._settings = settings

        ids = pieces.get_vocab()
        self.special = _special_names(ids, source)
        required = self.special[:4]
        self.pad_id, self.unk_id, self.cls_id, self.sep_id = (ids[token] for token in required)
        if pieces.post_processor is None:
            # What is saved adds the special tokens for other programs too, as our windows do.
            sep, cls = ((self.special[i], ids[self.special[i]]) for i in (3, 2))
            pieces.post_processor = BertProcessing(sep, cls)

    @classmethod
    def load(cls, folder: str | Path, vocab_size: int | None = None) -> "Tokenizer":
        """Read tokenizer.json or, if there is none, vocab.txt.

        Raises InputError if neither exists, if transformers would give other ids, or if an id
        exceeds the model's vocab_size.
        """
        folder = Path(folder)
        settings = _read_settings(folder)

        path = folder / "tokenizer.json"
        path = path if path.exists() else folder / "vocab.txt"
        check(path.exists(), f"{folder}: no tokenizer.json and no vocab.txt")
        refuse_pointer(path)
        try:
            if path.name == "vocab.txt":
                pieces = _word_pieces(str(path), settings)
            else:
                pieces = PieceTokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise InputError(f"{path}: not a tokenizer ({error})") from None

        tokenizer = cls(pieces, str(path), settings)
        tokenizer._check_rules(path)
        _check_added_tokens(path, pieces, settings, tokenizer.special)

        largest = max(pieces.get_vocab().values())
        check(
            vocab_size is None or largest < vocab_size,
            f"{path}: has a piece {largest}, but the model's vocab_size is {vocab_size}: "
            "the tokenizer belongs to another model",
        )
        return tokenizer

    def _check_rules(self, path: Path) -> None:
        rules, settings = _rules(self._pieces), self._settings or {}
        if settings.get("tokenizer_class") not in RULES_FROM_FILE:
            _compare_rules(path, rules, settings)

        # Without such a piece, the library would fail at the first unknown text.
        unknown = rules.get("model.unk_id")  # of Unigram
        if unknown is None:
            unknown = self._pieces.token_to_id(rules.get("model.unk_token") or "")
        message = f"unknown text must become {self.special[1]}, as in WordPiece and Unigram"
        check(unknown == self.unk_id, f"{path}: {message}")

    @property
    def size(self) -> int:
        return self._pieces.get_vocab_size()

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, and tokenizer_config.json if there are settings."""
        write_text(Path(folder) / "tokenizer.json", self._pieces.to_str(pretty=True))
        if self._settings:
            write_json(Path(folder) / "tokenizer_config.json", self._settings)

    def encode(self, texts: Sequence[str], words: Sequence[Sequence[Span]]) -> list[Pieces]:
        """Cut each text into pieces, and assign each piece to the word of the text it overlaps.

        Every word has a piece: one that the tokenizer drops (control characters, for example)
        becomes one [UNK], and so does one that shares its only piece with the word before it.
        """
        encodings = self._pieces.encode_batch(list(texts), add_special_tokens=False)
        return [self._align(*args) for args in zip(texts, encodings, words)]

    def _align(self, text: str, encoding: Encoding, words: Sequence[Span]) -> Pieces:
        ids, offsets = encoding.ids, encoding.offsets
        ends = [end for _, end in words]
        owners = []
        for piece, (start, end) in zip(encoding.tokens, offsets):
            # Some tokenizers place this piece on the space, others on the word after it.
            if piece == METASPACE and text[start:end].isspace():
                start, end = end, end + 1

            word = bisect_right(ends, start)
            overlaps = word < len(words) and words[word][0] < end
            owners.append(word if overlaps else -1)

        for word in sorted(set(range(len(words))) - set(owners)):
            position = bisect_right(offsets, words[word])
            offsets.insert(position, words[word])
            ids.insert(position, self.unk_id)
            owners.insert(position, word)
        return Pieces(ids, owners)


# The files of transformers beside the vocabulary ------------------------------------------------


def _read_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, with the tokenizer class that only config.json may name. Raises
    InputError for settings that minibert does not support."""
    settings = _read_optional(folder / "tokenizer_config.json")
    name = _read_optional(folder / "config.json").get("tokenizer_class")
    if name and not settings.get("tokenizer_class"):
        settings["tokenizer_class"] = name

    given = settings | _read_optional(folder / "special_tokens_map.json")
    for key, allowed in FIXED.items():
        value = _content(given.get(key, allowed[0]))
        supported = any(value is a or (isinstance(a, str) and value == a) for a in allowed)
        choices = " or ".join(map(repr, allowed))
        check(supported, f"{folder}: {key} is {short(value)}; minibert reads {choices} only")
    return settings


def _read_optional(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}


def _content(token: Any) -> Any:
    """The text of a token, which may be an object with options."""
    return token.get("content") if isinstance(token, dict) else token


def _word_pieces(vocabulary: str | dict[str, int], settings: dict[str, Any]) -> PieceTokenizer:
    library = BertWordPieceTokenizer(
        vocabulary,
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
    )
    return library._tokenizer  # the one private name of tokenizers (0.23) that we use


def _compare_rules(path: Path, ours: dict[str, Any], settings: dict[str, Any]) -> None:
    """Of tokenizer.json transformers takes the vocabulary only, and the rules from the settings.
    Raises InputError if these differ."""
    theirs = _rules(_word_pieces({token: i for i, token in enumerate(SPECIAL)}, settings))
    for key in sorted(ours.keys() | theirs.keys()):
        check(
            ours.get(key) == theirs.get(key),
            f"{path}: {key} is {short(ours.get(key))}, but by tokenizer_config.json, or its "
            f"defaults, transformers takes {short(theirs.get(key))}: correct the one or the "
            'other, or write "tokenizer_class": "PreTrainedTokenizerFast" into '
            "tokenizer_config.json to keep what tokenizer.json says",
        )


def _special_names(ids: dict[str, int], source: str) -> tuple[str, ...]:
    """SPECIAL or SENTENCEPIECE, whichever a vocabulary has. Raises InputError if it has neither."""
    absent = {
        names: [name for name in names[:4] if name not in ids] for names in (SPECIAL, SENTENCEPIECE)
    }
    names = min(absent, key=lambda names: len(absent[names]))
    missing = ", ".join(absent[names])
    check(not missing, f"{source}: no {missing}: not a WordPiece or Unigram tokenizer of a BERT")
    return names


def _rules(pieces: PieceTokenizer) -> dict[str, Any]:
    """All settings that decide how a text is cut, without the vocabulary."""
    raw = json.loads(pieces.to_str())
    rules = {
        f"{part}.{key}": value
        for part in ("normalizer", "pre_tokenizer", "model")
        for key, value in (raw[part] or {}).items()
        if key != "vocab"
    }
    if rules.get("normalizer.strip_accents", False) is None:  # then it follows lower-casing
        rules["normalizer.strip_accents"] = rules["normalizer.lowercase"]
    return rules


def _check_added_tokens(
    path: Path, pieces: PieceTokenizer, settings: dict[str, Any], special: tuple[str, ...]
) -> None:
    """Raises InputError if transformers adds other tokens to the vocabulary than `pieces`."""
    present = {token.content: number for number, token in pieces.get_added_tokens_decoder().items()}
    given = settings | _read_optional(path.with_name("special_tokens_map.json"))
    named = [v for k, v in given.items() if k.endswith("_token") and not isinstance(v, bool)]
    added = _read_optional(path.with_name("added_tokens.json"))
    try:
        for key in ("additional_special_tokens", "extra_special_tokens"):
            tokens = given.get(key) or []
            named += tokens.values() if isinstance(tokens, dict) else tokens
        wrong = {_content(token) for token in named} - {None} - present.keys()

        if (decoder := settings.get("added_tokens_decoder")) is not None:
            added = {_content(token): int(number) for number, token in decoder.items()}
            wrong |= present.keys() - added.keys()
        wrong |= {token for token, number in added.items() if present.get(token) != number}
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{path.parent}: damaged list of added tokens") from None

    # Without [MASK], for example, the ids of ordinary text are the same. <s> is also a tag of HTML.
    accepted = {*SPECIAL} if special == SPECIAL else set()
    examples = sorted(map(repr, wrong - accepted))
    check(
        not examples,
        f"{path}: does not have the same added tokens as the files beside it, such as "
        f"{''.join(examples[:1])}: load the folder with transformers' AutoTokenizer and save it "
        "again",
    )
