"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's messages as chats."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from cutwork.engine.chat.reader import Part
from cutwork.engine.decoding.requests import Piece
from cutwork.serve.answer_fields import identifier
from cutwork.serve.http.json_body import JsonRoute, read_json
from cutwork.serve.http.stream import EventStream, seconds_left, while_connected, whole_answer
from cutwork.serve.limits import Limits
from cutwork.serve.routes.chat_request import ChatRequest, as_chat
from cutwork.serve.routes.conversation import Conversation, prompt_of
from cutwork.serve.routes.schema import ModelName, Schema, Texts, TokenCount, at_most
from cutwork.serve.served_model import ServedModel
from cutwork.serve.served_models import ServedModels

Event = dict[str, Any]
EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "xhigh"}


class TextBlock(Schema):
    """Some text."""

    type: Literal["text"]
    text: str
    citations: None = None


class ResultBlock(Schema):
    """What a tool returned."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | Annotated[list[TextBlock], Field(fail_fast=True), at_most(Limits.messages)] | None = None
    is_error: bool = False


class CallBlock(Schema):
    """A call the model made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    caller: dict[str, Any] | None = None


class ThoughtBlock(Schema):
    """A thought the model had; one that was hidden says nothing here."""

    type: Literal["thinking", "redacted_thinking"]
    thinking: str = ""
    signature: str | None = None
    data: str | None = None


Block = Annotated[TextBlock | ResultBlock | CallBlock | ThoughtBlock, Field(discriminator="type")]
Texted = str | Annotated[list[TextBlock], Field(fail_fast=True), at_most(Limits.messages)]


class Message(Schema):
    """An entry of `messages`."""

    role: Literal["user", "assistant", "system"]
    content: str | Annotated[list[Block], Field(fail_fast=True), at_most(Limits.messages)]


class Tool(Schema):
    """An entry of `tools`. Its input follows the schema where a call is required, strict or not."""

    type: Literal["custom"] | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    eager_input_streaming: bool | None = None


class ToolChoice(Schema):
    """`tool_choice`."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class ThinkingChoice(Schema):
    """`thinking`: within a budget, as the model does, or not at all."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: int | None = Field(None, ge=1, le=1 << 24)
    display: Literal["summarized", "omitted", "full"] | None = None


class OutputFormat(Schema):
    """`output_config.format`."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Schema):
    """`output_config`."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class CountRequest(Schema):
    """POST /v1/messages/count_tokens, and what every message has in common with it."""

    model: ModelName = None
    messages: Annotated[list[Message], Field(fail_fast=True), at_most(Limits.messages)] = Field(
        min_length=1, examples=[[{"role": "user", "content": "Hello"}]]
    )
    system: Texted | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True), at_most(Limits.tools)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingChoice | None = None
    context_management: dict[str, Any] | None = None  # has no effect: nothing is taken out of a conversation
    output_config: OutputConfig | None = None


class MessagesRequest(CountRequest):
    """POST /v1/messages."""

    max_tokens: TokenCount
    stop_sequences: Texts | None = None
    stream: bool = False
    temperature: float = Field(1.0, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1 << 24)
    top_p: float | None = Field(None, gt=0, le=1)


def router(models: ServedModels, limits: Limits) -> APIRouter:
    """The routes over these models."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/v1/messages", summary="Answer a conversation, as Anthropic's messages", response_model=None)
    async def messages(body: MessagesRequest, request: Request) -> Response:
        served = await models.find_text(request, body.model)
        sampling = body.model_dump(include={"temperature", "top_k", "top_p"}, exclude_unset=True)
        chat = _chat(body, served, max_tokens=body.max_tokens, stop=body.stop_sequences, **sampling)
        conversation = await Conversation.begin(chat, request, served, limits)
        if body.context_management:
            conversation.warn("without effect: context_management")
        answer = _Answer(conversation)
        if body.stream:
            return EventStream(conversation.job, answer.events(), limits.deadline, conversation.headers, named=True)
        whole = await whole_answer(request, conversation.job, answer.whole())
        return JSONResponse(whole, headers=conversation.headers)

    @routes.post("/v1/messages/count_tokens", summary="Length of a prompt, as Anthropic's", response_model=None)
    async def count(body: CountRequest, request: Request) -> dict[str, int]:
        served = await models.find_text(request, body.model)
        work = prompt_of(_chat(body, served), served, limits)
        prompt = await while_connected(request, work, seconds_left(request, limits.deadline))
        return {"input_tokens": len(prompt.tokens)}

    return routes


def _chat(body: CountRequest, served: ServedModel, **more: Any) -> ChatRequest:
    """The same as a chat. Without `thinking` a model that could does not think, as Anthropic's do."""
    messages: list[Event] = [{"role": "system", "content": _text(body.system)}] if body.system else []
    for message in body.messages:
        messages += _messages(message)
    choice, config, thinking = body.tool_choice, body.output_config or OutputConfig(), body.thinking
    chosen: Any = {"any": "required"}.get(choice.type, choice.type) if choice else None
    if choice and choice.type == "tool":
        chosen = {"type": "function", "function": {"name": choice.name or ""}}
    thinks = served.model.chat_template.form.thought is not None
    on = None if config.effort else False
    if thinking is not None:
        on = {"enabled": True, "adaptive": None, "disabled": False}[thinking.type]
    return as_chat(
        {
            "model": body.model,
            "messages": messages,
            "tools": [
                {"function": {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}}
                for tool in body.tools or ()
            ]
            or None,
            "tool_choice": chosen,
            "parallel_tool_calls": not (choice and choice.disable_parallel_tool_use),
            "enable_thinking": on if thinks or on else None,
            "thinking_budget": thinking.budget_tokens if thinking and on else None,
            "include_reasoning": not (thinking and thinking.display == "omitted"),
            "reasoning_effort": EFFORTS[config.effort] if config.effort and on is not False else None,
            "response_format": {"type": "json_schema", "json_schema": {"schema": config.format.schema_}}
            if config.format
            else None,
            **more,
        }
    )


