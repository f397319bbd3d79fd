"""POST /v1/chat/completions: what it takes and answers."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from cutwork.engine.decoding.requests import Request as EngineRequest
from cutwork.serve.answer import json_answer, opening, timings, usage
from cutwork.serve.grammar import schema_text
from cutwork.serve.http.errors import ApiError
from cutwork.serve.http.json_body import JsonRoute, read_json
from cutwork.serve.http.middleware import cache_salt_of, client_of
from cutwork.serve.http.stream import EventStream, seconds_left, while_connected, whole_answer
from cutwork.serve.jobs.worker import Choice, Scored, TextJob
from cutwork.serve.limits import Limits
from cutwork.serve.routes.generation import (
    GenerationRequest,
    check,
    check_prompt,
    choice_options,
    generate_options,
    longest_prompt,
    make_choices,
)
from cutwork.serve.routes.schema import Schema, TokenCount, at_most
from cutwork.serve.served_model import ServedModel, ServedModels
from cutwork.serve.tools import ToolCalls


class Part(Schema):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Function(Schema):
    """A function of a tool, or the call of one."""

    name: str = Field(min_length=1, max_length=256)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    arguments: str | dict[str, Any] | None = None


class Tool(Schema):
    """An entry of `tools`."""

    type: Literal["function"] = "function"
    function: Function


class ToolCall(Schema):
    """An entry of a message's `tool_calls`."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: Function


class NamedTool(Schema):
    """`tool_choice` that names a function."""

    type: Literal["function"] = "function"
    function: Function


class Message(Schema):
    """An entry of `messages`."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[Part], Field(fail_fast=True), at_most(Limits.messages)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True), at_most(Limits.tools)] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


Messages = Annotated[list[Message], Field(fail_fast=True), at_most(Limits.messages)]


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    messages: Messages = Field(min_length=1, examples=[[{"role": "user", "content": "Hello"}]])
    max_completion_tokens: TokenCount | None = None
    max_tokens: TokenCount | None = None
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    tools: Annotated[list[Tool], Field(fail_fast=True), at_most(Limits.tools)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None


def router(models: ServedModels, limits: Limits) -> APIRouter:
    """The route over these models."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/v1/chat/completions", summary="Answer a conversation", response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Response:
        served = models.find_text(body.model)
        check(body, limits)
        tools = _tools(body, limits)
        work = _choices(body, tools, served, limits, cache_salt_of(request))
        choices = await while_connected(request, work, seconds_left(request, limits.deadline))
        job = TextJob(choices, seconds_left(request, limits.deadline), client_of(request))
        served.worker.submit(job)
        answer = _Answer(body, served, job, bool(tools))
        if body.stream:
            return EventStream(job, answer.stream(), limits.deadline)
        return await whole_answer(request, job, answer.whole())

    return routes


async def _choices(
    body: ChatRequest, tools: list[dict[str, Any]] | None, served: ServedModel, limits: Limits, cache_salt: str
) -> list[Choice]:
    most = longest_prompt(served)
    text = await served.tokens.render([template_message(m) for m in body.messages], tools, most=most)
    prompt = await served.tokens.encode(text, most=most)
    check_prompt(prompt, served)
    room = min(limits.max_tokens, served.model.max_context - len(prompt))
    wanted = body.max_completion_tokens or body.max_tokens or room
    if wanted > limits.max_tokens:
        raise ApiError(
            400, f"max_tokens: this server allows at most {limits.max_tokens}, not {wanted}", param="max_tokens"
        )
    logprobs = body.top_logprobs if body.logprobs else None
    calls = _forced(body)
    first = await generate_options(body, served, limits, max_tokens=wanted, logprobs=logprobs, calls=calls)
    first["cache_salt"] = cache_salt
    return await make_choices(lambda: [Choice(prompt, choice_options(first, i)) for i in range(body.n)], first)


def _tools(body: ChatRequest, limits: Limits) -> list[dict[str, Any]] | None:
    """The tools the model is told of."""
    if not body.tools or body.tool_choice == "none":
        return None
    for tool in body.tools:
        schema_text(tool.function.parameters or {}, limits, "tools")
    return [tool.model_dump(exclude_none=True) for tool in body.tools]


