"""Between text and token ids, off the event loop, in threads that have a tokenizer of their own."""

import asyncio
import copy
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from cutwork.engine.chat.template import render_chat
from cutwork.engine.decoding.options import GenerateOptions
from cutwork.engine.decoding.sampling import Constraint, Logprob
from cutwork.engine.languages import encode_from
from cutwork.engine.model import Model
from cutwork.engine.tokenizer import encode
from cutwork.engine.translation import answers_in
from cutwork.serve.grammar import tokenizer_of_bytes
from cutwork.serve.http.errors import ApiError
from cutwork.serve.http.middleware import asking
from cutwork.serve.limits import Limits
from cutwork.serve.time_limit import TimeIsOver, within
from cutwork.serve.token_places import TokenPlaces

Result = TypeVar("Result")

LONG = 1 << 16  # characters from which a text goes where it delays only others like it
QUICK_THREADS = 2
CHARACTERS = 16  # of text that a token of an answer counts for, as a log-probability or of a prompt that is repeated


class Tokens:
    """The tokenizer of a model. What is cancelled while it waits for a thread is never begun."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._quick = ThreadPoolExecutor(QUICK_THREADS, "text")
        self._long = ThreadPoolExecutor(1, "long text")
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._own, self._lock = threading.local(), threading.Lock()
        self._bytes: list[bytes] | None = None
        vocabulary = model.tokenizer.get_vocab() if model.tokenizer is not None else ()
        self._longest_token = max(map(len, vocabulary), default=1)
        for _ in range(QUICK_THREADS):  # copying tokenizers takes long, and the first clients would wait for it
            self._quick.submit(self._render, [{"role": "user", "content": ""}], None, None)

    async def encode(self, text: str, *, most: int, special: bool = True, language: str | None = None) -> list[int]:
        """Token ids of a prompt, by default with the special tokens that the model expects around it; `language`: in
        which it is, of a model that translates from several.

        Raises CutworkError if it is empty, the model has no tokenizer or does not know the language, ApiError (400) if
        it is so long that it must have more than `most` tokens, or too long to be read.
        """
        self._check_length(len(text), most)
        if language:
            return await self.run(len(text), self._encode_from, text, language)
        return await self.run(len(text), self._encode, text, special)

    async def answers_in(self, language: str | None) -> GenerateOptions:
        """What makes the model answer in a language. Raises CutworkError for one that it does not know."""
        return await self.run(0, self._answers_in, language)

    async def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        settings: dict[str, Any] | None = None,
        *,
        size: int,
        most: int,
        go_on: bool = True,
    ) -> str:
        """The prompt of a conversation, as `render_chat` makes it. size: characters of all that the messages hold.

        Raises CutworkError if the template refuses it, ApiError (400) as `encode` and if the template does not come to
        an end.
        """
        self._check_length(sum(len(message["content"]) for message in messages), most)
        size += len(json.dumps(tools)) if tools else 0
        self.check_readable(size)
        prompt = await self.run(size, self._render, messages, tools, settings, go_on)
        self._check_length(len(prompt), most)  # before anything else looks at it
        return prompt

    async def thought(self, prompt: str, begun: str, budget: int | None, then: Constraint | None) -> Constraint | None:
        """What an answer to the prompt, which holds what is `begun` of it, has to follow: its thought ends within the
        budget, `then` comes after it."""
        template, vocabulary = self._model.chat_template, self._model.plan.vocabulary
        given = (prompt, budget, then, self._encode_bare, self._written, vocabulary, begun)
        return then if budget is None and then is None else await self.run(0, template.within, *given)

    async def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones included."""
        return await self.run(len(ids), self.text, ids)

    async def know_bytes(self) -> None:
        """Before log-probabilities are written: the bytes of every token, made once."""
        if self._bytes is None:
            await self.run(LONG, self._make_bytes)

    async def written(self, count: int, write: Callable[[], Result]) -> Result:
        """What `write` makes of an answer with so many log-probabilities and tokens of prompts; it may use `text`."""
        return await self.run(count * CHARACTERS, write)

    def text(self, ids: Sequence[int]) -> str:
        """As `decode`, in one of the threads."""
        if self._tokenizer is None:
            return " ".join(str(i) for i in ids)
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def close(self) -> None:
        """End the threads; nothing is waited for."""
        for pool in (self._quick, self._long):
            pool.shutdown(wait=False, cancel_futures=True)

    async def run(self, size: int, function: Callable[..., Result], *arguments: Any) -> Result:
        """What `function`, which has to do with so many characters, makes of its arguments, in one of the threads."""
        work, loop = partial(function, *arguments), asyncio.get_running_loop()
        if size < LONG:
            return await loop.run_in_executor(self._quick, work)
        turn = self._turns.setdefault(asking.get(), asyncio.Lock())
        async with turn:  # one of each client: others wait for no more than one of them
            return await loop.run_in_executor(self._long, work)

    @property
    def _tokenizer(self) -> Any:
        """This thread's: one tokenizer is not safe in two threads at once."""
        if not hasattr(self._own, "tokenizer"):
            with self._lock:
                self._own.tokenizer = copy.deepcopy(self._model.tokenizer)
        return self._own.tokenizer

    def _render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        settings: dict[str, Any] | None,
        go_on: bool = True,
    ) -> str:
        try:
            write = partial(render_chat, self._tokenizer, messages, tools, settings, go_on=go_on)
            return within(Limits.template_seconds, write)
        except TimeIsOver:
            took = f"{Limits.template_seconds:g} seconds"
            raise ApiError(400, f"the model's chat template was not done after {took}", param="messages") from None

    def _encode(self, text: str, special: bool) -> list[int]:
        return encode(self._tokenizer, text, special=special)

    def _encode_from(self, text: str, language: str) -> list[int]:
        return encode_from(self._tokenizer, text, language)

    def _answers_in(self, language: str | None) -> GenerateOptions:
        return answers_in(self._tokenizer, self._model.start_tokens, language)

    def _encode_bare(self, text: str) -> list[int]:
        return [int(token) for token in self._tokenizer.encode(text, add_special_tokens=False)]

    def _written(self, ids: Sequence[int]) -> str:
        """As `text`, in the model's own thread, with the model's own tokenizer."""
        decode = self._model.tokenizer.decode
        return str(decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def check_size(self, characters: int, what: str) -> None:
        """Raise ApiError (400) if all texts of a request, `what` it calls them, are too long to be read."""
        if characters > Limits.prompt_length:
            raise ApiError(
                400,
                f"{what}: {characters} characters are to be read, with what comes before each text; this server reads "
                f"{Limits.prompt_length} at most",
                param=what,
            )

    def check_readable(self, characters: int) -> None:
        """Raise ApiError (400) if a prompt has more characters than are read of one text."""
        if characters > Limits.prompt_length:
            raise ApiError(
                400,
                f"the prompt has {characters} characters; this server reads {Limits.prompt_length} of a text at most",
                param="prompt",
                code="context_length_exceeded",
            )

    def _check_length(self, characters: int, tokens: int) -> None:
        self.check_readable(characters)
        if characters > tokens * self._longest_token:
            raise ApiError(
                400,
                f"the prompt has {characters} characters, more than the {tokens} tokens that this model takes can hold",
                param="prompt",
                code="context_length_exceeded",
            )

    def _make_bytes(self) -> None:
        tokens = range(self._model.plan.vocabulary)
        if self._model.tokenizer is None:
            self._bytes = [str(token).encode() for token in tokens]
        elif self._bytes is None:
            tokenizer = tokenizer_of_bytes(self._model)
            self._bytes = [tokenizer.decode_bytes([token]) for token in tokens]

    def _bytes_of(self, token: int) -> bytes:
        assert self._bytes is not None, "know_bytes comes first"
        return self._bytes[token]

    def _text_of(self, token: int) -> str:
        return self._bytes_of(token).decode(errors="replace")

    def legacy_logprobs(
        self, logprobs: Sequence[tuple[int, Logprob | None]], places: TokenPlaces | None = None
    ) -> dict[str, Any]:
        """The `logprobs` of /v1/completions, of tokens that begin an answer or go on with one that has its `places`.

        Of tokens of the same text the likeliest counts.
        """
        texts = [self._text_of(token) for token, _ in logprobs]
        places = places or TokenPlaces()
        offsets = [places.next(self._bytes_of(token)) for token, _ in logprobs]
        top = [None if p is None else {self._text_of(i): value for i, value in reversed(p.top)} for _, p in logprobs]
        return {
            "tokens": texts,
            "token_logprobs": [None if p is None else p.logprob for _, p in logprobs],
            "top_logprobs": top,
            "text_offset": offsets,
        }

    def chat_logprobs(self, logprobs: Sequence[Logprob]) -> dict[str, Any]:
        """The `logprobs` of /v1/chat/completions."""
        return {
            "content": [
                self._entry(p.token, p.logprob)
                | {"top_logprobs": [self._entry(token, value) for token, value in p.top]}
                for p in logprobs
            ],
            "refusal": None,
        }

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        return {"token": self._text_of(token), "logprob": logprob, "bytes": list(self._bytes_of(token))}
