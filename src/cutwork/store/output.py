"""How the directory that a stage writes appears: whole or not at all, and never over something else."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cutwork.errors import CutworkError
from cutwork.store.atomic import disk_full
from cutwork.store.directory import is_model


@contextmanager
def output_directory(destination: Path, overwrite: bool = False, *, source: Path | None = None) -> Iterator[Path]:
    """A fresh directory to write into that becomes `destination` when the block ends, and vanishes if it raises.

    Only an empty directory is replaced, or with `overwrite` another model directory, but never one that holds
    `source`. What killed processes left behind is removed. Raises CutworkError if the destination is taken or its
    disk is full.
    """
    destination = Path(os.path.abspath(destination.expanduser()))
    if source and source.resolve().is_relative_to(destination.resolve()):
        raise CutworkError(f"{destination} holds the model to read; choose another output directory")
    partial = destination.with_name(f".{destination.name}.partial-{os.getpid()}")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        _clean_up_after_the_dead(destination)
        _check_free(destination, overwrite)
        partial.mkdir()
    except OSError as error:
        raise CutworkError(f"cannot write {destination}: {(error.strerror or str(error)).lower()}") from None
    try:
        yield partial
        _check_free(destination, overwrite)
        _replace(destination, partial)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if disk_full(error):
            raise CutworkError(
                f"the disk became full while writing {destination}; nothing was kept, free some space and run again"
            ) from None
        raise


def _check_free(destination: Path, overwrite: bool) -> None:
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


def _replace(destination: Path, partial: Path) -> None:
    """Move `partial` to `destination`; a process killed in between leaves the old one for the next to restore."""
    retired = destination.with_name(f".{destination.name}.retired-{os.getpid()}")
    if destination.exists():
        destination.rename(retired)
    try:
        partial.rename(destination)
    except BaseException:
        if retired.exists():
            retired.rename(destination)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def _clean_up_after_the_dead(destination: Path) -> None:
    for leftover in destination.parent.iterdir():
        match = re.fullmatch(rf"\.{re.escape(destination.name)}\.(partial|retired)-(\d+)", leftover.name)
        if match is None or _alive(int(match[2])):
            continue
        if match[1] == "retired" and not destination.exists():
            leftover.rename(destination)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def _alive(process: int) -> bool:
    """Whether another process has this id; our own id on a leftover means that it was used before us."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
