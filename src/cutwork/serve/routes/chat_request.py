"""What a conversation's request may hold, and how it reaches the chat template."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from cutwork.engine.chat.formats import THOUGHT_FIELDS
from cutwork.serve.grammar import Callee, schema_text
from cutwork.serve.http.errors import ApiError
from cutwork.serve.http.json_body import read_json
from cutwork.serve.limits import Limits
from cutwork.serve.routes.form import form_of
from cutwork.serve.routes.generation import UNLIMITED, GenerationRequest
from cutwork.serve.routes.schema import Schema, TokenCount, at_most, instead_of
from cutwork.serve.routes.thinking import ThinkingFields
from cutwork.serve.tokens import Tokens


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

    @model_validator(mode="after")
    def _says_something(self) -> "Message":
        if self.content is None and self.role != "assistant":
            raise ValueError(f"content is missing; only an assistant's message may be without, not the {self.role}'s")
        return self

    @property
    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""

    @property
    def size(self) -> int:
        """Characters of all that a chat template may get of it."""
        texts = [self.text, self.reasoning_content or self.reasoning, self.name, self.tool_call_id]
        for call in self.tool_calls or ():
            arguments = call.function.arguments
            texts += [call.id, call.function.name, arguments if isinstance(arguments, str) else json.dumps(arguments)]
        return sum(len(text) for text in texts if text)


Messages = Annotated[list[Message], Field(fail_fast=True), at_most(Limits.messages)]


class ChatRequest(GenerationRequest, ThinkingFields):
    """POST /v1/chat/completions."""

    messages: Messages = Field(min_length=1, examples=[[{"role": "user", "content": "Hello"}]])
    max_completion_tokens: TokenCount | None = None
    max_tokens: Annotated[TokenCount | None, instead_of(UNLIMITED, None)] = None
    verbosity: Literal["low", "medium", "high"] | None = None
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    tools: Annotated[list[Tool], Field(fail_fast=True), at_most(Limits.tools)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool = True
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


def as_chat(fields: dict[str, Any]) -> ChatRequest:
    """The request for a chat that another route's request means; fields that are None are left out.

    Raises ApiError (400) if there is none.
    """
    try:
        return ChatRequest.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ApiError(400, f"{where}: {first['msg']}", param=where) from None


def goes_on(body: ChatRequest, begun: str) -> bool:
    """Whether the answer goes on with what a last message of the assistant has begun, which it does unless a request
    says otherwise. Raises ApiError (400) for a wish that contradicts the messages or another."""
    wanted, anew = body.continue_final_message, body.add_generation_prompt
    if wanted and not begun:
        what = "needs a last message of the assistant with content and without tool calls"
        raise ApiError(400, f"continue_final_message {what}", param="continue_final_message")
    continued = bool(begun) if wanted is None else wanted
    if wanted is None and anew and begun:
        continued = False
    if anew is not None and anew == continued:
        raise ApiError(
            400, "add_generation_prompt must be the opposite of continue_final_message", param="add_generation_prompt"
        )
    return continued


def told_tools(body: ChatRequest, limits: Limits) -> list[dict[str, Any]] | None:
    """The tools the model is told of."""
    if not body.tools or body.tool_choice == "none":
        return None
    for tool in body.tools:
        schema_text(tool.function.parameters or {}, limits, "tools")
    return [tool.model_dump(exclude_none=True, exclude={"function": {"strict"}}) for tool in body.tools]


def callees(body: ChatRequest) -> tuple[list[Callee], bool]:
    """The functions that may be called, and whether one of them must be."""
    named = body.tool_choice.function.name if isinstance(body.tool_choice, NamedTool) else None
    functions = [tool.function for tool in body.tools or () if named in (None, tool.function.name)]
    called = [(function.name, function.parameters) for function in functions]
    if named is None and body.tool_choice != "required":
        return [] if body.tool_choice == "none" else called, False
    if not functions:
        what = "needs tools" if named is None else "names a function that is not among the tools"
        raise ApiError(400, f"tool_choice {what}", param="tool_choice")
    if (form := form_of(body)) is not None:
        raise ApiError(400, f"tool_choice and {form.field} exclude each other", param="tool_choice")
    return called, True


async def template_messages(messages: Sequence[Message], tokens: Tokens) -> tuple[list[dict[str, Any]], int]:
    """Messages as chat templates expect them, made beside the event loop, and their characters.

    Raises ApiError (400) if there are more than are read of a text.
    """
    size = sum(message.size for message in messages)
    tokens.check_readable(size)
    return await tokens.run(size, lambda: [template_message(message) for message in messages]), size


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
