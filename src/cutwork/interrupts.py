"""Ctrl-C on the command line: KeyboardInterrupt, but never while a module is being imported.

Imports run callbacks and extensions that swallow what is raised in them, or make other errors of it; what is swallowed
may be the release of a lock that every import of every thread waits for.
"""

import signal
import sys
import threading
from collections.abc import Coroutine
from types import FrameType
from typing import Any, NoReturn

_SOON = 0.02  # seconds
_MACHINERY = "<frozen importlib"
_waiting = threading.Event()  # for imports to end


def careful_interrupts() -> None:
    """Handle Ctrl-C so, unless somebody has decided otherwise."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def run_async(main: Coroutine[Any, Any, None]) -> None:
    """`asyncio.run`, which cancels `main` at the first Ctrl-C, as it does where Python's own handler is in place."""
    import asyncio

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is _interrupt
    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        asyncio.run(main)
    finally:
        if ours:
            signal.signal(signal.SIGINT, _interrupt)


def leave() -> NoReturn:
    """End as interrupted programs do."""
    print("\ninterrupted", file=sys.stderr)
    sys.exit(130)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _waiting.is_set():
        return
    while frame and not frame.f_code.co_filename.startswith(_MACHINERY):
        frame = frame.f_back
    if frame is None:
        raise KeyboardInterrupt
    _waiting.set()
    later = threading.Timer(_SOON, _again, [number])
    later.daemon = True
    later.start()


def _again(number: int) -> None:
    """The signal once more, in the main thread, which it wakes where the system can."""
    _waiting.clear()
    if hasattr(signal, "pthread_kill") and (ident := threading.main_thread().ident):
        signal.pthread_kill(ident, number)
    else:
        signal.raise_signal(number)
