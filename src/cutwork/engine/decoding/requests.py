"""Requests in, text out: the scheduler together with a tokenizer. What `Model.generate` and a server have in common."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

from cutwork.engine.adapters import number_of
from cutwork.engine.check_options import check_options
from cutwork.engine.decoding.beam import Hypothesis
from cutwork.engine.decoding.detokenize import Detokenizer, StopStrings
from cutwork.engine.decoding.options import GenerateOptions, settings_of
from cutwork.engine.decoding.running import NO_TOKEN, Chosen, FinishReason, Running
from cutwork.engine.decoding.sampling import Logprob
from cutwork.engine.decoding.scheduler import Scheduler
from cutwork.engine.encoder import EncodedInput
from cutwork.engine.tokenizer import a_list
from cutwork.errors import CutworkError


@dataclass(frozen=True)
class Timings:
    """Seconds of one request, and how many prompt tokens were found in the cache instead of computed."""

    queued: float
    prefill: float
    decode: float
    reused_tokens: int


@dataclass(frozen=True)
class Generation:
    """A finished answer.

    text: without the end-of-sequence token and without the stop string. tokens: all that were generated, the
    end-of-sequence token included. finish_reason: "stop" (end of sequence or stop string), "length" (max_new_tokens or
    the end of the context), "cancelled" or "error". prompt_tokens: their number, or of a model with an encoder that of
    its input's entries. logprobs: one entry per token if asked for.
    score: of a beam search, the sum of the tokens' log-probabilities divided by their number to the length_penalty.
    alternatives: the other answers, where num_return_sequences asked for several; of a beam search the best first.
    guessed_tokens, accepted_tokens: what a draft model guessed, and how much of it was right.
    """

    text: str
    tokens: list[int]
    finish_reason: str
    prompt_tokens: int
    timings: Timings
    logprobs: list[Logprob] | None = None
    score: float | None = None
    alternatives: list["Generation"] = field(default_factory=list)
    guessed_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def acceptance(self) -> float:
        """Fraction of a draft model's guesses that were right; 0 without any."""
        return self.accepted_tokens / max(self.guessed_tokens, 1)

    @property
    def prefill_speed(self) -> float:
        """Prompt tokens computed per second."""
        return (self.prompt_tokens - self.timings.reused_tokens) / max(self.timings.prefill, 1e-9)

    @property
    def decode_speed(self) -> float:
        """Tokens per second after the first."""
        return max(len(self.tokens) - 1, 0) / max(self.timings.decode, 1e-9)


@dataclass(frozen=True)
class Piece:
    """What one step brought for one request. `text` may be empty: half a character, or perhaps the start of a stop
    string. The last piece of a request has its `finish_reason`; with "error" it has no token (NO_TOKEN)."""

    request: "Request"
    token: int
    text: str
    logprob: Logprob | None = None
    finish_reason: FinishReason | None = None


@dataclass(eq=False)
class Request:
    """A prompt on its way through a `Session`; `pieces` collects what a consumer has not taken yet."""

    sequence: Running
    detokenizer: Detokenizer
    stop: StopStrings
    skip_special_tokens: bool = True
    hidden_tokens: frozenset[int] | None = None
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)
    pieces: deque[Piece] = field(default_factory=deque)
    hypotheses: list[tuple[str, Hypothesis]] = field(default_factory=list)  # by a beam search, the best first

    @property
    def finish_reason(self) -> FinishReason | None:
        """None while running."""
        return self.sequence.finish_reason

    @property
    def error(self) -> BaseException | None:
        """What went wrong, if it ended with "error"."""
        return self.sequence.error

    def raise_error(self) -> None:
        """Raise what went wrong, if anything did."""
        if self.error is not None:
            raise self.error

    def result(self) -> Generation:
        """The answer so far, or whole if the request has finished."""
        s = self.sequence
        now = s.finished or time.perf_counter()
        started, first = s.started or now, s.first_token or now
        timings = Timings(started - s.submitted, first - started, now - first, s.reused_tokens)
        logprobs = None if s.sampler.settings.logprobs is None else list(self.logprobs)
        reason = s.finish_reason or "cancelled"
        whole = Generation(
            self.text,
            list(self.tokens),
            reason,
            s.memory.length if s.memory else s.prompt_tokens,
            timings,
            logprobs,
            guessed_tokens=s.guessed,
            accepted_tokens=s.accepted,
        )
        if not self.hypotheses:
            return whole
        best, *others = [
            replace(
                whole,
                text=text,
                tokens=list(hypothesis.tokens),
                score=hypothesis.score,
                finish_reason="stop" if hypothesis.tokens[-1] in s.stop_tokens else "length",
            )
            for text, hypothesis in self.hypotheses
        ]
        return replace(best, alternatives=others)


