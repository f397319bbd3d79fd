"""An end to work of which nobody knows how long it takes: programs in Python that came with a model."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TimeIsOver(BaseException):
    """The time of a block is over; no `except Exception` of the work itself catches it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeIsOver in this thread, wherever it is, if the block takes longer.

    It comes between two instructions of Python: a single long call of C is waited for.
    """
    thread, lock, over = threading.get_ident(), threading.Lock(), False

    def interrupt() -> None:
        with lock:
            if not over:
                _raise_in(thread, TimeIsOver)

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over = True
        timer.cancel()
        _raise_in(thread, None)  # what has been sent and has not come yet must not come later


def _raise_in(thread: int, exception: type[BaseException] | None) -> None:
    given = ctypes.py_object(exception) if exception else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), given)
