"""The one exception that a user is meant to read."""

from collections.abc import Iterable, Mapping


class CutworkError(Exception):
    """Something the user can put right: one sentence that says what is wrong and what to do.

    The command line prints it without a traceback and exits with status 1.
    """


def check_known(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise CutworkError if a keyword is `given` that is not among those known."""
    known = list(known)
    unknown = set(given).difference(known)
    if unknown:
        raise CutworkError(f"unknown option '{min(unknown)}'; the options are {', '.join(known)}")


def require(checks: Mapping[str, bool]) -> None:
    """Raise CutworkError with the first sentence that does not hold."""
    for sentence, holds in checks.items():
        if not holds:
            raise CutworkError(sentence)
