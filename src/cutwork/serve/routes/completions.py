"""POST /v1/completions: what it takes and answers."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from cutwork.engine.decoding.sampling import Logprob
from cutwork.engine.infill import InfillFormat
from cutwork.serve.answer_fields import json_answer, opening, timings, usage
from cutwork.serve.http.errors import ApiError
from cutwork.serve.http.json_body import JsonRoute
from cutwork.serve.http.middleware import cache_salt_of, client_of
from cutwork.serve.http.stream import EventStream, seconds_left, while_connected, whole_answer
from cutwork.serve.jobs.worker import Choice, Scored, TextJob
from cutwork.serve.limits import Limits
from cutwork.serve.routes.generation import (
    UNLIMITED,
    GenerationRequest,
    as_usual,
    check,
    check_logprobs,
    check_prompt,
    choice_options,
    generate_options,
    longest_prompt,
    make_choices,
)
from cutwork.serve.routes.schema import Texts, TokenIds, at_most
from cutwork.serve.served_model import ServedModel
from cutwork.serve.served_models import ServedModels
from cutwork.serve.token_places import TokenPlaces

DEFAULT_TOKENS = 16  # OpenAI's


Prompts = Annotated[list[TokenIds], Field(fail_fast=True), at_most(1024)]


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    prompt: str | TokenIds | Texts | Prompts = Field(examples=["Once upon a time"])
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False
    suffix: str | None = None
    best_of: int | None = Field(None, ge=1, le=128)


def router(models: ServedModels, limits: Limits) -> APIRouter:
    """The route over these models."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/v1/completions", summary="Continue a prompt", response_model=None)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        work = await begin(body, request, await models.find_text(request, body.model), limits)
        answer = _Answer(body, work)
        if body.stream:
            return EventStream(work.job, answer.stream(), limits.deadline)
        return await whole_answer(request, work.job, answer.whole())

    return routes


@dataclass(frozen=True)
class Completion:
    """Prompts being continued."""

    served: ServedModel
    prompts: list[list[int]]
    job: TextJob


async def begin(body: CompletionRequest, request: Request, served: ServedModel, limits: Limits) -> Completion:
    """Queue what a request asks of a model. Raises ApiError or CutworkError for what cannot be had."""
    check(body, limits)
    wanted = _wanted(body, served, limits)
    answers, scored = body.n * (body.max_tokens != 0), body.echo and body.logprobs is not None
    served.worker.check_room(len(wanted) * (answers + scored), client_of(request))
    body = as_usual(body, served)

    async def prepared() -> tuple[list[list[int]], list[Choice]]:
        prompts = await _prompts(body, wanted, served)
        return prompts, await _choices(body, prompts, served, limits, cache_salt_of(request))

    prompts, choices = await while_connected(request, prepared(), seconds_left(request, limits.deadline))
    job = TextJob(choices, seconds_left(request, limits.deadline), client_of(request))
    served.worker.submit(job)
    return Completion(served, prompts, job)


def _wanted(body: CompletionRequest, served: ServedModel, limits: Limits) -> list[Any]:
    """The prompts as they were given. Raises ApiError (400) for what the fields alone tell, before work is done."""
    wanted: list[Any] = [body.prompt] if isinstance(body.prompt, str) else list(body.prompt)
    if wanted and isinstance(wanted[0], int):
        wanted = [wanted]
    if not 1 <= len(wanted) <= limits.prompts:
        raise ApiError(400, f"prompt: give from 1 to {limits.prompts} prompts, not {len(wanted)}", param="prompt")
    if (body.best_of or body.n) != body.n:
        raise ApiError(400, "best_of must equal n, or be left out", param="best_of")
    if body.stream and body.echo:
        raise ApiError(400, "echo cannot be streamed; leave out one of the two", param="echo")
    if body.max_tokens == 0 and not body.echo:
        raise ApiError(400, "max_tokens must be at least 1, unless echo is asked for", param="max_tokens")
    if len(wanted) * body.n > limits.prompts * limits.choices:
        raise ApiError(400, "prompt times n is more than this server allows", param="n")
    if body.echo and body.logprobs is not None and served.model.encoder:
        raise ApiError(400, "echo with logprobs is for models that continue a text, not answer it", param="echo")
    return wanted


async def _prompts(body: CompletionRequest, wanted: list[Any], served: ServedModel) -> list[list[int]]:
    fill = _infill(body, served) if body.suffix else None
    prompts = []
    for prompt in wanted:
        ids = prompt
        if isinstance(prompt, str):
            text = fill.prompt(prompt, body.suffix or "") if fill else prompt
            ids = await served.tokens.encode(text, most=longest_prompt(served))
        check_prompt(ids, served)
        prompts.append(ids)
    return prompts


