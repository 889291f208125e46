"""The one exception for a mistake in what the user gave: a config, a file, an argument."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message is complete as it stands.

    The message says what is wrong, where it stands, what is allowed and how to fix it; several
    problems are several lines. The command line prints it without a traceback and exits with 2.
    """
