"""A session that several threads use: whoever waits for an answer takes the next step for all of them."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from cutwork.engine.decoding.options import GenerateOptions
from cutwork.engine.decoding.requests import Generation, Request, Session
from cutwork.engine.decoding.turn import Turn
from cutwork.engine.encoder import EncodedInput


class SharedSession:
    """Waits for requests of a session, streams and ends them, from any number of threads.

    turn: held while anybody uses the session or what it runs on. check: raises CutworkError for tokens that the model
    does not know.
    """

    def __init__(self, session: Session, turn: Turn, check: Callable[[Sequence[int]], None]) -> None:
        self._session, self._turn, self._check = session, turn, check
        self._unwanted: deque[Request] = deque()

    def add(self, prompts: Sequence[tuple[Sequence[int], EncodedInput | None, GenerateOptions]]) -> list[Request]:
        """Queue all prompts, each with its memory and options, or, if one of them is refused, none."""
        requests: list[Request] = []
        with self._turn:
            try:
                for tokens, memory, options in prompts:
                    self._check(tokens)
                    requests.append(self._session.add(tokens, memory, **options))
                    settings = requests[-1].sequence.sampler.settings
                    self._check([*settings.logit_bias, *settings.named_tokens()])
            except BaseException:
                for request in requests:
                    self._session.cancel(request)
                raise
        return requests

    def wait(self, request: Request, check: Callable[[], None] | None = None) -> Generation:
        """The whole answer, or what went wrong with it. check: called before every step; what it raises ends the
        waiting, not the request."""
        while request.finish_reason is None:
            if check:
                check()
            request.pieces.clear()
            self._advance(request)
        _raise_error(request)
        return request.result()

    def wait_for_all(self, requests: Sequence[Request], check: Callable[[], None] | None = None) -> list[Generation]:
        """The whole answers, in order; if one of them cannot be had, the others end too."""
        try:
            return [self.wait(request, check) for request in requests]
        finally:
            self.cancel(requests)

    def stream(self, request: Request) -> Iterator[str]:
        """Pieces of text as they come, after an empty one; the request ends when the iterator does."""
        try:
            yield ""
            while request.pieces or request.finish_reason is None:
                while request.pieces:
                    text = request.pieces.popleft().text
                    if text:
                        yield text
                self._advance(request)
            _raise_error(request)
        finally:
            self.cancel([request])

    def cancel(self, requests: Sequence[Request]) -> None:
        """End requests, at the latest before the next step: a stream can be dropped anywhere, even in the middle of
        somebody's turn, so this must not wait for it."""
        self._unwanted.extend(requests)
        if self._turn.take():
            try:
                self._sweep()
            finally:
                self._turn.give_back()

    def _advance(self, request: Request) -> None:
        """Take a step for everybody, unless another thread's step has just brought what this request waits for."""
        with self._turn:
            self._sweep()
            if not request.pieces and request.finish_reason is None:
                self._session.step()

    def _sweep(self) -> None:
        while self._unwanted:
            self._session.cancel(self._unwanted.popleft())


def _raise_error(request: Request) -> None:
    if request.error is not None:
        raise request.error
