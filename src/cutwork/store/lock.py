"""One process at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cutwork.errors import CutworkError
from cutwork.store.system import POSIX, flock


@contextmanager
def only_process(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock file `path` while the block runs, and remove it then; the lock itself dies with its process.

    Raises CutworkError with the sentence `refusal` if another process holds it, in whatever container it runs.
    """
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.open("a")
        except OSError as error:
            raise CutworkError(f"cannot write to {path.parent}: {(error.strerror or str(error)).lower()}") from None
        try:
            flock(lock.fileno())
        except BlockingIOError:
            lock.close()
            raise CutworkError(refusal) from None
        except OSError:
            pass  # a file system without locks
        if path.exists() and os.path.samestat(path.stat(), os.fstat(lock.fileno())):
            break
        lock.close()  # of a process that has just ended
    try:
        yield
    finally:
        if not POSIX:
            lock.close()  # what is open cannot be removed
        path.unlink(missing_ok=True)
        lock.close()
