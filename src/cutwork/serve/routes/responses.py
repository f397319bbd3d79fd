"""POST /v1/responses: OpenAI's responses as chats. Nothing is kept: a conversation comes whole with each request."""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from cutwork.engine.chat.reader import Part
from cutwork.serve.answer_fields import identifier, timings
from cutwork.serve.http.errors import ApiError
from cutwork.serve.http.json_body import JsonRoute
from cutwork.serve.http.stream import EventStream, whole_answer
from cutwork.serve.limits import Limits
from cutwork.serve.routes.chat_request import ChatRequest, as_chat
from cutwork.serve.routes.conversation import Conversation
from cutwork.serve.routes.generation import EngineFields
from cutwork.serve.routes.schema import ModelName, Schema, TokenCount, at_most
from cutwork.serve.routes.thinking import Effort
from cutwork.serve.served_models import ServedModels

Event = dict[str, Any]


class InputText(Schema):
    """A part of an item's content."""

    type: Literal["input_text", "output_text", "text", "reasoning_text", "summary_text"]
    text: str
    logprobs: list[Any] | None = None


Content = str | Annotated[list[InputText], Field(fail_fast=True), at_most(Limits.messages)]


class Item(Schema):
    """An entry of `input`: a message, a call, what a tool returned, or a thought."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    id: str | None = None
    status: str | None = None
    phase: str | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Content | None = None
    summary: Content | None = None
    encrypted_content: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Content | None = None


class FunctionTool(Schema):
    """An entry of `tools`."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFunction(Schema):
    """`tool_choice` that names a function."""

    type: Literal["function"]
    name: str


class Format(Schema):
    """`text.format`."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class Text(Schema):
    """`text`."""

    format: Format | None = None
    verbosity: str | None = None


class Reasoning(Schema):
    """`reasoning`. A thought is told whole, so a summary of it is not."""

    effort: Effort | None = None
    summary: str | None = None
    generate_summary: str | None = None


MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class ResponsesRequest(EngineFields):
    """POST /v1/responses."""

    model: ModelName = None
    input: str | Annotated[list[Item], Field(fail_fast=True), at_most(Limits.messages)] = Field(examples=["Hello"])
    instructions: str | None = None
    max_output_tokens: TokenCount | None = None
    reasoning: Reasoning | None = None
    text: Text | None = None
    tools: Annotated[list[FunctionTool], Field(fail_fast=True), at_most(Limits.tools)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool = True
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    include: Annotated[list[Literal["reasoning.encrypted_content"]], at_most(16)] | None = None  # it comes in clear
    truncation: Literal["disabled", "auto"] = "disabled"  # a prompt that does not fit is refused either way
    background: Literal[False] = False
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None  # which is told again
    previous_response_id: str | None = None


def router(models: ServedModels, limits: Limits) -> APIRouter:
    """The route over these models."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/v1/responses", summary="Answer a conversation, as OpenAI's responses", response_model=None)
    async def responses(body: ResponsesRequest, request: Request) -> Response:
        chat = _chat(body)
        conversation = await Conversation.begin(chat, request, await models.find_text(request, chat.model), limits)
        answer = _Answer(body, conversation)
        for name, given in _without_effect(body).items():
            if given:
                conversation.warn(f"without effect: {name}")
        if body.stream:
            return EventStream(conversation.job, answer.events(), limits.deadline, conversation.headers, named=True)
        whole = await whole_answer(request, conversation.job, answer.whole())
        return JSONResponse(whole, headers=conversation.headers)

    return routes


def _without_effect(body: ResponsesRequest) -> dict[str, Any]:
    reasoning, text = body.reasoning or Reasoning(), body.text or Text()
    return {
        "reasoning.summary": reasoning.summary or reasoning.generate_summary,
        "text.verbosity": text.verbosity,
    }


