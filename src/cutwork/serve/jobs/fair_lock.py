"""Whose turn it is to compute: one thread of a server at a time, so that two models do not share the CPUs."""

from collections import deque
from threading import Event, Lock
from types import TracebackType


class FairLock:
    """A lock that goes to who has waited longest, as `threading.Lock` does not: a thread that lets go and asks again
    would mostly be first."""

    def __init__(self) -> None:
        self._lock, self._held = Lock(), False
        self._waiting: deque[Event] = deque()

    def __enter__(self) -> None:
        with self._lock:
            if not self._held:
                self._held = True
                return
            own = Event()
            self._waiting.append(own)
        own.wait()  # whoever lets go hands it over

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._held = False

    def offer(self) -> None:
        """Let those who wait go first; only by whoever has it."""
        if self._waiting:
            self.__exit__()
            self.__enter__()