class Session:
    """Requests running together. Not thread-safe: one caller adds, cancels and steps, in any order between steps.

    request = session.add(tokens, max_new_tokens=64)
    while session.busy:
        for piece in session.step():
            print(piece.text, end="")
    """

    def __init__(
        self,
        scheduler: Scheduler,
        tokenizer: Any,
        stop_tokens: frozenset[int],
        vocabulary: int,
        usual: GenerateOptions,
        adapters: Sequence[str] = (),
    ) -> None:
        """`usual` are options of every request that does not say otherwise; `adapters` names by their numbers."""
        self.scheduler, self._tokenizer, self._stop_tokens = scheduler, tokenizer, stop_tokens
        self._vocabulary, self._usual, self._adapters = vocabulary, usual, adapters
        self._requests: dict[Running, Request] = {}

    @property
    def busy(self) -> bool:
        """Whether any request is unfinished."""
        return self.scheduler.busy

    def add(
        self, prompt: Sequence[int], memory: EncodedInput | None = None, **options: Unpack[GenerateOptions]
    ) -> Request:
        """Queue a prompt of token ids. With a model that has an encoder it is the beginning of the answer (at least the
        token that starts decoding), and `memory` is what to answer; requests may share one.

        Raises CutworkError if it is empty or does not fit the context, or for an option unknown or out of range.
        """
        check_options(options, GenerateOptions)
        more = options.get("suppress_tokens")
        options = self._usual | options
        if more:  # beside what the model itself forbids; none at all lifts that
            options["suppress_tokens"] = [*self._usual.get("suppress_tokens", ()), *more]
        sampling, beams = settings_of(options)
        stop = list(a_list(options.get("stop", ())))
        if stop and self._tokenizer is None:
            raise CutworkError("stop strings need a tokenizer, and this model has none; use token ids only")
        for name in ("logit_bias", "stop_token_ids"):
            if any(not 0 <= token < self._vocabulary for token in options.get(name) or ()):  # type: ignore[attr-defined]
                raise CutworkError(f"{name} must hold token ids, which are below {self._vocabulary}")
        ends: frozenset[int] = frozenset() if options.get("ignore_eos", False) else self._stop_tokens
        sequence = self.scheduler.add(
            prompt,
            max_new_tokens=options.get("max_new_tokens", 128),
            sampling=sampling,
            stop_tokens=ends.union(options.get("stop_token_ids", ())),
            priority=options.get("priority", 0),
            client=options.get("client", ""),
            cache_salt=options.get("cache_salt", ""),
            beams=beams,
            memory=memory,
            adapter=number_of(self._adapters, options.get("adapter") or self._usual.get("adapter")),
        )
        skip = bool(options.get("skip_special_tokens", True))
        hidden = options.get("hidden_tokens")
        strings = StopStrings(stop, options.get("keep_stop", False))
        request = Request(sequence, Detokenizer(self._tokenizer, prompt, skip, hidden), strings, skip, hidden)
        self._requests[sequence] = request
        return request

    def cancel(self, request: Request) -> None:
        """End a request now and free its memory; does nothing if it has finished."""
        self.scheduler.finish(request.sequence, "cancelled")
        self._requests.pop(request.sequence, None)

    def step(self) -> list[Piece]:
        """One forward pass; at most one piece per running request, also appended to its `pieces`.

        A beam search gives one piece, at its end, with the text of its best hypothesis.
        """
        try:
            return self._tell(self.scheduler.step())
        except BaseException:  # of one request, or of all: what was chosen before is told all the same
            self._tell(self.scheduler.take())
            raise

    def _tell(self, chosen_now: list[Chosen]) -> list[Piece]:
        """The pieces that the choices of a step make."""
        pieces = []
        for chosen in chosen_now:
            request = self._requests.get(chosen.sequence)
            if request is None:  # ended by a stop string before the last of its tokens in this step
                continue
            try:
                piece = self._piece(request, chosen)
            except Exception as error:  # of this request's text: nobody else's
                self.scheduler.finish(chosen.sequence, "error")
                chosen.sequence.finish_reason, chosen.sequence.error = "error", error
                piece = Piece(request, NO_TOKEN, "", None, "error")
            if piece.finish_reason is not None:
                del self._requests[chosen.sequence]
            pieces.append(piece)
            request.pieces.append(piece)
        return pieces

    def _piece(self, request: Request, chosen: Chosen) -> Piece:
        """What a step's choice means for its request."""
        if chosen.finish_reason == "error":
            return Piece(request, NO_TOKEN, "", None, "error")
        if chosen.sequence.search is not None:
            return self._end_search(request, chosen)
        text = self._text(request, chosen.token, chosen.finish_reason)
        request.text += text
        request.tokens.append(chosen.token)
        if chosen.logprob is not None:
            request.logprobs.append(chosen.logprob)
        if request.stop.stopped:
            self.scheduler.finish(chosen.sequence, "stop")
            chosen.sequence.finish_reason = "stop"  # also where the last allowed token completed a stop string
        reason: FinishReason | None = "stop" if request.stop.stopped else chosen.finish_reason
        return Piece(request, chosen.token, text, chosen.logprob, reason)

    def _end_search(self, request: Request, chosen: Chosen) -> Piece:
        """The end of a beam search."""
        prompt = chosen.sequence.tokens[: chosen.sequence.prompt_tokens]
        assert chosen.sequence.search is not None
        for hypothesis in chosen.sequence.search.best():
            detokenizer = Detokenizer(self._tokenizer, prompt, request.skip_special_tokens, request.hidden_tokens)
            shown = [token for token in hypothesis.tokens if token not in chosen.sequence.stop_tokens]
            text = "".join([detokenizer.push(token) for token in shown]) + detokenizer.flush()
            request.hypotheses.append((text, hypothesis))
        request.text, best = request.hypotheses[0]
        request.tokens = list(best.tokens)
        return Piece(request, chosen.token, request.text, None, request.finish_reason)

    def _text(self, request: Request, token: int, finish_reason: FinishReason | None) -> str:
        """What may be shown after this token; everything that is left once the sequence has ended."""
        ended_by_token = finish_reason == "stop"
        text = request.stop.push("" if ended_by_token else request.detokenizer.push(token))
        if finish_reason is not None:
            text += request.stop.push(request.detokenizer.flush()) + request.stop.flush()
        return text
