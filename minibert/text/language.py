"""What depends on the language of a text: stop words, stems, and words joined by an apostrophe."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from minibert.errors import InputError, check
from minibert.text.words import Span, normal_form, word_spans

# ISO 639-1 codes and names: languages with a list in stopwordsiso, a Snowball stemmer, or both.
# A stemmer has the name of its language.
NAMES = {
    "af": "Afrikaans", "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "br": "Breton",
    "ca": "Catalan", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek",
    "en": "English", "eo": "Esperanto", "es": "Spanish", "et": "Estonian", "eu": "Basque",
    "fa": "Persian", "fi": "Finnish", "fr": "French", "ga": "Irish", "gl": "Galician",
    "gu": "Gujarati", "ha": "Hausa", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian",
    "hu": "Hungarian", "hy": "Armenian", "id": "Indonesian", "it": "Italian", "ja": "Japanese",
    "ko": "Korean", "ku": "Kurdish", "la": "Latin", "lt": "Lithuanian", "lv": "Latvian",
    "mr": "Marathi", "ms": "Malay", "ne": "Nepali", "nl": "Dutch", "no": "Norwegian",
    "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak",
    "sl": "Slovenian", "so": "Somali", "sr": "Serbian", "st": "Sesotho", "sv": "Swedish",
    "sw": "Swahili", "ta": "Tamil", "th": "Thai", "tl": "Tagalog", "tr": "Turkish",
    "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "yi": "Yiddish", "yo": "Yoruba",
    "zh": "Chinese", "zu": "Zulu",
}  # fmt: skip

# Words that lose a vowel and join the next word: l'air, qu'elle; dell'arte. Without them
# "l'économie" and "économie" are different words.
ELIDED = {
    "ca": "l d m n s t",
    "fr": "l d c j m n s t qu jusqu lorsqu puisqu quoiqu",
    "it": "l un d c s m t v dell all dall nell sull coll quell quest anch",
}


@dataclass(frozen=True)
class Language:
    """Stop words and a stemmer. Words are given in normal form."""

    code: str
    """ISO 639-1, as in NAMES."""

    stop_words: frozenset[str]
    """Normal forms."""

    stemmer: str | None
    """Name of a Snowball algorithm; without one a word is its stem."""

    is_listed: bool = True
    """False for stop words of the user."""

    def is_stop_word(self, form: str) -> bool:
        if form in self.stop_words:
            return True
        # The Greek list has few accents, as words in capitals have none.
        return self.code == "el" and _without_accents(form) in self.stop_words

    def stem(self, form: str) -> str:
        return _stem(self.stemmer, form) if self.stemmer else form

    def search_stem(self, form: str) -> str:
        """The stem for a search index: in English by Porter 2, as search engines use it."""
        return _stem("english", form) if self.stemmer == "porter" else self.stem(form)

    def word_spans(self, text: str) -> list[Span]:
        """The words of a text, elided ones apart."""
        return self.split_elided(text, word_spans(text))

    def split_elided(self, text: str, words: list[Span]) -> list[Span]:
        """Cut an elided word off the next one, with its apostrophe: "l'air" becomes "l'", "air"."""
        if self.code not in ELIDED:
            return words

        spans = []
        for start, end in words:
            if match := _elision(self.code).match(text, start, end - 1):
                spans.append((start, match.end()))
                start = match.end()
            spans.append((start, end))
        return spans


def read_language(code: str, stop_words: str | Path | None = None) -> Language:
    """The language of a code. `stop_words`: a file with words, separated by white space, to use
    instead of the language's list.

    Raises InputError for an unknown code, a file without words, and a missing package.
    """
    known = ", ".join(sorted(NAMES))
    check(code in NAMES, f"language {code!r} is unknown; the known ones are {known}")
    if stop_words is not None:
        return _language(code, _read_words(stop_words), is_listed=False)
    return ENGLISH if code == "en" else _language(code, _listed_words(code))


def _language(code: str, words: Iterable[str], is_listed: bool = True) -> Language:
    import snowballstemmer  # here: `import minibert.data` does not need it

    name = "porter" if code == "en" else NAMES[code].lower()
    stemmer = name if name in snowballstemmer.algorithms() else None
    forms = map(normal_form, [*words, *ELIDED.get(code, "").split()])
    return Language(code, frozenset(forms) - {""}, stemmer, is_listed)


def _listed_words(code: str) -> list[str]:
    """The words of stopwordsiso. Raises InputError if it lacks the language, or is missing."""
    try:
        import stopwordsiso  # an extra
    except ImportError:
        raise InputError(
            f"stop words for {NAMES[code]} need stopwordsiso: pip install -e '.[languages]', "
            "or give a list with --stop-words FILE"
        ) from None

    # Some entries are several words, which no word of a text equals.
    words = [word for word in stopwordsiso.stopwords(code) if len(word.split()) == 1]
    check(words, f"no list of stop words for {NAMES[code]}: give one with --stop-words FILE")
    return words


def _read_words(path: str | Path) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not readable as UTF-8 text ({error})") from None

    words = text.split()
    check("\0" not in text, f"{path}: a binary file, not a list of stop words")
    check(any(map(normal_form, words)), f"{path}: no words in it")
    return words


@lru_cache(maxsize=2**17)
def _stem(stemmer: str, form: str) -> str:
    return _stemmer(stemmer).stemWord(form)


@cache
def _stemmer(name: str):
    import snowballstemmer

    return snowballstemmer.stemmer(name)


@cache
def _elision(code: str) -> re.Pattern[str]:
    """An elided word with its apostrophe."""
    return re.compile(rf"(?:{'|'.join(ELIDED[code].split())})['\u2019]+", re.IGNORECASE)


@lru_cache(maxsize=2**17)
def _without_accents(form: str) -> str:
    letters = unicodedata.normalize("NFD", form)
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


# Function words, and a few verbs that carry no topic; Porter's stemmer (1980).
ENGLISH = Language(
    "en",
    frozenset(
        map(normal_form, (Path(__file__).parent / "stop_words.txt").read_text("utf-8").split())
    ),
    "porter",
)
