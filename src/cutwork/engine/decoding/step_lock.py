"""Whose turn it is with a model that several threads use, whatever interrupts them."""

import atexit
import os
import signal
import threading
import time
import weakref
from types import TracebackType
from typing import Any

from cutwork.errors import CutworkError

_WAIT = 0.1  # seconds until a thread that waits looks whether it was interrupted
_LEAVING = 10.0  # seconds that the end of the program waits for steps


class StepLock:
    """A lock for the time of a step: a context manager that Ctrl-C cannot leave halfway.

    What a step has begun it finishes, and then the interrupt is raised: else other threads' answers would lose the
    tokens it has chosen. Its own holder is refused instead of waiting for itself for ever, and so is the child of a
    fork that came while another thread had it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: int | None = None
        self._abandoned = False
        self._interrupts: _Interrupts | None = None
        _turns.add(self)

    def __enter__(self) -> None:
        interrupts = _Interrupts()
        try:
            self._check()
            while not self._lock.acquire(timeout=_WAIT):
                interrupts.raise_caught()
        except BaseException:
            interrupts.end()
            raise
        self._holder, self._interrupts = threading.get_ident(), interrupts

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()

    def take(self) -> bool:
        """Take it if nobody has it; whether that was so. `give_back` ends it."""
        interrupts = _Interrupts()
        if self._abandoned or not self._lock.acquire(blocking=False):
            interrupts.end()
            return False
        self._holder, self._interrupts = threading.get_ident(), interrupts
        return True

    def give_back(self) -> None:
        """Let others have it, and what was kept back happen."""
        interrupts, self._interrupts, self._holder = self._interrupts, None, None
        self._lock.release()
        if interrupts:
            interrupts.end()

    def _check(self) -> None:
        if self._holder == threading.get_ident():
            raise CutworkError(
                "a model cannot be used from inside its own step, as by a logits processor; use a second one"
            )
        if self._abandoned:
            raise CutworkError(
                "this process was forked while another thread used the model; load the model in this process"
            )

    def forked(self) -> None:
        """In the child of a fork: whoever had it is not here, and what it did is half done."""
        if self._lock.locked() and self._holder != threading.get_ident():
            self._lock, self._holder, self._abandoned = threading.Lock(), None, True

    def keep(self, until: float) -> None:
        """Take it for good, at the latest at that monotonic time: no step begins any more."""
        if self._holder != threading.get_ident():
            self._lock.acquire(timeout=max(0.0, until - time.monotonic()))


class _Interrupts:
    """Keeps Ctrl-C back in the main thread, the only one that it interrupts, until `end`."""

    def __init__(self) -> None:
        self._caught: tuple[int, Any] | None = None
        self._handler: Any = None
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler):
                self._handler = handler
                signal.signal(signal.SIGINT, self._catch)

    def _catch(self, number: int, frame: Any) -> None:
        self._caught = (number, frame)

    def raise_caught(self) -> None:
        """Let what was kept back do what it does."""
        if self._caught:
            caught, self._caught = self._caught, None
            self._handler(*caught)

    def end(self) -> None:
        """Keep nothing back any longer."""
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self.raise_caught()


_turns: "weakref.WeakSet[StepLock]" = weakref.WeakSet()


def _after_fork() -> None:
    for turn in list(_turns):
        turn.forked()


@atexit.register
def _wait_for_steps() -> None:
    """Python ends a thread that comes back to it while it is leaving by unwinding, which a step's C++ does not outlive.

    The process would abort.
    """
    until = time.monotonic() + _LEAVING
    for turn in list(_turns):
        turn.keep(until)


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_after_fork)
