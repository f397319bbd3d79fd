"""Whether keywords are options of a class, and of their kinds."""

import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from cutwork.errors import CutworkError

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
