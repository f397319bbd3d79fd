"""POST /v1/chat/completions."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from cutwork.serve.http.errors import ApiError
from cutwork.serve.http.middleware import client_of
from cutwork.serve.http.stream import EventStream, identifier, timings, usage, whole_answer
from cutwork.serve.jobs.worker import Choice, Group, Scored
from cutwork.serve.limits import Limits
from cutwork.serve.options import check, check_prompt, choice_options, options
from cutwork.serve.schemas import ChatRequest, Function, Message, NamedTool
from cutwork.serve.served_model import Engine, Engines
from cutwork.serve.tools import ToolCalls


def router(engines: Engines, limits: Limits) -> APIRouter:
    """The route over these models."""
    routes = APIRouter()

    @routes.post("/v1/chat/completions", summary="Answer a conversation", response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Response | dict[str, Any]:
        engine = engines.find_text(body.model)
        check(body, limits)
        tools = _tools(body, limits)
        prompt = await engine.tokens.encode(
            await engine.tokens.render([template_message(m) for m in body.messages], tools)
        )
        check_prompt(prompt, engine, limits)
        room = min(limits.max_tokens, engine.model.max_context - len(prompt))
        wanted = body.max_completion_tokens or body.max_tokens or room
        if wanted > limits.max_tokens:
            raise ApiError(
                400, f"max_tokens: this server allows at most {limits.max_tokens}, not {wanted}", param="max_tokens"
            )
        logprobs = body.top_logprobs if body.logprobs else None
        calls = _forced(body)
        first = options(body, engine, limits, max_tokens=wanted, logprobs=logprobs, calls=calls)
        choices = [Choice(prompt, choice_options(first, i)) for i in range(body.n)]
        group = engine.worker.submit(choices, limits.deadline, client_of(request))
        answer = _Answer(body, engine, group, bool(tools))
        if body.stream:
            return EventStream(group, answer.stream(), limits.deadline)
        return await whole_answer(request, group, answer.whole())

    return routes


def _tools(body: ChatRequest, limits: Limits) -> list[dict[str, Any]] | None:
    """The tools the model is told of."""
    if not body.tools or body.tool_choice == "none":
        return None
    if len(body.tools) > limits.tools:
        raise ApiError(400, f"tools: this server allows at most {limits.tools}", param="tools")
    return [tool.model_dump(exclude_none=True) for tool in body.tools]


def _forced(body: ChatRequest) -> list[Function]:
    """The functions one of which must be called; none where the model is free."""
    named = body.tool_choice.function.name if isinstance(body.tool_choice, NamedTool) else None
    if named is None and body.tool_choice != "required":
        return []
    functions = [tool.function for tool in body.tools or () if named in (None, tool.function.name)]
    if not functions:
        what = "needs tools" if named is None else "names a function that is not among the tools"
        raise ApiError(400, f"tool_choice {what}", param="tool_choice")
    if body.response_format is not None and body.response_format.type != "text":
        raise ApiError(400, "tool_choice and response_format exclude each other", param="tool_choice")
    return functions


def template_message(message: Message) -> dict[str, Any]:
    """A message as chat templates expect it."""
    role = "system" if message.role == "developer" else message.role
    result: dict[str, Any] = {"role": role, "content": message.text}
    if message.tool_calls:
        result["tool_calls"] = [
            {
                "type": "function",
                "id": call.id,
                "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.name:
        result["name"] = message.name
    if message.tool_call_id:
        result["tool_call_id"] = message.tool_call_id
    return result


def _arguments(given: str | dict[str, Any] | None) -> Any:
    """A call's arguments as an object where they are one, which templates print well."""
    if not isinstance(given, str):
        return given or {}
    try:
        return json.loads(given)
    except (ValueError, RecursionError):
        return given


class _Answer:
    def __init__(self, body: ChatRequest, engine: Engine, group: Group, tools: bool) -> None:
        self._body, self._engine, self._group = body, engine, group
        self._calls = [ToolCalls() if tools else None for _ in group.choices]
        self._head = {
            "id": identifier("chatcmpl"),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": engine.name,
        }

    async def whole(self) -> dict[str, Any]:
        async for _ in self._group:
            pass
        choices = []
        for index, request in enumerate(self._group.requests):
            assert request is not None
            calls = self._calls[index]
            text = request.text if calls is None else calls.push(request.text) + calls.flush()
            message: dict[str, Any] = {"role": "assistant", "content": text}
            if calls is not None and calls.calls:
                message |= {"content": text.strip() or None, "tool_calls": calls.calls}
            found = self._engine.tokens.chat_logprobs(request.logprobs) if self._body.logprobs else None
            reason = self._reason(index, request.finish_reason)
            choices.append({"index": index, "message": message, "logprobs": found, "finish_reason": reason})
        return self._head | {"choices": choices} | self._end()

    async def stream(self) -> AsyncIterator[dict[str, Any]]:
        self._head["object"] = "chat.completion.chunk"
        for index in range(len(self._group.choices)):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        async for index, piece in self._group:
            assert not isinstance(piece, Scored)
            text, calls = piece.text, self._calls[index]
            new: list[dict[str, Any]] = []
            if calls is not None:
                known = len(calls.calls)
                text = calls.push(text) + (calls.flush() if piece.finish_reason else "")
                new = [call | {"index": known + i} for i, call in enumerate(calls.calls[known:])]
            found = None
            if self._body.logprobs and piece.logprob is not None:
                found = self._engine.tokens.chat_logprobs([piece.logprob])
            if text or found:
                yield self._chunk(index, {"content": text}, logprobs=found)
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
        requests = [request for request in self._group.requests if request]
        return {"usage": usage(len(self._group.choices[0].prompt), requests), "timings": timings(requests)}
