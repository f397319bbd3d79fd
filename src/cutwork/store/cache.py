"""Where what was downloaded or made once is kept."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """`$CUTWORK_HOME`, or `~/.cache/cutwork` (`$XDG_CACHE_HOME` honoured)."""
    home = os.environ.get("CUTWORK_HOME")
    if home:
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cutwork"
