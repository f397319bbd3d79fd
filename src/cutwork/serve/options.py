"""From a request's fields to the engine's options, every one within the server's limits."""

from collections.abc import Sequence

from cutwork.engine.decoding.options import GenerateOptions
from cutwork.serve.grammar import Matcher
from cutwork.serve.http.errors import ApiError
from cutwork.serve.limits import Limits
from cutwork.serve.schemas import Function, Generate
from cutwork.serve.served_model import Engine


def check(request: Generate, limits: Limits) -> None:
    """Raise ApiError (400) for a field beyond the server's limits."""
    too_many = {
        "n": (request.n, limits.choices),
        "max_tokens": (request.max_tokens or 0, limits.max_tokens),
        "stop": (len(request.stops), limits.stop_strings),
        "logit_bias": (len(request.logit_bias or ()), limits.logit_biases),
    }
    for field, (value, most) in too_many.items():
        if value > most:
            raise ApiError(400, f"{field}: this server allows at most {most}, not {value}", param=field)
    if any(len(text) > limits.stop_length for text in request.stops):
        raise ApiError(400, f"stop: a stop string has at most {limits.stop_length} characters", param="stop")


def check_prompt(prompt: list[int], engine: Engine, limits: Limits) -> None:
    """Raise ApiError (400) for a prompt that is empty, too long, or not of the model's vocabulary."""
    encoder = engine.model.encoder
    most = min(limits.prompt_tokens, encoder.max_length if encoder else engine.model.max_context - 1)
    if not 1 <= len(prompt) <= most:
        raise ApiError(
            400,
            f"the prompt has {len(prompt)} tokens; this model takes from 1 to {most}",
            param="prompt",
            code="context_length_exceeded" if prompt else None,
        )
    if max(prompt) >= engine.model.plan.vocabulary:
        raise ApiError(400, f"token ids must be below {engine.model.plan.vocabulary}", param="prompt")


def options(
    request: Generate,
    engine: Engine,
    limits: Limits,
    *,
    max_tokens: int,
    logprobs: int | None,
    calls: Sequence[Function] = (),
) -> GenerateOptions:
    """The engine's options for one choice; `calls` are functions one of which must be called."""
    bias = request.logit_bias or {}
    if bias and max(bias) >= engine.model.plan.vocabulary:
        raise ApiError(400, f"logit_bias: token ids must be below {engine.model.plan.vocabulary}", param="logit_bias")
    form = request.response_format
    constraint = None
    if form is not None and form.type != "text":
        if form.type == "json_schema" and form.json_schema is None:
            raise ApiError(400, "response_format: json_schema is missing", param="response_format")
        schema = form.json_schema.schema_ if form.json_schema else {"type": "object"}
        constraint = engine.grammars.json_schema(schema, limits)
    if calls:
        constraint = engine.grammars.tool_call(calls, limits)
    return {
        "max_new_tokens": max_tokens,
        "stop": request.stops,
        "ignore_eos": request.ignore_eos,
        "skip_special_tokens": request.skip_special_tokens,
        "priority": request.priority,
        "temperature": request.temperature,
        "top_k": request.top_k,
        "top_p": request.top_p,
        "min_p": request.min_p,
        "repetition_penalty": request.repetition_penalty,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "logit_bias": bias,
        "constraint": constraint,
        "seed": None if request.seed is None else request.seed % (1 << 63),
        "logprobs": logprobs,
    }


def choice_options(first: GenerateOptions, index: int) -> GenerateOptions:
    """Options of one of n choices: another seed, and a constraint of its own."""
    if index == 0:
        return first
    own = first.copy()
    seed = first.get("seed")
    if seed is not None:
        own["seed"] = (seed + index) % (1 << 63)
    constraint = first.get("constraint")
    if isinstance(constraint, Matcher):
        own["constraint"] = constraint.copy()
    return own
