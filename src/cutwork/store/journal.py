"""What unfinished work has done so far, so that the same call goes on where it was interrupted."""

import json
import os
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from cutwork.errors import CutworkError, reason
from cutwork.store.atomic import disk_full, write_atomically
from cutwork.store.fingerprint import digest
from cutwork.store.system import POSIX, flock


class Journal:
    """Entries, anything JSON can hold, one a line in `.NAME.partial` beside an output of that name: a context manager.

    Entries are appended whole; a line that a crash cut off is dropped when the journal is opened again. One process at
    a time has it: another that opens it waits for the first to end.
    """

    def __init__(self, output: Path, key: object, *, waits: Callable[[], None] | None = None) -> None:
        """`key`, anything JSON can hold, tells one work from another with the same output: its hash is the first line.

        Takes up the `entries` of an interrupted call with the same key; those of another are thrown away. `waits` is
        called if another process has the journal. Raises CutworkError if nothing can be written there, or if the other
        process has written the output meanwhile.
        """
        self.path = _path(output)
        self._output = output
        head = _line(digest(key))
        before = _written(output)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _alone(self.path, waits)
            if _written(output) != before:
                self._file.close()
                self.path.unlink(missing_ok=True)  # it was made anew by waiting for it
                raise CutworkError(
                    f"{output} has been written by another process meanwhile; give another name, or run the same "
                    "command again with --overwrite"
                )
            content = self._file.read()
            self.entries: list[Any] = []
            end = 0
            if content.startswith(head):
                end = len(head)
                for line, entry in _whole(content[end:].split(b"\n")[:-1]):
                    self.entries.append(entry)
                    end += len(line) + 1
            self._file.truncate(end)
            if not end:
                self._append(head)
        except OSError as error:
            raise CutworkError(f"cannot write beside {output}: {reason(error)}") from None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError) if error else nullcontext():  # what could not be written is tried again
            self._file.close()

    def add(self, *entries: Any) -> None:
        """Keep more entries."""
        self._append(b"".join(map(_line, entries)))
        self.entries += entries

    def finish(self, content: str | bytes | None = None) -> None:
        """Write the output, the entries one a line if nothing else is given, and forget them."""
        write_atomically(self._output, b"".join(map(_line, self.entries)) if content is None else content)
        if not POSIX:
            self._file.close()  # what is open cannot be removed
        self.path.unlink(missing_ok=True)

    def _append(self, lines: bytes) -> None:
        try:
            self._file.write(lines)
            self._file.flush()
        except OSError as error:
            if disk_full(error):
                raise CutworkError(
                    f"the disk became full while writing {self._output}; what is done is kept in {self.path}: free "
                    "some space, and the same command goes on"
                ) from None
            raise


def refuse_existing(output: Path, overwrite: bool, source: Path | None = None) -> None:
    """Raise CutworkError if an output is there that must not be replaced, is what is read, or can be no file.

    A journal older than it, of a call that was killed when the output was written and nothing else, is removed.
    """
    if not output.name or output.is_dir():
        raise CutworkError(f"{output} is a directory; name the file to write")
    if source and source.exists() and output.exists() and output.samefile(source):
        raise CutworkError(f"{output} is what is read; give the output another name")
    if overwrite or not output.exists():
        return
    with suppress(OSError):
        journal = _path(output)
        if journal.stat().st_mtime_ns <= output.stat().st_mtime_ns:
            journal.unlink()
    raise CutworkError(f"{output} exists already; give another name, or --overwrite to replace it")


def _written(output: Path) -> tuple[int, int] | None:
    """What tells one writing of an output from the next; None if it is not there."""
    try:
        found = output.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _path(output: Path) -> Path:
    return output.with_name(f".{output.name}.partial")


def _alone(path: Path, waits: Callable[[], None] | None) -> BinaryIO:
    """The file, opened to read and append, and locked until it is closed."""
    while True:
        file = path.open("a+b")
        try:
            flock(file.fileno())
        except BlockingIOError:
            if waits:
                waits()
                waits = None
            flock(file.fileno(), wait=True)
        except OSError:
            pass  # a file system without locks
        file.seek(0)
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            return file
        file.close()  # the one that had it has finished


def _line(entry: Any) -> bytes:
    try:
        return json.dumps(entry, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a character
        return json.dumps(entry).encode() + b"\n"


def _whole(lines: Iterable[bytes]) -> Iterable[tuple[bytes, Any]]:
    """Lines and what they say, up to one that was cut off."""
    for line in lines:
        try:
            yield line, json.loads(line)
        except ValueError:
            return
