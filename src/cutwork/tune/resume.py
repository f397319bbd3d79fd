"""Whether a run of fine-tuning is the one that was begun or finished here, and where it goes on."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from cutwork.errors import CutworkError
from cutwork.recipe import TuneSettings
from cutwork.store.fingerprint import fingerprint
from cutwork.store.json_file import read_json, write_json
from cutwork.torch_models.data import Examples
from cutwork.tune.checkpoints import is_complete, last_checkpoint

REPORT = "tune-report.json"  # of a finished run, in its output
_RUN = "run.json"  # of an unfinished one, in its work directory


def identity(
    model: Path,
    teacher: Path | None,
    settings: TuneSettings,
    data: Examples,
    validation: Examples | None,
    prepared: object,
) -> dict[str, Any]:
    """What a resumed or finished run must agree with in all of it. prepared: the key of its preparation, or None."""
    return {
        "model": fingerprint(model, reports=False),
        "teacher": fingerprint(teacher, reports=False) if teacher and settings.losses.needs_teacher else None,
        "data": data.digest(),
        "settings": settings.model_dump(mode="json"),
        **({"validation": validation.digest()} if validation else {}),
        **({"prepared": prepared} if prepared is not None else {}),
    }


def finished(output: Path, run: dict[str, Any]) -> dict[str, Any] | None:
    """The report of this run in its output; None if there is none, CutworkError if it is another run's."""
    if not (output / REPORT).is_file():
        return None
    report = read_json(output / REPORT)
    _check_same(report, run, f"{output} was made", "choose another output, or replace it with --overwrite")
    return report


def check_own(work: Path) -> None:
    """Raise CutworkError for a work directory that `begin` has not made."""
    if work.exists() and not _is_own(work):
        raise CutworkError(f"{work} is not from fine-tuning; move it away or choose another output directory")


def remove(work: Path) -> None:
    """Remove a work directory, unless it is another's; what tells so goes last, for whoever is killed meanwhile."""
    with suppress(OSError):  # another process of the run may be quicker
        if not _is_own(work):
            return
        for entry in work.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != _RUN:
                entry.unlink()
        shutil.rmtree(work, ignore_errors=True)


def begin(work: Path, run: dict[str, Any], bfloat16: bool, sharded: bool) -> None:
    """Note what the run in a work directory is about."""
    write_json(work / _RUN, {"run": run, "bfloat16": bfloat16, "sharded": sharded})


def begun(work: Path, run: dict[str, Any], sharded: bool) -> bool | None:
    """Whether the unfinished run in a work directory uses bfloat16, which is decided once; None if there is none.

    CutworkError if it is another run, or its checkpoints are not such as this one, `sharded` by FSDP or not, reads.
    """
    if not (work / _RUN).is_file():
        return None
    started = read_json(work / _RUN)
    _check_same(started, run, f"{work} holds an unfinished run", f"finish that one, or remove {work}")
    if started.get("sharded", sharded) != sharded:  # of those that were begun before it was noted, nothing is known
        how = "without" if sharded else "with"
        raise CutworkError(f"{work} holds a run that was begun {how} FSDP (--fsdp); go on {how} it, or remove {work}")
    return bool(started.get("bfloat16"))


def resume_from(work: Path, console: Console) -> str | None:
    """The last good checkpoint in a work directory, or None; what was cut off while it was written is removed."""
    good = last_checkpoint(work)
    for directory in work.glob("checkpoint-*"):
        if not is_complete(directory):
            shutil.rmtree(directory, ignore_errors=True)  # by whichever process is first
    if good:
        console.print(f"resuming from {good}")
    return str(good) if good else None


def _is_own(work: Path) -> bool:
    """Whether a directory is a run's, or nothing was noted in it yet."""
    return (work / _RUN).is_file() or (work.is_dir() and all(entry.name[0] == "." for entry in work.iterdir()))


def _check_same(found: dict[str, Any], run: dict[str, Any], what: str, remedy: str) -> None:
    """Raise CutworkError if what was found is of another run."""
    if found.get("run") != run:
        raise CutworkError(f"{what} with another {_difference(found.get('run'), run)}; {remedy}")


def _difference(old: Any, new: dict[str, Any]) -> str:
    """The first key in which two run descriptions differ, with both values."""
    old = old if isinstance(old, dict) else {}
    both = {key: [run.get(key, "unset") for run in (old, new)] for key in {**new, **old}}
    key, (before, now) = next((key, values) for key, values in both.items() if values[0] != values[1])
    if isinstance(before, dict) and isinstance(now, dict):
        return _difference(before, now)
    return f"{key} ({before}, now {now})"