def _messages(message: Message) -> list[Event]:
    """The same as messages of a chat: what tools returned are messages of their own, before what the user says."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    results: list[Event] = []
    said: Event = {"role": message.role, "content": ""}
    for block in message.content:
        if isinstance(block, ResultBlock):
            text = _text(block.content)
            shown = f"Error: {text}" if block.is_error else text
            results.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": shown})
        elif isinstance(block, CallBlock):
            function = {"name": block.name, "arguments": block.input}
            said.setdefault("tool_calls", []).append({"id": block.id, "type": "function", "function": function})
        elif isinstance(block, ThoughtBlock):
            said["reasoning_content"] = said.get("reasoning_content", "") + block.thinking
        else:
            said["content"] += block.text
    return [*results, said] if len(said) > 2 or said["content"] or not results else results


def _text(content: Texted | None) -> str:
    return content or "" if not isinstance(content, list) else "".join(block.text for block in content)


class _Answer:
    """An answer as a list of blocks, whole or as the events that make them."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._blocks: list[Event] = []
        self._open = False
        self._message = {
            "id": identifier("msg"),
            "type": "message",
            "role": "assistant",
            "model": conversation.served.name,
            "content": self._blocks,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._usage(),
        }

    async def whole(self) -> Event:
        async for _ in self.events():
            pass
        return self._message

    async def events(self) -> AsyncIterator[Event]:
        yield {"type": "message_start", "message": {**self._message, "content": []}}
        ended: Event = {}
        async for index, parts, piece in self._conversation.parts():
            for part in parts:
                for event in self._of(part):
                    yield event
            if piece.finish_reason is not None:
                ended = self._ended(index, piece)
        for event in self._close():
            yield event
        self._message |= {**ended, "usage": self._usage()}
        yield {"type": "message_delta", "delta": ended, "usage": self._usage()}
        yield {"type": "message_stop"}

    def _of(self, part: Part) -> Iterator[Event]:
        """What a part adds."""
        if part.kind == "call":
            yield from self._close()
            name = self._conversation.call_identifier()
            yield from self._begin({"type": "tool_use", "id": name, "name": part.name, "input": {}})
            self._blocks[-1]["input"] = _object(part.text)
            yield self._delta({"type": "input_json_delta", "partial_json": json.dumps(self._blocks[-1]["input"])})
            yield from self._close()
            return
        kind, key = ("text", "text") if part.kind == "content" else ("thinking", "thinking")
        if not self._open or self._blocks[-1]["type"] != kind:
            yield from self._close()
            yield from self._begin({"type": kind, key: ""} | ({} if kind == "text" else {"signature": ""}))
        self._blocks[-1][key] += part.text
        yield self._delta({"type": f"{kind}_delta", key: part.text})

    def _begin(self, block: Event) -> Iterator[Event]:
        self._blocks.append(block)
        self._open = True
        yield {"type": "content_block_start", "index": len(self._blocks) - 1, "content_block": dict(block)}

    def _delta(self, delta: Event) -> Event:
        return {"type": "content_block_delta", "index": len(self._blocks) - 1, "delta": delta}

    def _close(self) -> Iterator[Event]:
        """The end of the block that is open, if one is."""
        if self._open:
            self._open = False
            yield {"type": "content_block_stop", "index": len(self._blocks) - 1}

    def _ended(self, index: int, piece: Piece) -> Event:
        reason = self._conversation.reason(index, piece)
        found = piece.request.stop.found
        names = {"length": "max_tokens", "tool_calls": "tool_use"}
        named = names.get(reason or "", "end_turn" if found is None else "stop_sequence")
        return {"stop_reason": named, "stop_sequence": found if named == "stop_sequence" else None}

    def _usage(self) -> dict[str, int]:
        usage = self._conversation.usage()
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return {
            "input_tokens": usage["prompt_tokens"] - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": usage["completion_tokens"],
        }


def _object(text: str) -> dict[str, Any]:
    """A call's arguments; what is no object is the value of `arguments`."""
    try:
        value = read_json(text)
    except (ValueError, RecursionError):
        value = text
    return value if isinstance(value, dict) else {"arguments": value}
