"""Bodies in JSON: UTF-8 without half characters, with no more levels, keys and values than limits allow."""

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

from cutwork.serve.limits import Limits

_NESTED = (dict, list)


class JsonRequest(Request):
    """A request whose body is read by `read_json`."""

    async def json(self) -> Any:
        """The body; HTTPException (400) if it is none."""
        try:
            return read_json(await self.body())
        except json.JSONDecodeError:
            raise  # FastAPI tells where
        except RecursionError:
            raise HTTPException(400, "the body is nested too deeply") from None
        except ValueError as error:
            raise HTTPException(400, f"the body is not JSON as it is taken here: {error}") from None


class JsonRoute(APIRoute):
    """A route that takes a `JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler (FastAPI)."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return handler


def read_json(text: str | bytes) -> Any:
    """A JSON document. ValueError or RecursionError if it is none, nested too deeply, has too many keys or values,
    half characters, or numbers that are not finite.

    JSON can write half of a surrogate pair, which is no text: it cannot be encoded, by a tokenizer or in an answer;
    and 1e999, which no answer can repeat.
    """
    text = text.decode() if isinstance(text, bytes) else text
    _check_values(text)
    value = json.loads(text, object_pairs_hook=_Keys().object, parse_constant=_finite, parse_float=_finite)
    if "\\u" in text or not text.isascii():
        json.dumps(value, ensure_ascii=False).encode()
    if text.count("[") + text.count("{") > Limits.depth and depth(value, Limits.depth) > Limits.depth:
        raise ValueError(f"it is nested deeper than {Limits.depth} levels")
    return value


def _check_values(text: str) -> None:
    """Raise ValueError for a document of so many values that nobody else would have a turn while it is parsed."""
    if not _too_many(text):
        return
    if text.count('"') <= 4 * Limits.values:  # half of them may be escaped, and two make a text
        text = "".join(text.replace("\\\\", "").replace('\\"', "").split('"')[::2])  # what texts hold is no values
    if wrong := _too_many(text):
        raise ValueError(wrong)


def _too_many(text: str) -> str:
    """What there is too much of in a document, "" if nothing is."""
    if text.count("[") + text.count("{") > Limits.keys:
        return f"it has more than {Limits.keys} lists and objects"
    return f"it has more than {Limits.values} values" if text.count(",") >= Limits.values else ""


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


class _Keys:
    """Counts those of all objects in a document while it is parsed."""

    def __init__(self) -> None:
        self._left = Limits.keys

    def object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """An object's value. Raises ValueError if there have been too many keys."""
        self._left -= len(pairs)
        if self._left < 0:
            raise ValueError(f"it has more than {Limits.keys} keys")
        return dict(pairs)


def depth(value: Any, most: int) -> int:
    """Levels of lists and objects, without recursion; no more than one beyond `most` are looked at."""
    deepest, level = 0, [value] if type(value) in _NESTED else []
    while level and deepest <= most:
        deepest += 1
        level = [
            item
            for node in level
            for item in (node.values() if isinstance(node, dict) else node)
            if type(item) in _NESTED
        ]
    return deepest