def _forced(body: ChatRequest) -> list[tuple[str, dict[str, Any] | None]]:
    """The functions one of which must be called, as (name, schema of the parameters); none where the model is free."""
    named = body.tool_choice.function.name if isinstance(body.tool_choice, NamedTool) else None
    if named is None and body.tool_choice != "required":
        return []
    functions = [tool.function for tool in body.tools or () if named in (None, tool.function.name)]
    if not functions:
        what = "needs tools" if named is None else "names a function that is not among the tools"
        raise ApiError(400, f"tool_choice {what}", param="tool_choice")
    if body.response_format is not None and body.response_format.type != "text":
        raise ApiError(400, "tool_choice and response_format exclude each other", param="tool_choice")
    return [(function.name, function.parameters) for function in functions]


def template_message(message: Message) -> dict[str, Any]:
    """A message as chat templates expect it."""
    role = "system" if message.role == "developer" else message.role
    result: dict[str, Any] = {"role": role, "content": message.text}
    if message.tool_calls:
        result["tool_calls"] = [
            {
                "type": "function",
                **({} if call.id is None else {"id": call.id}),
                "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.name:
        result["name"] = message.name
    if message.tool_call_id:
        result["tool_call_id"] = message.tool_call_id
    return result


def _arguments(arguments: str | dict[str, Any] | None) -> Any:
    """A call's arguments as an object where they are one, which templates print well."""
    if not isinstance(arguments, str):
        return arguments or {}
    try:
        return read_json(arguments)
    except (ValueError, RecursionError):
        return arguments


class _Answer:
    def __init__(self, body: ChatRequest, served: ServedModel, job: TextJob, tools: bool) -> None:
        self._body, self._served, self._job = body, served, job
        self._calls = [ToolCalls() if tools else None for _ in job.choices]
        self._head = opening("chatcmpl", "chat.completion", served.name)

    async def whole(self) -> Response:
        requests = await self._job.wait()
        if not self._body.logprobs:
            return json_answer(self._head, self._choices(requests), self._end())
        return await self._served.tokens.written(lambda: json_answer(self._head, self._choices(requests), self._end()))

    def _choices(self, requests: list[EngineRequest]) -> Iterator[dict[str, Any]]:
        for index, request in enumerate(requests):
            calls = self._calls[index]
            text = request.text if calls is None else calls.push(request.text) + calls.flush()
            message: dict[str, Any] = {"role": "assistant", "content": text}
            if calls is not None and calls.calls:
                message |= {"content": text.strip() or None, "tool_calls": calls.calls}
            logprobs = self._served.tokens.chat_logprobs(request.logprobs) if self._body.logprobs else None
            reason = self._reason(index, request.finish_reason)
            yield {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    async def stream(self) -> AsyncIterator[dict[str, Any]]:
        self._head["object"] = "chat.completion.chunk"
        for index in range(len(self._job.choices)):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        async for index, piece in self._job:
            assert not isinstance(piece, Scored)
            text, calls = piece.text, self._calls[index]
            new: list[dict[str, Any]] = []
            if calls is not None:
                before = len(calls.calls)
                text = calls.push(text) + (calls.flush() if piece.finish_reason else "")
                new = [call | {"index": before + i} for i, call in enumerate(calls.calls[before:])]
            logprobs = None
            if self._body.logprobs and piece.logprob is not None:
                logprobs = self._served.tokens.chat_logprobs([piece.logprob])
            if text or logprobs:
                yield self._chunk(index, {"content": text}, logprobs=logprobs)
            if new:
                yield self._chunk(index, {"tool_calls": new})
            if piece.finish_reason is not None:
                yield self._chunk(index, {}, reason=self._reason(index, piece.finish_reason))
        if self._body.usage_in_stream:
            yield self._head | {"choices": []} | self._end()

    def _chunk(self, index: int, delta: dict[str, Any], *, logprobs: Any = None, reason: str | None = None) -> Any:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._head | {"choices": [choice]}

    def _reason(self, index: int, reason: str | None) -> str | None:
        calls = self._calls[index]
        return "tool_calls" if calls is not None and calls.calls and reason == "stop" else reason

    def _end(self) -> dict[str, Any]:
        requests = self._job.started
        return {"usage": usage(len(self._job.choices[0].prompt), requests), "timings": timings(requests)}
