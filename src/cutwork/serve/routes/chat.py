"""POST /v1/chat/completions: what it takes and answers."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from cutwork.engine.chat.formats import THOUGHT_FIELDS
from cutwork.engine.chat.reader import AnswerReader, Part
from cutwork.engine.decoding.requests import Piece
from cutwork.engine.decoding.requests import Request as EngineRequest
from cutwork.serve.answer import call_identifier, json_answer, opening, timings, usage
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
from cutwork.serve.routes.thinking import ThinkingFields, thinking_of
from cutwork.serve.served_model import ServedModel, ServedModels


class TextPart(Schema):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Function(Schema):
    """A function of a tool, or the call of one. Its parameters are followed where a call is required, strict or not."""

    strict: bool | None = None
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
    index: int | None = None
    type: Literal["function"] = "function"
    function: Function


class NamedTool(Schema):
    """`tool_choice` that names a function."""

    type: Literal["function"] = "function"
    function: Function


class Message(Schema):
    """An entry of `messages`."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True), at_most(Limits.messages)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True), at_most(Limits.tools)] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    @property
    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


WARNING = "X-Cutwork-Warning"  # a header that tells what had no effect
Messages = Annotated[list[Message], Field(fail_fast=True), at_most(Limits.messages)]


class ChatRequest(GenerationRequest, ThinkingFields):
    """POST /v1/chat/completions."""

    messages: Messages = Field(min_length=1, examples=[[{"role": "user", "content": "Hello"}]])
    max_completion_tokens: TokenCount | None = None
    max_tokens: TokenCount | None = None
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    tools: Annotated[list[Tool], Field(fail_fast=True), at_most(Limits.tools)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool = True


def router(models: ServedModels, limits: Limits) -> APIRouter:
    """The route over these models."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/v1/chat/completions", summary="Answer a conversation", response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Response:
        served = models.find_text(body.model)
        check(body, limits)
        work = _prepared(body, served, limits, cache_salt_of(request))
        answer = await while_connected(request, work, seconds_left(request, limits.deadline))
        job = answer.job = TextJob(answer.choices, seconds_left(request, limits.deadline), client_of(request))
        served.worker.submit(job)
        if body.stream:
            response: Response = EventStream(job, answer.stream(), limits.deadline)
        else:
            response = await whole_answer(request, job, answer.whole())
        if answer.warnings:
            response.headers[WARNING] = "; ".join(answer.warnings)
        return response

    return routes


async def _prepared(body: ChatRequest, served: ServedModel, limits: Limits, cache_salt: str) -> "_Answer":
    """What is to be answered, and how."""
    most, template = longest_prompt(served), served.model.chat_template
    tools = _tools(body, limits)
    thinking = thinking_of(body, template)
    messages = [template_message(message) for message in body.messages]
    text = await served.tokens.render(messages, tools, thinking.settings, most=most)
    if thinking.closed:
        text = template.without_thought(text)
    prompt = await served.tokens.encode(text, most=most)
    check_prompt(prompt, served)
    room = min(limits.max_tokens, served.model.max_context - len(prompt))
    wanted = body.max_completion_tokens or body.max_tokens or room
    if wanted > limits.max_tokens:
        raise ApiError(
            400, f"max_tokens: this server allows at most {limits.max_tokens}, not {wanted}", param="max_tokens"
        )
    logprobs = body.top_logprobs if body.logprobs else None
    first = await generate_options(
        body, served, limits, max_tokens=wanted, logprobs=logprobs, calls=_forced(body), written=template.form.calls
    )
    first["constraint"] = await served.tokens.thought(text, thinking.budget, first["constraint"])
    first["cache_salt"], first["hidden_tokens"] = cache_salt, template.hidden
    choices = await make_choices(lambda: [Choice(prompt, choice_options(first, i)) for i in range(body.n)], first)
    thoughts = body.reasoning_format != "none"
    readers = [AnswerReader(template.form, text, tools, thoughts=thoughts) for _ in choices]
    return _Answer(body, served, choices, readers, thinking.warnings)


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
    thought = message.reasoning_content or message.reasoning
    if thought:
        result |= dict.fromkeys(THOUGHT_FIELDS, thought)  # each template reads one of them
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


@dataclass
class _Told:
    """What one choice has come to, part by part."""

    texts: dict[str, str] = field(default_factory=lambda: {"content": "", "reasoning": ""})
    calls: list[dict[str, Any]] = field(default_factory=list)
    thought_tokens: int = 0


class _Answer:
    """An answer to a request, whole or as it comes. job: set before either is asked for."""

    job: TextJob

    def __init__(
        self,
        body: ChatRequest,
        served: ServedModel,
        choices: list[Choice],
        readers: list[AnswerReader],
        warnings: list[str],
    ) -> None:
        self._body, self._served, self._readers = body, served, readers
        self.choices, self.warnings = choices, warnings
        self._told = [_Told() for _ in choices]
        self._head = opening("chatcmpl", "chat.completion", served.name)

    async def whole(self) -> Response:
        async for index, piece in self.job:
            assert not isinstance(piece, Scored)
            self._deltas(index, piece)
        requests = self.job.started
        if not self._body.logprobs:
            return json_answer(self._head, self._choices(requests), self._end())
        count = sum(len(request.logprobs) for request in requests) * (1 + self._body.top_logprobs)
        return await self._served.tokens.written(
            count, lambda: json_answer(self._head, self._choices(requests), self._end())
        )

    def _choices(self, requests: list[EngineRequest]) -> Iterator[dict[str, Any]]:
        for index, request in enumerate(requests):
            told = self._told[index]
            message: dict[str, Any] = {"role": "assistant", "content": told.texts["content"]}
            if told.texts["reasoning"]:
                message |= _thought(told.texts["reasoning"])
            if told.calls:
                message |= {"content": message["content"] or None, "tool_calls": told.calls}
            logprobs = self._served.tokens.chat_logprobs(request.logprobs) if self._body.logprobs else None
            reason = self._reason(index, request.finish_reason)
            yield {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    async def stream(self) -> AsyncIterator[dict[str, Any]]:
        self._head["object"] = "chat.completion.chunk"
        for index in range(len(self.choices)):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        async for index, piece in self.job:
            assert not isinstance(piece, Scored)
            logprobs = None
            if self._body.logprobs and piece.logprob is not None:
                logprobs = self._served.tokens.chat_logprobs([piece.logprob])
            for delta in self._deltas(index, piece) or ([{"content": ""}] if logprobs else []):
                yield self._chunk(index, delta, logprobs=logprobs)
                logprobs = None
            if piece.finish_reason is not None:
                yield self._chunk(index, {}, reason=self._reason(index, piece.finish_reason))
        if self._body.usage_in_stream:
            yield self._head | {"choices": []} | self._end()

    def _deltas(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """What a piece adds to a choice's message."""
        reader, told = self._readers[index], self._told[index]
        thought = reader.thinking
        parts = reader.feed(piece.text) + (reader.finish() if piece.finish_reason else [])
        told.thought_tokens += thought or reader.thinking
        return [delta for part in parts if (delta := self._delta(told, part))]

    def _delta(self, told: _Told, part: Part) -> dict[str, Any] | None:
        if part.kind == "call":
            if told.calls and not self._body.parallel_tool_calls:
                return None
            calls = self._served.model.chat_template.form.calls
            function = {"name": part.name, "arguments": part.text}
            call = {"id": call_identifier(calls.id_length if calls else None), "type": "function", "function": function}
            told.calls.append(call)
            return {"tool_calls": [{"index": len(told.calls) - 1, **call}]}
        if part.kind == "reasoning" and not self._body.include_reasoning:
            return None
        told.texts[part.kind] += part.text
        return {"content": part.text} if part.kind == "content" else _thought(part.text)

    def _chunk(self, index: int, delta: dict[str, Any], *, logprobs: Any = None, reason: str | None = None) -> Any:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._head | {"choices": [choice]}

    def _reason(self, index: int, reason: str | None) -> str | None:
        return "tool_calls" if self._told[index].calls and reason == "stop" else reason

    def _end(self) -> dict[str, Any]:
        requests, thought = self.job.started, sum(told.thought_tokens for told in self._told)
        return {"usage": usage(len(self.choices[0].prompt), requests, thought), "timings": timings(requests)}


def _thought(text: str) -> dict[str, Any]:
    """A thought under both the names that clients look for."""
    return {"reasoning_content": text, "reasoning": text}
