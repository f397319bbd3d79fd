"""The one exception that a user is meant to read."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class CutworkError(Exception):
    """Something the user can put right: one sentence that says what is wrong and what to do.

    The command line prints it without a traceback and exits with status 1.
    """


def closed() -> CutworkError:
    """What is raised where a model is used after it was closed."""
    return CutworkError("the model is closed")


def reason(error: Exception) -> str:
    """What is wrong with a file, for a sentence that names it: of an OSError neither its number nor its path."""
    return error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)


@contextmanager
def damaged_if_not_understood(path: object) -> Iterator[None]:
    """Make a CutworkError of what Python raises where the files of a model directory are not what they should be.

    The checks name what they find; this is for what no check foresaw. What it was is kept as the error's cause.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise CutworkError(f"{path} is damaged or is no model that can be read ({reason}); get it again") from error


def check_text(text: str, where: str) -> None:
    """Raise CutworkError for half a character, which is no text: a lone surrogate, or bytes that were not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CutworkError(f"{where} holds half a character, or bytes that are not UTF-8; write it anew") from None


def require(checks: Mapping[str, bool]) -> None:
    """Raise CutworkError with the first sentence that does not hold."""
    for sentence, holds in checks.items():
        if not holds:
            raise CutworkError(sentence)
