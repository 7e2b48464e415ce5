"""Documents in a language: their words and stop words, and texts of another language."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cache

from minibert.data.documents import Document
from minibert.errors import InputError
from minibert.text.language import NAMES, Language, read_language

# English text of at least MIN_WORDS words has a share of stop words from 0.22 to 0.67 (645
# documents of four collections); French text, judged as English, 0.05 at most (100 documents).
MIN_SHARE = 0.15
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
            return f"{message}. Choose their language with --language"
        subject = "it is" if self.count == 1 else "they are" if texts > 1 else "one is"
        return f"{message}. If {subject} {NAMES[guess]}, use --language {guess}"


def foreign_language(document: Document) -> str | None:
    """The code of the language that a document looks like, if it is not the document's own: "" if
    it cannot be guessed. None if the document looks like its own language, or is short."""
    forms = [form for form in document.forms() if any(map(str.isalpha, form))]
    stop_words = sum(map(document.language.is_stop_word, forms))
    if len(forms) < MIN_WORDS or stop_words >= MIN_SHARE * len(forms):
        return None

    counts: Counter[str] = Counter()
    languages = _languages_of_words()
    for form in forms:
        counts.update(languages.get(form, ()))
    counts[document.language.code] = stop_words  # of the list in force
    guess, most = counts.most_common(1)[0]
    if guess == document.language.code:
        return None if most else ""
    return guess if most >= MIN_SHARE * len(forms) else ""


@cache
def _languages_of_words() -> dict[str, list[str]]:
    """{stop word: the codes of its languages}; empty where the lists are not installed."""
    codes = defaultdict(list)
    for code in NAMES:
        try:
            language = read_language(code)
        except InputError:  # no list, or none installed
            continue
        for word in language.stop_words:
            codes[word].append(code)
    return codes
