"""Where a model that is named by a path, by a name of our own or by one of the Hub lies on this disk."""

import re
from pathlib import Path

from cutwork.errors import CutworkError
from cutwork.store import demo_model, hub


def resolve(name_or_path: str | Path) -> Path:
    """The local directory of a model: a path, a name that `demo_model` knows, or a Hub name (downloaded).

    Only weights in safetensors, JSON and tokenizer files are downloaded. Raises CutworkError if there is no such model
    or the Hub cannot be reached.
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    name = str(name_or_path)
    if name in demo_model.NAMES:
        return Path(demo_model.fetch(name))
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name):
        raise CutworkError(f"no model directory at {path}")
    return hub.download(name)
