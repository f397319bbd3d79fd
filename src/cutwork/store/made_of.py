"""What files in a folder were made of, so that a call takes for its own only what it would make again."""

from collections.abc import Iterable
from pathlib import Path

from cutwork.errors import CutworkError
from cutwork.store.fingerprint import digest
from cutwork.store.json_file import read_json, write_json


class MadeOf:
    """By a file's name a hash of what it was made of, in `.cutwork` beside it, which is no `*.json`."""

    def __init__(self, folder: Path) -> None:
        """Raises CutworkError if there is something else of that name."""
        self._path = folder / ".cutwork"
        self._known = read_json(self._path) if self._path.is_file() else {}

    def refuse_other(self, file: Path, key: object, what: str) -> None:
        """Raise CutworkError if a file is there that is known to be made of something else than `key`, anything JSON
        can hold, says."""
        wanted = digest(key)
        of_stem = self._known.get(file.stem, wanted)  # as was kept before, for files of all endings together
        if file.is_file() and self._known.get(file.name, of_stem) != wanted:
            raise CutworkError(f"{file} was not made of this {what}; give another directory, or --overwrite")

    def note(self, files: Iterable[Path], key: object) -> None:
        """Keep what files are made of, before the first of them is written."""
        known = self._known | {file.name: digest(key) for file in files}
        if known != self._known:
            self._known = known
            write_json(self._path, known)
