"""What is being written lies beside its destination as `.NAME.partial-TOKEN`, held by its writer, until it is whole.

Held by a lock that dies with the process, in whatever container it runs: so what killed writers left is known.
"""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cutwork.store.system import POSIX, flock


@contextmanager
def partial(destination: Path, *, directory: bool = False) -> Iterator[Path]:
    """A fresh file, or directory, beside `destination` to write into and move there; removed if it still is there when
    the block ends. What killed processes left is removed before. Raises OSError.
    """
    remove_leftovers(destination)
    path, held = _held(destination, directory)
    try:
        yield path
    finally:
        _remove(path)
        if held is not None:
            os.close(held)


def sync(path: Path) -> None:
    """Let a file, or a directory with all that is in it, reach the disk."""
    for inner in path.iterdir() if path.is_dir() and not path.is_symlink() else ():
        sync(inner)
    sync_entry(path)


def sync_entry(path: Path) -> None:
    """Let a file, or the names in a directory, reach the disk, where the system has a way."""
    if not POSIX:
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that knows nothing of this
            raise
    finally:
        os.close(opened)


def hold(path: Path) -> int | None:
    """Lock a file or directory for the process until the returned descriptor is closed; None if another holds it."""
    if not POSIX:
        return None
    opened = os.open(path, os.O_RDONLY)
    try:
        flock(opened)
    except OSError:  # also where a file system has no locks: then whatever lies there may be in use
        os.close(opened)
        return None
    return opened


def retired_of(destination: Path) -> Path:
    """Where to move what is at `destination` while it is replaced, if the two cannot be exchanged in one step."""
    return destination.with_name(f".{destination.name}.retired-{secrets.token_hex(4)}")


def remove_leftovers(destination: Path) -> None:
    """Remove what killed writers of `destination` left; restore what one of them had moved away and not replaced."""
    pattern = re.compile(rf"\.{re.escape(destination.name)}\.(partial|retired)-[0-9a-f]+")
    for leftover in list(destination.parent.iterdir()):
        match = pattern.fullmatch(leftover.name)
        if match is None:
            continue
        try:
            held = hold(leftover)
        except OSError:
            continue  # gone meanwhile, or not ours
        if held is None:
            continue
        try:
            if match[1] == "retired" and not destination.exists():
                leftover.rename(destination)
            else:
                _remove(leftover)
        finally:
            os.close(held)


def _held(destination: Path, directory: bool) -> tuple[Path, int | None]:
    while True:
        path = destination.with_name(f".{destination.name}.partial-{secrets.token_hex(4)}")
        if directory:
            path.mkdir()
        else:
            path.open("xb").close()
        if not POSIX:
            return path, None
        try:
            held = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            flock(held)
        except BlockingIOError:  # another process takes it for a leftover: it was seen before it was held
            os.close(held)
            continue
        except OSError:
            return path, held  # no locks here: then nobody removes what is not held, either
        if path.exists():
            return path, held
        os.close(held)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
