"""Whether something is still what it was: short hashes of values and of the models in directories."""

import hashlib
import json
from pathlib import Path

from cutwork.store.foreign import SUFFIXES

_BEGINNING, _BLOCKS, _BLOCK = 1 << 20, 16, 1 << 16  # what is sampled of a file; sizes in bytes
_PATTERNS = ("*", "[0-9]*_*/*", "additional_chat_templates/*")  # sentence-transformers numbers its folders


def digest(value: object, digits: int = 16) -> str:
    """A hash of anything JSON can hold, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:digits]


def sampled(path: Path) -> str:
    """A hash of how a file begins and of blocks from all over it, which is quick where the file is large."""
    whole, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        whole.update(file.read(_BEGINNING))
        for block in range(_BLOCKS + 1):
            file.seek(max(0, size - _BLOCK) * block // _BLOCKS)
            whole.update(file.read(_BLOCK))
    return whole.hexdigest()[:16]


def fingerprint(path: Path, *, reports: bool = True) -> str:
    """A hash of the contents of a model directory's files, and of the folders that belong to a model: the same model
    fetched again is still the same. Without `reports`, which have the seconds it took, made again, too."""
    whole = hashlib.sha256()
    # Others who share a folder may fetch what is not read where there are safetensors.
    foreign = SUFFIXES if any(path.glob("*.safetensors")) else frozenset()
    for file in sorted(file for pattern in _PATTERNS for file in path.glob(pattern) if file.is_file()):
        if file.suffix in foreign:
            continue
        if file.name.startswith(".") or file.suffix == ".md" or (not reports and file.match("*-report.json")):
            continue  # cards and what systems leave are no part of a model
        with file.open("rb") as source:
            whole.update(
                f"{file.relative_to(path).as_posix()} {hashlib.file_digest(source, 'sha256').hexdigest()}\n".encode()
            )
    return whole.hexdigest()[:16]