def _chat(body: ResponsesRequest) -> ChatRequest:
    """The same as a chat."""
    if body.previous_response_id:
        message = "this server keeps no responses; send the whole conversation as input"
        raise ApiError(400, f"previous_response_id: {message}", param="previous_response_id")
    messages = [{"role": "system", "content": body.instructions}] if body.instructions else []
    items = [Item(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    for item in items:
        _add(messages, item)
    choice: Any = body.tool_choice
    if isinstance(choice, NamedFunction):
        choice = {"type": "function", "function": {"name": choice.name}}
    tools = [{"type": "function", "function": tool.model_dump(exclude={"type"})} for tool in body.tools or ()]
    form = body.text.format if body.text else None
    schema = {"schema": form.schema_ or {}} if form and form.type == "json_schema" else None
    return as_chat(
        {
            **body.model_dump(
                include={*EngineFields.model_fields, "model", "parallel_tool_calls", "stream"}, exclude_unset=True
            ),
            "messages": messages,
            "max_tokens": body.max_output_tokens,
            "tools": tools or None,
            "tool_choice": choice,
            "reasoning_effort": body.reasoning.effort if body.reasoning else None,
            "response_format": {"type": form.type, "json_schema": schema} if form else None,
        }
    )


def _add(messages: list[dict[str, Any]], item: Item) -> None:
    """Add an item to a chat's messages. A thought and calls join the assistant's message before them."""
    if item.type == "function_call_output":
        messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
        return
    if item.type == "message":
        role = item.role or "user"
        if role == "assistant" and messages and messages[-1]["role"] == role and not messages[-1].get("tool_calls"):
            messages[-1]["content"] += _text(item.content)
        else:
            messages.append({"role": role, "content": _text(item.content)})
        return
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    last = messages[-1]
    if item.type == "reasoning":
        last["reasoning_content"] = last.get("reasoning_content", "") + (_text(item.content) or _text(item.summary))
    else:
        function = {"name": item.name, "arguments": item.arguments or "{}"}
        last.setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": function})


def _text(content: Content | None) -> str:
    return content or "" if not isinstance(content, list) else "".join(part.text for part in content)


class _Answer:
    """An answer as a list of items, whole or as the events that make them."""

    def __init__(self, body: ResponsesRequest, conversation: Conversation) -> None:
        self._conversation = conversation
        self._items: list[Event] = []
        self._number = 0
        self._response = {
            "id": identifier("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "model": conversation.served.name,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "output": self._items,
            "parallel_tool_calls": body.parallel_tool_calls,
            "previous_response_id": None,
            "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            "store": False,
            "temperature": conversation.body.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto" if body.tool_choice is None else body.model_dump()["tool_choice"],
            "tools": [tool.model_dump() for tool in body.tools or ()],
            "top_p": conversation.body.top_p,
            "truncation": body.truncation,
            "usage": None,
        }
        if body.text and body.text.format:
            self._response["text"] = {"format": body.text.format.model_dump(by_alias=True, exclude_none=True)}

    async def whole(self) -> Event:
        async for _ in self.events():
            pass
        return self._response

    async def events(self) -> AsyncIterator[Event]:
        for kind in ("response.created", "response.in_progress"):
            yield self._event(kind, response=self._response)
        cut_off = False
        async for _, parts, piece in self._conversation.parts():
            for part in parts:
                for event in self._of(part):
                    yield event
            cut_off = piece.finish_reason == "length"
        for event in self._close("incomplete" if cut_off else "completed"):
            yield event
        usage = self._conversation.usage()
        self._response |= {
            "status": "incomplete" if cut_off else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut_off else None,
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": usage["prompt_tokens_details"],
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": usage["completion_tokens_details"],
                "total_tokens": usage["total_tokens"],
            },
            "timings": timings(self._conversation.job.started),
        }
        yield self._event(f"response.{self._response['status']}", response=self._response)

    def _of(self, part: Part) -> Iterator[Event]:
        """What a part adds."""
        if part.kind == "call":
            yield from self._close()
            call = {"type": "function_call", "call_id": self._conversation.call_identifier(), "name": part.name}
            yield self._open("fc", {**call, "arguments": ""})
            self._items[-1]["arguments"] = part.text
            yield self._at("response.function_call_arguments.delta", delta=part.text)
            yield self._at("response.function_call_arguments.done", arguments=part.text, name=part.name)
            yield from self._close()
            return
        kind, content = ("message", "output_text") if part.kind == "content" else ("reasoning", "reasoning_text")
        if not self._items or self._items[-1]["type"] != kind or self._items[-1]["status"] != "in_progress":
            yield from self._close()
            new: Event = {"role": "assistant"} if kind == "message" else {"summary": []}
            yield self._open("msg" if kind == "message" else "rs", {"type": kind, **new, "content": []})
            text: Event = {"type": content, "text": "", **({"annotations": []} if kind == "message" else {})}
            self._items[-1]["content"].append(text)
            yield self._at("response.content_part.added", content_index=0, part=dict(text))
        self._items[-1]["content"][0]["text"] += part.text
        more: Event = {"logprobs": []} if kind == "message" else {}
        yield self._at(f"response.{content}.delta", content_index=0, delta=part.text, **more)

    def _open(self, prefix: str, item: Event) -> Event:
        self._items.append({"id": identifier(prefix), "status": "in_progress", **item})
        return self._event("response.output_item.added", output_index=len(self._items) - 1, item=dict(self._items[-1]))

    def _close(self, status: str = "completed") -> Iterator[Event]:
        """The end of the item that is open, if one is."""
        if not self._items or self._items[-1]["status"] != "in_progress":
            return
        item = self._items[-1]
        for text in item.get("content", ()):
            more: Event = {"logprobs": []} if item["type"] == "message" else {}
            yield self._at(f"response.{text['type']}.done", content_index=0, text=text["text"], **more)
            yield self._at("response.content_part.done", content_index=0, part=text)
        item["status"] = status
        yield self._event("response.output_item.done", output_index=len(self._items) - 1, item=item)

    def _at(self, kind: str, **fields: Any) -> Event:
        """An event of the last item."""
        return self._event(kind, item_id=self._items[-1]["id"], output_index=len(self._items) - 1, **fields)

    def _event(self, kind: str, **fields: Any) -> Event:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **fields}
