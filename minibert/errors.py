"""The one exception that is meant for the user's eyes."""


class InputError(ValueError):
    """Something given from outside is wrong: the message says what, where, and what to do.

    Scripts print the message without a traceback and exit with code 2.
    """
