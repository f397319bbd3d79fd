"""What requests hold. Unknown fields are ignored, as OpenAI's clients expect; known ones are held to their range."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Finite = Annotated[float, Field(allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
MAX_SEED = (1 << 63) - 1


class Schema(BaseModel):
    """A request's body."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class StreamOptions(Schema):
    """`stream_options`."""

    include_usage: bool = False


class JsonSchema(Schema):
    """`response_format.json_schema`."""

    name: str = Field("answer", max_length=256)
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class ResponseFormat(Schema):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class Generate(Schema):
    """What completions and chat have in common."""

    model: str | None = Field(None, max_length=512)
    priority: int = Field(0, ge=-1000, le=1000)
    n: int = Field(1, ge=1, le=128)
    max_tokens: int | None = Field(None, ge=0, le=1 << 24)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, le=1 << 24)
    min_p: float = Field(0.0, ge=0, le=1)
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: int | None = Field(None, ge=-MAX_SEED, le=MAX_SEED)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    user: str | None = None

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def usage_in_stream(self) -> bool:
        """Whether the last event of a stream tells the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionRequest(Generate):
    """POST /v1/completions."""

    prompt: str | list[TokenId] | list[str] | list[list[TokenId]] = Field(examples=["Once upon a time"])
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False
    suffix: str | None = None
    best_of: int | None = Field(None, ge=1, le=128)

    @field_validator("suffix")
    @classmethod
    def _no_suffix(cls, value: str | None) -> str | None:
        if value:
            raise ValueError("suffix is not supported; leave it out")
        return None


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
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ChatRequest(Generate):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, examples=[[{"role": "user", "content": "Hello"}]])
    max_completion_tokens: int | None = Field(None, ge=1, le=1 << 24)
    max_tokens: int | None = Field(None, ge=1, le=1 << 24)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None


class TranslateRequest(Schema):
    """POST /translate."""

    model: str | None = Field(None, max_length=512)
    text: str | list[str] = Field(examples=["How are you?"])
    prefix: str | None = None
    num_beams: int | None = Field(None, ge=1, le=1 << 10)
    length_penalty: float = Field(1.0, ge=-5, le=5)
    max_tokens: int | None = Field(None, ge=1, le=1 << 24)


class TokenizeRequest(Schema):
    """POST /tokenize."""

    model: str | None = Field(None, max_length=512)
    prompt: str | None = Field(None, examples=["Hello"])
    messages: list[Message] | None = None
    add_special_tokens: bool = True


class DetokenizeRequest(Schema):
    """POST /detokenize."""

    model: str | None = Field(None, max_length=512)
    tokens: list[TokenId] = Field(examples=[[1, 2]])
