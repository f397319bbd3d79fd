"""A session that several threads use: whoever waits for an answer takes the next step for all of them."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from cutwork.engine.decoding.options import GenerateOptions
from cutwork.engine.decoding.requests import Generation, Request, Session
from cutwork.engine.decoding.step_lock import StepLock
from cutwork.engine.encoder import EncodedInput
from cutwork.errors import CutworkError

_PAUSE = 0.005  # seconds until it is looked again whether others have given their blocks back

Prompt = tuple[Sequence[int], EncodedInput | None, GenerateOptions]
"""Token ids, the encoded input that they answer, and how."""


class SharedSession:
    """Waits for requests of a session, streams and ends them, from any number of threads.

    turn: held while anybody uses the session or what it runs on. check: raises CutworkError for tokens that the model
    does not know. for_ever: whether blocks that others hold can only come back from the thread that asks.
    """

    def __init__(
        self,
        session: Session,
        turn: StepLock,
        check: Callable[[Sequence[int]], None],
        for_ever: Callable[[], bool],
    ) -> None:
        self._session, self._turn, self._check, self._for_ever = session, turn, check, for_ever
        self._unwanted: deque[Request] = deque()

    def answers(self, prompts: Sequence[Prompt], check: Callable[[], None] | None = None) -> list[Generation]:
        """The whole answers to all prompts, in order; if one of them cannot be had, the others end too.

        check: called before every step; what it raises ends them all.
        """
        requests: list[Request] = []
        try:
            self._add(prompts, requests)
            return [self._wait(request, check) for request in requests]
        finally:
            self._cancel(requests)

    def stream(self, prompt: Prompt) -> Iterator[str]:
        """Pieces of text as they come, after an empty one; the request ends when the iterator does."""
        requests: list[Request] = []
        try:
            self._add([prompt], requests)
            yield ""
            (request,) = requests
            while self._advance(request):
                while request.pieces:
                    text = request.pieces.popleft().text
                    if text:
                        yield text
            request.raise_error()
        finally:
            self._cancel(requests)

    def _add(self, prompts: Sequence[Prompt], requests: list[Request]) -> None:
        """Queue all prompts, or raise if one of them is refused.

        requests: what has been queued, in the caller's own list: an interrupt that the turn kept back is raised as it
        ends, when nothing could be returned any more, and what nobody knows of would be computed for nobody.
        """
        with self._turn:
            for tokens, memory, options in prompts:
                self._check(tokens)
                requests.append(self._session.add(tokens, memory, **options))
                settings = requests[-1].sequence.sampler.settings
                biased = [token for ids, _ in settings.sequence_bias for token in ids]
                self._check([*settings.logit_bias, *biased, *settings.named_tokens()])

    def _wait(self, request: Request, check: Callable[[], None] | None) -> Generation:
        goes_on = True
        while goes_on:
            if check:
                check()
            request.pieces.clear()
            goes_on = self._advance(request)
        request.raise_error()
        return request.result()

    def _cancel(self, requests: Sequence[Request]) -> None:
        """End requests, at the latest before the next step: a stream can be dropped anywhere, even in the middle of
        somebody's turn, so this must not wait for it."""
        self._unwanted.extend(requests)
        if self._turn.take():
            try:
                self._sweep()
            finally:
                self._turn.give_back()

    def _advance(self, request: Request) -> bool:
        """Take a step for everybody, unless another thread's step has just brought what this request waits for.

        Returns whether it goes on or has left pieces: asked within the turn, for a step ends a request before it tells
        its last piece.
        """
        waits = False
        with self._turn:
            self._sweep()
            if not request.pieces and request.finish_reason is None:
                waits = not self._session.step() and not self._session.scheduler.running
            goes_on = bool(request.pieces) or request.finish_reason is None
        if waits and goes_on:  # for blocks that log-probabilities hold, not other answers
            if self._for_ever():
                raise CutworkError(
                    "the KV cache is held by token_logprobs that this thread has not read to the end; read them first"
                )
            time.sleep(_PAUSE)
        return goes_on

    def _sweep(self) -> None:
        while self._unwanted:
            self._session.cancel(self._unwanted.popleft())
