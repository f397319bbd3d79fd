"""POST /v1/chat/completions: how it answers."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from cutwork.engine.chat.reader import Part
from cutwork.serve.answer_fields import json_answer, opening, timings
from cutwork.serve.http.json_body import JsonRoute
from cutwork.serve.http.stream import EventStream, whole_answer
from cutwork.serve.limits import Limits
from cutwork.serve.routes.chat_request import ChatRequest
from cutwork.serve.routes.conversation import Conversation
from cutwork.serve.served_models import ServedModels


def router(models: ServedModels, limits: Limits) -> APIRouter:
    """The route over these models."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/v1/chat/completions", summary="Answer a conversation", response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Response:
        served = await models.find_text(request, body.model)
        conversation = await Conversation.begin(body, request, served, limits)
        answer = _Answer(conversation)
        if body.stream:
            return EventStream(conversation.job, answer.stream(), limits.deadline, conversation.headers)
        response = await whole_answer(request, conversation.job, answer.whole())
        response.headers.update(conversation.headers)
        return response

    return routes


@dataclass
class _Told:
    """What one choice has come to."""

    texts: dict[str, str] = field(default_factory=lambda: {"content": "", "reasoning": ""})
    calls: list[dict[str, Any]] = field(default_factory=list)
    reason: str | None = None


class _Answer:
    """An answer in the shape of OpenAI's chats, whole or as it comes."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation, self._body = conversation, conversation.body
        self._tokens = conversation.served.tokens
        self._told = [_Told() for _ in conversation.job.choices]
        self._head = opening("chatcmpl", "chat.completion", conversation.served.name)

    async def whole(self) -> Response:
        async for index, parts, piece in self._conversation.parts():
            for part in parts:
                self._delta(index, part)
            self._told[index].reason = self._conversation.reason(index, piece)
        if not self._body.logprobs:
            return json_answer(self._head, self._choices(), self._end())
        count = sum(map(len, self._conversation.logprobs)) * (1 + self._body.top_logprobs)
        return await self._tokens.written(count, lambda: json_answer(self._head, self._choices(), self._end()))

    def _choices(self) -> Iterator[dict[str, Any]]:
        for index, told in enumerate(self._told):
            message: dict[str, Any] = {"role": "assistant", "content": told.texts["content"]}
            if told.texts["reasoning"]:
                message |= _thought(told.texts["reasoning"])
            if told.calls:
                message |= {"content": message["content"] or None, "tool_calls": told.calls}
            known = self._conversation.logprobs[index]
            logprobs = self._tokens.chat_logprobs(known) if self._body.logprobs else None
            yield {"index": index, "message": message, "logprobs": logprobs, "finish_reason": told.reason}

    async def stream(self) -> AsyncIterator[dict[str, Any]]:
        self._head["object"] = "chat.completion.chunk"
        for index in range(len(self._told)):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        async for index, parts, piece in self._conversation.parts():
            new = self._conversation.logprobs[index]
            logprobs = self._tokens.chat_logprobs(new) if new else None
            new.clear()
            for delta in [self._delta(index, part) for part in parts] or ([{"content": ""}] if logprobs else []):
                yield self._chunk(index, delta, logprobs=logprobs)
                logprobs = None
            if piece.finish_reason is not None:
                yield self._chunk(index, {}, reason=self._conversation.reason(index, piece))
        if self._body.usage_in_stream:
            yield self._head | {"choices": []} | self._end()

    def _delta(self, index: int, part: Part) -> dict[str, Any]:
        """What a part adds to a choice's message."""
        told = self._told[index]
        if part.kind == "call":
            function = {"name": part.name, "arguments": part.text}
            told.calls.append({"id": self._conversation.call_identifier(), "type": "function", "function": function})
            return {"tool_calls": [{"index": len(told.calls) - 1, **told.calls[-1]}]}
        told.texts[part.kind] += part.text
        return {"content": part.text} if part.kind == "content" else _thought(part.text)

    def _chunk(self, index: int, delta: dict[str, Any], *, logprobs: Any = None, reason: str | None = None) -> Any:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._head | {"choices": [choice]}

    def _end(self) -> dict[str, Any]:
        return {"usage": self._conversation.usage(), "timings": timings(self._conversation.job.started)}


def _thought(text: str) -> dict[str, Any]:
    """A thought under both the names that clients look for."""
    return {"reasoning_content": text, "reasoning": text}
