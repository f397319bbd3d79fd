"""What completions and chat have in common: fields, the server's limits for them, and the engine's options."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar, cast

from pydantic import Field

from cutwork.engine.chat.formats import CallFormat
from cutwork.engine.chat.thought import Thought
from cutwork.engine.decoding.options import GenerateOptions
from cutwork.engine.decoding.sampling import LEAST_PENALTY
from cutwork.serve.grammar import Callee, Matcher
from cutwork.serve.http.errors import ApiError
from cutwork.serve.jobs.worker import Choice
from cutwork.serve.limits import Limits
from cutwork.serve.routes.form import FormFields, form_of
from cutwork.serve.routes.schema import ModelName, Schema, Texts, TokenId, at_most, instead_of
from cutwork.serve.served_model import ServedModel
from cutwork.serve.tokens import LONG

Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
MAX_SEED = (1 << 63) - 1
LEAST_TOP_P = 1e-9  # the likeliest token alone
UNLIMITED = -1  # as a number of tokens: as many as there may be, in the words of llama.cpp
RANDOM = -1  # as a seed: none, in the words of llama.cpp and vLLM


class EngineFields(Schema):
    """Fields that are the engine's options of the same name."""

    priority: int = Field(0, ge=-1000, le=1000)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: Annotated[float, instead_of(0, LEAST_TOP_P)] = Field(1.0, gt=0, le=1)
    top_k: Annotated[int, instead_of(-1, 0)] = Field(0, ge=0, le=1 << 24)
    min_p: float = Field(0.0, ge=0, le=1)
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: float | None = Field(None, ge=LEAST_PENALTY, le=10)
    ignore_eos: bool = False
    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True), at_most(1024)] = Field(default_factory=list)
    skip_special_tokens: bool = True


class StreamOptions(Schema):
    """`stream_options`."""

    include_usage: bool = False


class GenerationRequest(EngineFields, FormFields):
    """A request for text."""

    model: ModelName = None
    n: int = Field(1, ge=1, le=128)
    max_tokens: int | None = Field(None, ge=UNLIMITED, le=1 << 24)
    min_tokens: int | None = Field(None, ge=0, le=1 << 24)
    logit_bias: Annotated[dict[TokenId, Bias], at_most(1024)] | None = None
    seed: int | None = Field(None, ge=-MAX_SEED, le=MAX_SEED)
    stop: str | Texts | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    include_stop_str_in_output: bool = False

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def usage_in_stream(self) -> bool:
        """Whether the last event of a stream tells the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


Body = TypeVar("Body", bound=GenerationRequest)


def as_usual(request: Body, served: ServedModel) -> Body:
    """A request with what the model's generation_config.json says of sampling where the client says nothing."""
    said = request.model_fields_set
    return request.model_copy(update={k: v for k, v in served.model.usual_sampling.items() if k not in said})


def check(request: GenerationRequest, limits: Limits) -> None:
    """Raise ApiError (400) for a field beyond the server's limits."""
    capped = {
        "n": (request.n, limits.choices),
        "max_tokens": (request.max_tokens or 0, limits.max_tokens),
        "stop": (len(request.stops), limits.stop_strings),
        "logit_bias": (len(request.logit_bias or ()), limits.logit_biases),
    }
    for field, (value, cap) in capped.items():
        if value > cap:
            raise ApiError(400, f"{field}: this server allows at most {cap}, not {value}", param=field)
    if request.priority and not limits.priority:
        raise ApiError(400, "priority: this server does not let clients say who is first", param="priority")
    if any(len(text) > limits.stop_length for text in request.stops):
        raise ApiError(400, f"stop: a stop string has at most {limits.stop_length} characters", param="stop")


