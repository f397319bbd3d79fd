"""A file of requests answered offline, in OpenAI's batch format, by the same routes as the server's."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from cutwork.engine.model import Model
from cutwork.errors import CutworkError, reason
from cutwork.interrupts import run_async
from cutwork.serve.answer_fields import identifier
from cutwork.serve.http.app import make_app
from cutwork.serve.limits import Limits
from cutwork.store.fingerprint import fingerprint
from cutwork.store.journal import Journal

URLS = ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/responses")
_JSON = {"Content-Type": "application/json"}
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
BatchProgress = Callable[[int, int], None]  # (answered, all)
# Nobody waits beside a file's requests, so that none of them is refused for those before it.
LIMITS = Limits(queue=1 << 20, queue_tokens=1 << 40, requests=1 << 20, held_bytes=1 << 40, deadline=1e9)


def run_batch(
    models: Mapping[str, Model],
    source: Path,
    output: Path,
    *,
    adapters: Mapping[str, Path] | None = None,
    limits: Limits = LIMITS,
    progress: BatchProgress,
    waits: Callable[[], None] | None = None,
) -> dict[str, int]:
    """Answer every line of `source` into `output`; {"answered", "failed", "resumed"}, of which the second are all that
    were refused, the third those that had been answered before.

    A line is {"custom_id", "method": "POST", "url", "body"}; its answer {"id", "custom_id", "response": {"status_code",
    "request_id", "body"}, "error"}, in the order in which answers come. Until all are there they are kept beside the
    output as `.NAME.partial`, from which the same call, of the same requests, models and `adapters` (the directories of
    those that the models were loaded with, by name), goes on; one that comes while another process is at it calls
    `waits` and waits. Raises CutworkError for a file that is not like that.
    """
    requests = read_requests(source)
    parts = {name: model.path for name, model in models.items()} | dict(adapters or {})
    loaded = {name: model.loaded_with for name, model in models.items()}
    key = [requests, {name: fingerprint(path) for name, path in parts.items()}, loaded]
    with Journal(output, key, waits=waits) as journal:
        done = {str(answer["custom_id"]) for answer in journal.entries}
        result = {"answered": 0, "failed": 0, "resumed": 0}
        for answer in journal.entries:
            result["resumed" if _is_answered(answer) else "failed"] += 1
        todo = {name: request for name, request in requests.items() if name not in done}
        app = make_app(models, limits=limits)

        async def answer_all() -> None:
            window = asyncio.Semaphore(sum(model.max_batch for model in models.values()) * 2)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://batch", timeout=None) as client:
                async for line in _answers(client, todo, window):
                    journal.add(line)
                    result["answered" if _is_answered(line) else "failed"] += 1
                    progress(sum(result.values()), len(requests))

        try:
            run_async(answer_all())
        finally:
            app.state.models.drain(0)
            app.state.models.join()
        journal.finish()
    return result


def _is_answered(line: Mapping[str, Any]) -> bool:
    return bool(line["response"]["status_code"] == 200)


def read_requests(source: Path) -> dict[str, dict[str, Any]]:
    """The requests of a batch file by custom_id. Raises CutworkError naming the line that is wrong."""
    requests: dict[str, dict[str, Any]] = {}
    try:
        lines = source.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CutworkError(f"{source} cannot be read: {reason(error)}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            request = json.loads(line)
            name, url, body = request["custom_id"], request["url"], request["body"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CutworkError(
                f'{source}, line {number}: each line is like {{"custom_id": "1", "url": "{URLS[0]}", "body": {{…}}}}'
            ) from None
        if not isinstance(name, str) or name in requests or _HALF_CHARACTER.search(name):
            raise CutworkError(
                f"{source}, line {number}: custom_id must be a string of whole characters, once in the file"
            )
        if url not in URLS or request.get("method", "POST") != "POST":
            raise CutworkError(f"{source}, line {number}: the method must be POST and the url one of {', '.join(URLS)}")
        if not isinstance(body, dict) or body.get("stream"):
            raise CutworkError(f"{source}, line {number}: body must be an object, without stream")
        requests[name] = {"url": url, "body": body}
    if not requests:
        raise CutworkError(f"{source} holds no requests")
    return requests


def check_models(requests: Mapping[str, dict[str, Any]], names: Sequence[str]) -> None:
    """Raise CutworkError where no request can be answered, as each asks for a model that is none of `names`."""
    asked = [request["body"].get("model") for request in requests.values()]
    if all(isinstance(name, str) and name not in names for name in asked):
        example = f"'{asked[0]}'" + (" and others" if len(set(asked)) > 1 else "")
        raise CutworkError(
            f"all requests ask for the model {example}, but here is {', '.join(names)}: give the model as "
            f'{asked[0]}=MODEL, or leave "model" out of the requests'
        )


async def _answers(
    client: httpx.AsyncClient, requests: Mapping[str, dict[str, Any]], window: asyncio.Semaphore
) -> AsyncIterator[dict[str, Any]]:
    async def answer(name: str, request: dict[str, Any]) -> dict[str, Any]:
        async with window:
            response = await client.post(request["url"], content=json.dumps(request["body"]), headers=_JSON)
        return {
            "id": identifier("batch_req"),
            "custom_id": name,
            "response": {
                "status_code": response.status_code,
                "request_id": response.headers.get("x-request-id"),
                "body": response.json(),
            },
            "error": None,
        }

    tasks = [asyncio.create_task(answer(name, request)) for name, request in requests.items()]
    try:
        for answered in asyncio.as_completed(tasks):
            yield await answered
    finally:
        for task in tasks:
            task.cancel()
