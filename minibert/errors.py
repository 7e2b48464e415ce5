"""The one exception that is meant for the user's eyes."""

LONGEST = 1000  # characters of a message


class InputError(ValueError):
    """Something given from outside is wrong: the message says what, where, and what to do.

    It is one printable line, whatever the names and values that it quotes from files: other
    characters are escaped, and it is cut where it is long. Scripts print it without a traceback
    and exit with code 2.
    """

    def __init__(self, message: str):
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message[: LONGEST + 1])
        super().__init__(line if len(line) <= LONGEST else line[: LONGEST - 1] + "…")
