"""Documents in a language: their words and stop words, and texts of another language."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cache

from minibert.data.documents import Document
from minibert.errors import InputError
from minibert.text.language import ENGLISH, NAMES, Language, read_language

# Of the words of English texts with at least MIN_WORDS words, 22 to 67 % are stop words (641
# documents of four collections); of French texts, judged as English, 5 % at most (100 documents),
# and of Portuguese ones up to 25 %: "a", "as", "do" and "no" are words of both.
LOW_SHARE, DOUBTFUL_SHARE = 0.15, 0.3
MIN_WORDS = 20


def in_language(document: Document, language: Language) -> Document:
    """The same document in another language. Words that carry labels stay as they are."""
    words = document.words
    if document.labels is None:
        words = language.split_elided(document.text, words)
    return document._replace(words=words, language=language)


class ForeignTexts:
    """Counts the texts that do not look like the language in force, by their stop words."""

    def __init__(self, language: Language):
        self.language = language
        self.count = 0  # texts
        self.guesses: list[str] = []  # of each foreign text: the code of its language, or ""
        self.first = ""  # id of the first foreign text

    def watch(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents in the language in force, counted while they pass."""
        for document in documents:
            document = in_language(document, self.language)
            self.count += 1
            guess = foreign_language(document)
            if guess is not None:
                self.first = self.first if self.guesses else document.id
                self.guesses.append(guess)
            yield document

    def warning(self) -> str | None:
        """One line for the user that names the option; None without foreign texts."""
        if not self.guesses:
            return None
        looks = f"look {NAMES[self.language.code]} (few stop words)"
        if self.count == 1:
            message = f"the text {self.first!r} does not {looks}"
        else:
            message = f"{len(self.guesses)} of {self.count} texts do not {looks}; "
            message += f"the first is {self.first!r}"

        guess, texts = Counter(self.guesses).most_common(1)[0]
        if not guess:
            owner = "its" if self.count == 1 else "their"
            return f"{message}. Choose {owner} language with --language"
        subject = "they are" if texts > 1 else "it is"
        return f"{message}. If {subject} {NAMES[guess]}, use --language {guess}"


def foreign_language(document: Document) -> str | None:
    """The code of the language that a document looks like, if it is not the document's own: "" if
    it cannot be guessed. None if the document looks like its own language, or is short, or if the
    stop words are the user's.

    A document looks like another language if few of its words are stop words of its own, and twice
    as many of the other.
    """
    if not document.language.is_listed:
        return None
    forms = [form for form in document.forms() if any(map(str.isalpha, form))]
    matches = sum(map(document.language.is_stop_word, forms))
    if len(forms) < MIN_WORDS or matches >= DOUBTFUL_SHARE * len(forms):
        return None

    languages = _languages_of_words()
    counts = Counter(code for form in forms for code in languages.get(form, ()))
    del counts[document.language.code]
    guess, most = counts.most_common(1)[0] if counts else ("", 0)
    if most >= max(LOW_SHARE * len(forms), 2 * matches):
        return guess

    # Without a better guess, trust a list that matches better than all others: it may be short.
    is_best = languages and matches > most
    return None if is_best or matches >= LOW_SHARE * len(forms) else ""


@cache
def _languages_of_words() -> dict[str, list[str]]:
    """{stop word: the codes of its languages}; empty where the lists are not installed."""
    codes = defaultdict(list)
    for code in sorted(NAMES.keys() - {"en"}):
        try:
            language = read_language(code)
        except InputError:  # no list, or none installed
            continue
        for word in language.stop_words:
            codes[word].append(code)
    for word in ENGLISH.stop_words if codes else ():
        codes[word].append("en")
    return codes
