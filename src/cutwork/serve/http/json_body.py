"""Bodies in JSON: UTF-8 without half characters, with no more levels and keys than limits allow."""

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

from cutwork.serve.limits import Limits


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
    """A JSON document. ValueError or RecursionError if it is none, nested too deeply, has too many keys, half
    characters, or numbers that are not finite.

    JSON can write half of a surrogate pair, which is no text: it cannot be encoded, by a tokenizer or in an answer;
    and 1e999, which no answer can repeat.
    """
    text = text.decode() if isinstance(text, bytes) else text
    value = json.loads(text, object_pairs_hook=_Keys().object, parse_constant=_finite, parse_float=_finite)
    if "\\u" in text or not text.isascii():
        json.dumps(value, ensure_ascii=False).encode()
    if text.count("[") + text.count("{") > Limits.depth and depth(value) > Limits.depth:
        raise ValueError(f"it is nested deeper than {Limits.depth} levels")
    return value


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


def depth(value: Any) -> int:
    """Levels of nesting, without recursion."""
    deepest, level = 0, [value]
    while level:
        deepest += 1
        level = [
            item
            for node in level
            if isinstance(node, dict | list)
            for item in (node.values() if isinstance(node, dict) else node)
        ]
    return deepest
