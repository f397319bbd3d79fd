"""A conversation being answered: from a chat's request to its parts as they come, for every route that has chats."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from cutwork.engine.chat.reader import AnswerReader, Part
from cutwork.engine.chat.template import begun
from cutwork.engine.decoding.requests import Piece
from cutwork.engine.decoding.sampling import Logprob
from cutwork.serve.answer_fields import call_identifier, usage
from cutwork.serve.http.errors import ApiError
from cutwork.serve.http.middleware import cache_salt_of, client_of
from cutwork.serve.http.stream import seconds_left, while_connected
from cutwork.serve.jobs.worker import Choice, Scored, TextJob
from cutwork.serve.limits import Limits
from cutwork.serve.routes.chat_request import ChatRequest, callees, goes_on, template_messages, told_tools
from cutwork.serve.routes.generation import (
    as_usual,
    check,
    check_logprobs,
    check_prompt,
    choice_options,
    generate_options,
    longest_prompt,
    make_choices,
)
from cutwork.serve.routes.thinking import Thinking, thinking_of
from cutwork.serve.served_model import ServedModel

WARNING = "X-Cutwork-Warning"  # a header that tells what had no effect


@dataclass
class _Prepared:
    """What the model is to do, and how its answers are read."""

    choices: list[Choice]
    readers: list[AnswerReader]
    warnings: list[str]


class Conversation:
    """The answers to a chat, in the thread of its model. Make one with `begin`.

    logprobs: of each choice those of the tokens that `parts` has told of, if they are asked for.
    """

    def __init__(self, body: ChatRequest, served: ServedModel, prepared: _Prepared, job: TextJob) -> None:
        self.body, self.served, self.job = body, served, job
        self._readers = prepared.readers
        self._calls = [0] * len(prepared.choices)
        self._thought_tokens = 0
        self.logprobs: list[list[Logprob]] = [[] for _ in prepared.choices]
        self._unsure: list[list[Logprob]] = [[] for _ in prepared.choices]
        self._warnings = prepared.warnings

    @classmethod
    async def begin(cls, body: ChatRequest, request: Request, served: ServedModel, limits: Limits) -> "Conversation":
        """Queue what a chat asks of a model. Raises ApiError or CutworkError for what cannot be had."""
        check(body, limits)
        _check_fields(body, limits)
        served.worker.check_room(body.n, client_of(request))
        body = as_usual(body, served)
        work = _prepare(body, served, limits, cache_salt_of(request))
        prepared = await while_connected(request, work, seconds_left(request, limits.deadline))
        job = TextJob(prepared.choices, seconds_left(request, limits.deadline), client_of(request))
        served.worker.submit(job)
        conversation = cls(body, served, prepared, job)
        if body.verbosity not in (None, "medium"):
            conversation.warn("verbosity has no effect")
        return conversation

    def warn(self, warning: str) -> None:
        """Tell the client of something else that has no effect."""
        self._warnings.append(warning)

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        return {WARNING: "; ".join(self._warnings)} if self._warnings else {}

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.job.choices[0].prompt)

    async def parts(self) -> AsyncIterator[tuple[int, list[Part], Piece]]:
        """(index of the choice, what is new of it, the engine's piece), as it comes."""
        async for index, piece in self.job:
            assert not isinstance(piece, Scored)
            reader = self._readers[index]
            thinking = reader.thinking
            parts = reader.feed(piece.text) + (reader.finish() if piece.finish_reason else [])
            thought = thinking or reader.thinking
            self._thought_tokens += thought
            told = [part for part in parts if self._is_told(index, part)]
            self._sort_logprob(index, piece, thought=thought, certain=bool(told))
            yield index, told, piece

    def reason(self, index: int, piece: Piece) -> str | None:
        """Why a choice ended, if it has."""
        return "tool_calls" if self._calls[index] and piece.finish_reason == "stop" else piece.finish_reason

    def call_identifier(self) -> str:
        """A name for a call, such as the model's template takes."""
        calls = self.served.model.chat_template.form.calls
        return call_identifier(calls.id_length if calls else None)

    def usage(self) -> dict[str, Any]:
        """Tokens so far."""
        return usage(self.prompt_tokens, self.job.started, self._thought_tokens, each=self.body.n)

    def _sort_logprob(self, index: int, piece: Piece, *, thought: bool, certain: bool) -> None:
        """Keep a token's log-probability, unless it is of a thought that is not told: what nothing has been told of may
        yet be the mark that begins one."""
        unsure = self._unsure[index]
        if piece.logprob is not None:
            unsure.append(piece.logprob)
        if thought and not self.body.include_reasoning:
            unsure.clear()
        elif certain or piece.finish_reason or self.body.include_reasoning:
            self.logprobs[index] += unsure
            unsure.clear()

    def _is_told(self, index: int, part: Part) -> bool:
        if part.kind == "call":
            self._calls[index] += 1
            return self.body.parallel_tool_calls or self._calls[index] == 1
        return part.kind == "content" or self.body.include_reasoning


@dataclass(frozen=True)
class Prompt:
    """The prompt of a chat: its text, what that holds of the answer, its token ids, and what was said of thoughts."""

    text: str
    begun: str
    tokens: list[int]
    thinking: Thinking


async def prompt_of(body: ChatRequest, served: ServedModel, limits: Limits) -> Prompt:
    """The prompt that a chat's request means to a model. Raises ApiError or CutworkError if there is none."""
    most, template = longest_prompt(served), served.model.chat_template
    thinking = thinking_of(body, template)
    messages, size = await template_messages(body.messages, served.tokens)
    go_on = goes_on(body, begun(messages))
    tools = told_tools(body, limits)
    text = await served.tokens.render(messages, tools, thinking.settings, size=size, most=most, go_on=go_on)
    if thinking.closed and not go_on:
        text = template.without_thought(text)
    tokens = await served.tokens.encode(text, most=most, special=False)  # the template writes those it wants
    check_prompt(tokens, served)
    return Prompt(text, begun(messages) if go_on else "", tokens, thinking)


def _check_fields(body: ChatRequest, limits: Limits) -> None:
    """Raise ApiError (400) for what the fields alone tell, before work is done."""
    wanted = body.max_completion_tokens or body.max_tokens or 1
    if wanted > limits.max_tokens:
        raise ApiError(
            400, f"max_tokens: this server allows at most {limits.max_tokens}, not {wanted}", param="max_tokens"
        )
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    callees(body)


def _most_tokens(body: ChatRequest, before: int, logprobs: int | None, served: ServedModel, limits: Limits) -> int:
    """How many tokens an answer behind so many may have: as asked for, or as the context and the limits allow.

    Raises ApiError for more of their probabilities than the server allows.
    """
    room = min(limits.max_tokens, served.model.max_context - before)
    if logprobs is not None:
        room = max(1, min(room, limits.logprobs // (body.n * (1 + logprobs))))
    wanted = body.max_completion_tokens or body.max_tokens or room
    check_logprobs(body.n * min(wanted, served.model.max_context), logprobs, limits)
    return wanted


async def _prepare(body: ChatRequest, served: ServedModel, limits: Limits, cache_salt: str) -> _Prepared:
    prompt, template = await prompt_of(body, served, limits), served.model.chat_template
    logprobs = body.top_logprobs if body.logprobs else None
    before = served.model.start_tokens if served.model.encoder else prompt.tokens  # what the answer is written behind
    wanted = _most_tokens(body, len(before), logprobs, served, limits)
    calls, required = callees(body)
    first = await generate_options(
        body,
        served,
        limits,
        max_tokens=wanted,
        logprobs=logprobs,
        calls=calls,
        required=required,
        written=template.form.calls,
    )
    first["constraint"] = await served.tokens.thought(
        prompt.text, prompt.begun, prompt.thinking.budget, first["constraint"]
    )
    first["cache_salt"], first["hidden_tokens"] = cache_salt, template.hidden

    def make() -> list[Choice]:
        return [Choice(prompt.tokens, choice_options(first, index)) for index in range(body.n)]

    choices = await make_choices(make, first)
    tools, thoughts = told_tools(body, limits), body.reasoning_format != "none"
    readers = [AnswerReader(template.form, prompt.text, tools, thoughts=thoughts, begun=prompt.begun) for _ in choices]
    return _Prepared(choices, readers, prompt.thinking.warnings)
