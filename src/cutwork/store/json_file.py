"""JSON files that are objects."""

import json
from pathlib import Path
from typing import Any

from cutwork.errors import CutworkError


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, or CutworkError."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CutworkError(f"{path} is missing; the model directory is incomplete") from None
    except (ValueError, RecursionError) as error:
        raise CutworkError(f"{path} is not valid JSON ({error}); get the file again") from None
    if not isinstance(data, dict):
        raise CutworkError(f"{path} must hold a JSON object")
    return data
