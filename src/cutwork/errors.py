"""The one exception that a user is meant to read."""

import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


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


_KINDS: dict[object, type] = {int: Integral, float: Real, NoneType: NoneType, str: str}  # what passes for each
_NAMES = {int: "whole number", float: "number", str: "text", Path: "path"}
_types = cache(get_type_hints)


def check_options(given: Mapping[str, object], options: type) -> None:
    """Raise CutworkError for a keyword that the class `options` does not have, or a value that is no number, text, list
    or mapping where it has such."""
    known = _types(options)
    unknown = given.keys() - known
    if unknown:
        raise CutworkError(f"unknown option '{min(unknown)}'; the options are {', '.join(known)}")
    for name, value in given.items():
        if not _fits(value, known[name]):
            kinds = [kind for kind in _alternatives(known[name]) if kind is not NoneType]
            said = " or ".join(f"a {_said(kind)}" for kind in kinds)
            raise CutworkError(f"{name} must be {said}, not {reprlib.repr(value)}")


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if isinstance(kind, UnionType) or get_origin(kind) is Union else (kind,)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind, as far as that is made of numbers, texts, lists and mappings."""
    origin, inner = get_origin(kind), get_args(kind)
    if len(_alternatives(kind)) > 1:
        return any(_fits(value, each) for each in inner)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(all(map(_fits, pair, inner)) for pair in value.items())
    if origin in (Sequence, frozenset, tuple):
        if not isinstance(value, Collection) or isinstance(value, str | bytes | Mapping):
            return False
        if origin is tuple:
            return len(value) == len(inner) and all(map(_fits, value, inner))
        return all(_fits(each, inner[0]) for each in value)
    if origin is Callable:
        return callable(value)
    return kind not in _KINDS or isinstance(value, _KINDS[kind])


def _said(kind: Any, many: str = "") -> str:
    """What a kind is called, or with an s several of it."""
    if len(kinds := _alternatives(kind)) > 1:
        return " or ".join(_said(each, many) for each in kinds)
    if get_origin(kind) is Callable:
        return f"function{many}"
    inner = [_said(each, "s") for each in get_args(kind)]
    if get_origin(kind) is Mapping:
        return f"mapping{many} of {' to '.join(inner)}"
    if get_origin(kind) in (Sequence, frozenset):
        return f"list{many} of {inner[0]}"
    if get_origin(kind) is tuple:
        return f"pair{many} of {' and '.join(inner)}"
    return _NAMES.get(kind, "value") + many


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
