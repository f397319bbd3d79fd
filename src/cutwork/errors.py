"""The one exception that a user is meant to read."""


class CutworkError(Exception):
    """Something the user can put right: one sentence that says what is wrong and what to do.

    The command line prints it without a traceback and exits with status 1.
    """