def check_logprobs(tokens: int, alternatives: int | None, limits: Limits) -> None:
    """Raise ApiError (400) if the log-probabilities of so many tokens, if they are asked for at all, are more than one
    answer may hold."""
    told = 0 if alternatives is None else tokens * (1 + alternatives)
    if told > limits.logprobs:
        message = f"logprobs: this server tells at most {limits.logprobs} in one answer, not {told}"
        raise ApiError(400, f"{message}; ask for fewer tokens or alternatives", param="logprobs")


def longest_prompt(served: ServedModel) -> int:
    """How many tokens a prompt may have."""
    encoder = served.model.encoder
    return min(Limits.token_ids, encoder.max_length if encoder else served.model.max_context - 1)


def check_prompt(prompt: list[int], served: ServedModel) -> None:
    """Raise ApiError (400) for a prompt that is empty, too long, or not of the model's vocabulary."""
    longest = longest_prompt(served)
    if not 1 <= len(prompt) <= longest:
        raise ApiError(
            400,
            f"the prompt has {len(prompt)} tokens; this model takes from 1 to {longest}",
            param="prompt",
            code="context_length_exceeded" if prompt else None,
        )
    if max(prompt) >= served.model.plan.vocabulary:
        raise ApiError(400, f"token ids must be below {served.model.plan.vocabulary}", param="prompt")


async def generate_options(
    request: GenerationRequest,
    served: ServedModel,
    limits: Limits,
    *,
    max_tokens: int,
    logprobs: int | None,
    calls: Sequence[Callee] = (),
    required: bool = False,
    written: CallFormat | None = None,
) -> GenerateOptions:
    """The engine's options for a request; see `choice_options`. A grammar is compiled once, off the event loop;
    a client's wait for each other, as each may take seconds.

    calls: functions that may be called, as it is `written`; one of them must be if it is `required`.
    """
    bias, vocabulary = request.logit_bias or {}, served.model.plan.vocabulary
    for name, ids in (("logit_bias", bias), ("stop_token_ids", request.stop_token_ids)):
        if max(ids, default=0) >= vocabulary:
            raise ApiError(400, f"{name}: token ids must be below {vocabulary}", param=name)
    form = form_of(request)
    constraint = None
    if form is not None and calls and written and written.forced:
        if form.kind != "json":
            message = f"{form.field} and tools exclude each other, unless tool_choice is none"
            raise ApiError(400, message, param=form.field)
        constraint = await served.tokens.run(LONG, served.grammars.tool_call, calls, written, limits, form)
    elif form is not None:
        constraint = await served.tokens.run(LONG, served.grammars.answer, form, limits)
    elif required:
        constraint = await served.tokens.run(LONG, served.grammars.tool_call, calls, written, limits)
    if logprobs is not None:
        await served.tokens.know_bytes()
    same = cast(GenerateOptions, request.model_dump(include=set(EngineFields.model_fields), exclude_none=True))
    other: GenerateOptions = {
        "max_new_tokens": max_tokens,
        "stop": request.stops,
        "keep_stop": request.include_stop_str_in_output,
        "logit_bias": bias,
        "constraint": constraint,
        "seed": None if request.seed in (None, RANDOM) else request.seed % (1 << 63),
        "logprobs": logprobs,
        "adapter": served.adapter,
    }
    if request.min_tokens is not None:
        other["min_new_tokens"] = request.min_tokens
    return same | other


async def make_choices(make: Callable[[], list[Choice]], first: GenerateOptions) -> list[Choice]:
    """What `make` makes, off the event loop where a grammar is copied for each."""
    return make() if first.get("constraint") is None else await asyncio.to_thread(make)


def choice_options(first: GenerateOptions, index: int) -> GenerateOptions:
    """Options of choice `index` of n for one of the prompts: a seed and a constraint of its own."""
    options = first.copy()
    seed = first.get("seed")
    if seed is not None:
        options["seed"] = (seed + index) % (1 << 63)
    constraint = first.get("constraint")
    if isinstance(constraint, Matcher | Thought):
        options["constraint"] = constraint.copy()
    return options
