"""What files in a folder were made of, so that a call takes for its own only what it would make again."""

from pathlib import Path

from cutwork.errors import CutworkError
from cutwork.store.fingerprint import digest
from cutwork.store.json_file import read_json, write_json


class MadeOf:
    """By the files' common name a hash of what they were made of, in `.cutwork` beside them, which is no `*.json`."""

    def __init__(self, folder: Path) -> None:
        """Raises CutworkError if there is something else of that name."""
        self._path = folder / ".cutwork"
        self._known = read_json(self._path) if self._path.is_file() else {}

    def refuse_other(self, name: str, key: object, file: Path, what: str) -> None:
        """Raise CutworkError if a file is there that is known to be made of something else than `key`, anything JSON
        can hold, says."""
        if file.is_file() and self._known.get(name, digest(key)) != digest(key):
            raise CutworkError(f"{file} was not made of this {what}; give another directory, or --overwrite")

    def note(self, name: str, key: object) -> None:
        """Keep what the files of this name were made of, before the first of them is written."""
        if self._known.get(name) != digest(key):
            self._known[name] = digest(key)
            write_json(self._path, self._known)
