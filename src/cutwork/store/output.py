"""How the directory that a stage writes appears: whole or not at all, and never over something else."""

import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cutwork.errors import CutworkError
from cutwork.store.atomic import disk_full
from cutwork.store.directory import is_model
from cutwork.store.partial import hold, partial, remove_leftovers, retired_of, sync, sync_entry
from cutwork.store.system import POSIX

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux


@contextmanager
def output_directory(destination: Path, overwrite: bool = False, *, source: Path | None = None) -> Iterator[Path]:
    """A fresh directory to write into that becomes `destination` when the block ends, and vanishes if it raises.

    Only an empty directory is replaced, or with `overwrite` another model directory, but never one that holds
    `source`. Whatever interrupts this, even a loss of power, there is the old directory or the whole new one. What
    killed processes left behind is removed. Raises CutworkError if the destination is taken or its disk is full.
    """
    destination = absolute(destination)
    if source:
        check_apart(destination, source)
    with ExitStack() as stack:
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(destination)
            check_free(destination, overwrite)
            fresh = stack.enter_context(partial(destination, directory=True))
        except OSError as error:
            raise CutworkError(f"cannot write {destination}: {(error.strerror or str(error)).lower()}") from None
        try:
            yield fresh
            check_free(destination, overwrite)
            sync(fresh)
            _replace(destination, fresh, overwrite)
            sync_entry(destination.parent)
        except BaseException as error:
            if disk_full(error):
                raise CutworkError(
                    f"the disk became full while writing {destination}; nothing was kept, free some space and run again"
                ) from None
            raise


def absolute(path: Path) -> Path:
    """A path as users give it, which may be "." or begin with "~", as one that has a name."""
    return Path(os.path.abspath(path.expanduser()))


def work_of(output: Path) -> Path:
    """Where what is unfinished of an output is kept, by whoever makes it."""
    return output.with_name(f"{output.name}.work")


def lock_of(output: Path) -> Path:
    """What is locked while an output is made."""
    return output.with_name(f".{output.name}.lock")


def check_apart(destination: Path, source: Path) -> None:
    """Raise CutworkError if a model to be read would be replaced by what is written."""
    inside = source.resolve()
    # Two names may be of one directory where case, or the form of an accent, tells none apart.
    same = (place.exists() and destination.samefile(place) for place in (inside, *inside.parents))
    if inside.is_relative_to(destination.resolve()) or (destination.exists() and any(same)):
        raise CutworkError(f"{destination} holds the model to read; choose another output directory")


def check_free(destination: Path, overwrite: bool) -> None:
    """Raise CutworkError unless `output_directory` could put something here."""
    if not destination.exists():
        return
    if not destination.is_dir():
        raise CutworkError(f"{destination} is a file; choose another output directory")
    if not any(destination.iterdir()):
        return
    if not overwrite:
        raise CutworkError(f"{destination} already exists; choose another output directory or pass --overwrite")
    if not is_model(destination):
        raise CutworkError(f"{destination} is not a model directory, so it is not replaced; remove it yourself")


def _replace(destination: Path, fresh: Path, overwrite: bool) -> None:
    """Move `fresh` to `destination`; what was there, if it was more than an empty directory, takes its place."""
    try:
        fresh.rename(destination)
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
    check_free(destination, overwrite)  # another process may have been quicker
    if not _exchange(destination, fresh):
        _move_away_and_replace(destination, fresh)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two directories in one step; whether this system can."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if POSIX else None
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _move_away_and_replace(destination: Path, fresh: Path) -> None:
    """The same in two steps: a process killed in between leaves the old directory for the next to restore."""
    retired = retired_of(destination)
    held = hold(destination)
    try:
        destination.rename(retired)
        try:
            fresh.rename(destination)
        except BaseException:
            retired.rename(destination)
            raise
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        if held is not None:
            os.close(held)
