"""JSON files that are objects, or lists of them."""

import json
from pathlib import Path
from typing import Any

from cutwork.errors import CutworkError
from cutwork.store.atomic import write_atomically


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, or CutworkError."""
    data = _parse(path)
    if not isinstance(data, dict):
        raise CutworkError(f"{path} must hold a JSON object")
    return data


def read_json_list(path: Path) -> list[dict[str, Any]]:
    """The list of JSON objects in a file, or CutworkError."""
    data = _parse(path)
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise CutworkError(f"{path} must hold a list of JSON objects")
    return data


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CutworkError(f"{path} is missing; the model directory is incomplete") from None
    except OSError as error:
        raise CutworkError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, RecursionError) as error:
        raise CutworkError(f"{path} is not valid JSON ({error}); get the file again") from None


def write_json(path: Path, value: object) -> None:
    """Write what JSON can hold, for people and programs to read; an interrupted write leaves the old file."""
    write_atomically(path, json.dumps(value, indent=1) + "\n")
