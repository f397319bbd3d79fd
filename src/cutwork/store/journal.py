"""What unfinished work has done so far, so that the same call goes on where it was interrupted."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cutwork.errors import CutworkError
from cutwork.store.atomic import write_atomically
from cutwork.store.fingerprint import digest


class Journal:
    """Entries, anything JSON can hold, one a line in `.NAME.partial` beside an output of that name.

    Entries are appended whole; a line that a crash cut off is dropped when the journal is read again.
    """

    def __init__(self, output: Path, key: object = None) -> None:
        """`key`, anything JSON can hold, tells one work from another with the same output: its first line."""
        self.path = output.with_name(f".{output.name}.partial")
        self._output = output
        self._head = b"" if key is None else _line(digest(key))

    def read(self) -> list[Any]:
        """The entries of an interrupted call with the same key; those of another are thrown away.

        Raises CutworkError if nothing can be written there.
        """
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
            lines = content.removeprefix(self._head).split(b"\n")[:-1] if content.startswith(self._head) else []
            entries = list(_whole(lines))
            write_atomically(self.path, self._head + b"".join(map(_line, entries)))
        except OSError as error:
            raise CutworkError(f"cannot write beside {self._output}: {error.strerror}") from None
        return entries

    def add(self, *entries: Any) -> None:
        """Keep more entries."""
        with self.path.open("ab") as file:
            file.write(b"".join(map(_line, entries)))

    def become_output(self) -> None:
        """The entries are the output: one JSON value a line."""
        self.path.replace(self._output)

    def remove(self) -> None:
        """Forget everything, once the output is there."""
        self.path.unlink(missing_ok=True)


def _line(entry: Any) -> bytes:
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"


def _whole(lines: Iterable[bytes]) -> Iterable[Any]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            return
