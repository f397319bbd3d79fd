"""What stages left that are made anew, with their unfinished work: aside until the new one is there, for other settings
may be refused, or taken back."""

import shutil
from pathlib import Path

from cutwork.store.output import work_of


def set_aside(output: Path) -> None:
    """Rename what a stage left; it is removed where something is aside already, of which alone the key is known."""
    taken = is_aside(output)
    for path in (output, work_of(output)):
        if taken:
            discard(path)
        elif path.exists():
            path.rename(_aside(path))


def is_aside(output: Path) -> bool:
    """Whether something of a stage is aside."""
    return any(_aside(path).exists() for path in (output, work_of(output)))


def put_back(output: Path) -> None:
    """Rename what is aside to where it was, in place of what lies there."""
    for path in (output, work_of(output)):
        discard(path)
        if _aside(path).exists():
            _aside(path).rename(path)


def forget(output: Path) -> None:
    """Remove what is aside."""
    for path in (output, work_of(output)):
        discard(_aside(path))


def discard(path: Path) -> None:
    """Remove an output, if there is one, so that a half-removed one is never taken for a whole."""
    if path.exists():
        stale = _stale(path)
        _remove(stale)
        path.rename(stale)
        _remove(stale)


def forget_discarded(output: Path) -> None:
    """Remove what a process killed while discarding left."""
    for path in (output, work_of(output)):
        for each in (path, _aside(path)):
            _remove(_stale(each))


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.former")


def _stale(path: Path) -> Path:
    return path.with_name(f".{path.name.lstrip('.')}.stale")


def _remove(path: Path) -> None:
    if path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
