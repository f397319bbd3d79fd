"""Where what was downloaded or made once is kept, and which models that are."""

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cutwork.store.partial import partial


@dataclass(frozen=True)
class Cached:
    """A model in a cache: its name, commit (the Hub's alone have one), directory, size in bytes, and when it was last
    read."""

    name: str
    revision: str
    path: Path
    size: int
    used: datetime


def cache_directory() -> Path:
    """`$CUTWORK_HOME`, or `~/.cache/cutwork` (`$XDG_CACHE_HOME` honoured)."""
    home = os.environ.get("CUTWORK_HOME")
    if home:
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cutwork"


def made() -> list[Cached]:
    """The models that were made here once: of GGUF files (gguf/NAME), drafts and those known by name, by name."""
    found = (path for path in sorted(cache_directory().glob("*/*")) if not path.name.startswith("."))
    return [_cached(path) for path in found if path.is_dir()]


def remove(name: str) -> int | None:
    """Remove a model that was made here; bytes freed, None if there is none of that name.

    What is asked for it meanwhile finds all of it or nothing.
    """
    model = next((model for model in made() if model.name == name), None)
    if model is None:
        return None
    with partial(model.path, directory=True) as away:
        model.path.rename(away / model.path.name)
    return model.size


def _cached(path: Path) -> Cached:
    files = [file.stat() for file in path.rglob("*") if file.is_file()]
    used = max((file.st_atime for file in files), default=0.0)
    name = path.relative_to(cache_directory()).as_posix()
    return Cached(name, "", path, sum(file.st_size for file in files), datetime.fromtimestamp(used))