def _infill(body: CompletionRequest, served: ServedModel) -> InfillFormat:
    """How the model fills in the middle. Raises ApiError (400) if it does not, or not this."""
    if served.infill is None:
        message = "this model cannot fill in the middle: its tokenizer has no tokens for it; leave suffix out"
        raise ApiError(400, message, param="suffix")
    if body.echo or not isinstance(body.prompt, str):
        raise ApiError(400, "suffix needs one prompt as text, and no echo", param="suffix")
    return served.infill


async def _choices(
    body: CompletionRequest, prompts: list[list[int]], served: ServedModel, limits: Limits, cache_salt: str
) -> list[Choice]:
    max_tokens = DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
    if max_tokens == UNLIMITED:
        max_tokens = limits.max_tokens
    score = body.logprobs if body.echo else None
    if (echoed := _echoed(body, prompts)) > limits.echo_tokens:
        message = f"echo: this server repeats at most {limits.echo_tokens} tokens of prompts, not {echoed}"
        raise ApiError(400, f"{message}; ask for fewer prompts or choices", param="echo")
    told = [min(max_tokens, served.model.max_context) + len(prompt) * body.echo for prompt in prompts]
    check_logprobs(body.n * sum(told), body.logprobs, limits)
    first = await generate_options(body, served, limits, max_tokens=max(max_tokens, 1), logprobs=body.logprobs)
    first["cache_salt"] = cache_salt
    if body.suffix:
        first["stop_token_ids"] = [*first["stop_token_ids"], *_infill(body, served).ends]

    def make() -> list[Choice]:
        return [
            Choice(
                prompt,
                choice_options(first, index) if max_tokens else None,
                score if index == 0 else None,
                served.adapter,
            )
            for prompt in prompts
            for index in range(body.n)
        ]

    return await make_choices(make, first)


def _echoed(body: CompletionRequest, prompts: list[list[int]]) -> int:
    """How many tokens of prompts an answer repeats."""
    return body.n * sum(map(len, prompts)) if body.echo else 0


class _Answer:
    def __init__(self, body: CompletionRequest, work: Completion) -> None:
        self._body, self._served, self._job, self._prompts = body, work.served, work.job, work.prompts
        self._head = opening("cmpl", "text_completion", work.served.name)

    async def whole(self) -> Response:
        scored: dict[int, list[Logprob | None]] = {}
        async for index, event in self._job:
            if isinstance(event, Scored):
                scored[index] = event.logprobs

        def choices() -> Iterator[dict[str, Any]]:
            for place, prompt in enumerate(self._prompts):
                first = place * self._body.n
                begun = self._served.tokens.text(prompt) if self._body.echo else ""
                for index in range(first, first + self._body.n):
                    yield self._choice(index, begun, scored.get(first))

        if self._body.logprobs is None and not self._body.echo:
            return json_answer(self._head, choices(), self._end())
        told = sum(map(len, scored.values())) + sum(len(request.logprobs) for request in self._job.started)
        count = told * (1 + (self._body.logprobs or 0)) + _echoed(self._body, self._prompts)
        return await self._served.tokens.written(count, lambda: json_answer(self._head, choices(), self._end()))

    def _choice(self, index: int, begun: str, scored: list[Logprob | None] | None) -> dict[str, Any]:
        request, tokens = self._job.requests[index], self._served.tokens
        text = begun + (request.text if request else "")
        logprobs: list[tuple[int, Logprob | None]] = []
        if scored is not None:
            logprobs = list(zip(self._job.choices[index].prompt, scored, strict=True))
        if request:
            logprobs += [(p.token, p) for p in request.logprobs]
        return {
            "index": index,
            "text": text,
            "logprobs": None if self._body.logprobs is None else tokens.legacy_logprobs(logprobs),
            "finish_reason": request.finish_reason if request else "length",
        }

    async def stream(self) -> AsyncIterator[dict[str, Any]]:
        places = [TokenPlaces() for _ in self._job.choices]
        async for index, piece in self._job:
            assert not isinstance(piece, Scored)
            logprobs = None
            if piece.logprob is not None:
                logprobs = self._served.tokens.legacy_logprobs([(piece.token, piece.logprob)], places[index])
            if not piece.text and logprobs is None and piece.finish_reason is None:
                continue
            choice = {
                "index": index,
                "text": piece.text,
                "logprobs": logprobs,
                "finish_reason": piece.finish_reason,
            }
            yield self._head | {"choices": [choice]}
        if self._body.usage_in_stream:
            yield self._head | {"choices": []} | self._end()

    def _end(self) -> dict[str, Any]:
        total = sum(len(prompt) for prompt in self._prompts)
        return {"usage": usage(total, self._job.started, each=self._body.n), "timings": timings(self._job.started)}
