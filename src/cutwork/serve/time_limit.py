"""An end to work of which nobody knows how long it takes: programs in Python that came with a model."""

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

# Python drops an exception that comes while it frees something, so it is sent again, so many times a second apart.
_TIMES, _APART = 30, 1.0


class TimeIsOver(BaseException):
    """The time of some work is over; no `except Exception` of the work itself catches it."""


def within(seconds: float, work: Callable[[], Result]) -> Result:
    """What work gives. Raises TimeIsOver in this thread, wherever it is, if that takes longer.

    It comes between two instructions of Python: a single long call of C is waited for.
    """
    thread, lock, ended, over = threading.get_ident(), threading.Lock(), threading.Event(), False

    def interrupt() -> None:
        for wait in (seconds, *[_APART] * _TIMES):
            if ended.wait(wait):
                return
            with lock:
                if not over:
                    _raise_in(thread, TimeIsOver)

    try:
        threading.Thread(target=interrupt, daemon=True).start()  # which may take as long itself
        return work()
    finally:
        over = True  # before anything is called, which is where the exception could come
        ended.set()
        with lock:
            _raise_in(thread, None)  # what has been sent and has not come yet must not come later


def _raise_in(thread: int, exception: type[BaseException] | None) -> None:
    given = ctypes.py_object(exception) if exception else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), given)
