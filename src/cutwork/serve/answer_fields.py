"""What every answer says of itself: a name, how many tokens it took, and how long."""

import json
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any

from fastapi.responses import Response

from cutwork.engine.decoding.requests import Request


def opening(prefix: str, kind: str, model: str) -> dict[str, Any]:
    """What an answer of this kind, OpenAI's `object`, begins with."""
    return {"id": identifier(prefix), "object": kind, "created": int(time.time()), "model": model}


def identifier(prefix: str) -> str:
    """A name for an answer that nobody can guess."""
    return f"{prefix}-{secrets.token_hex(12)}"


def json_answer(
    head: dict[str, Any], parts: Iterable[dict[str, Any]], end: dict[str, Any], name: str = "choices"
) -> Response:
    """An answer whose parts are written one after the other: one call that writes all would stop every thread."""
    written = ",".join(json.dumps(part, ensure_ascii=False) for part in parts)
    text = f'{json.dumps(head)[:-1]}, "{name}": [{written}], {json.dumps(end)[1:]}'
    return Response(text.encode(errors="replace"), media_type="application/json")


def call_identifier(length: int | None) -> str:
    """A name for a tool call, of the length that the model's template demands, if it does."""
    return identifier("call") if length is None else secrets.token_hex(length)[:length]


def usage(prompt_tokens: int, requests: Sequence[Request], thought: int | None = None, *, each: int) -> dict[str, Any]:
    """Tokens of an answer; `prompt_tokens` counts each prompt once, which `each` of the requests in a row share,
    `thought` those of thoughts."""
    completion = sum(len(request.tokens) for request in requests)
    reused = [request.sequence.reused_tokens for request in requests]
    cached = sum(min(reused[first : first + each]) for first in range(0, len(reused), each))
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": prompt_tokens + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        **({} if thought is None else {"completion_tokens_details": {"reasoning_tokens": thought}}),
    }


def timings(requests: Sequence[Request]) -> dict[str, Any]:
    """Times of the first choice, in llama.cpp's words."""
    if not requests:
        return {}
    result = requests[0].result()
    t = result.timings
    return {
        "queue_ms": 1e3 * t.queued,
        "cache_n": t.reused_tokens,
        "prompt_n": result.prompt_tokens - t.reused_tokens,
        "prompt_ms": 1e3 * t.prefill,
        "prompt_per_second": result.prefill_speed,
        "predicted_n": len(result.tokens),
        "predicted_ms": 1e3 * t.decode,
        "predicted_per_second": result.decode_speed,
    }
