"""Whether something is still what it was: short hashes of values and of the models in directories."""

import hashlib
import json
from pathlib import Path


def digest(value: object, digits: int = 16) -> str:
    """A hash of anything JSON can hold, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:digits]


def fingerprint(path: Path, *, reports: bool = True) -> str:
    """A hash of the contents of a model directory's files, and of the folders that sentence-transformers numbers: the
    same model fetched again is still the same. Without `reports`, which have the seconds it took, made again, too."""
    whole = hashlib.sha256()
    for file in sorted(file for pattern in ("*", "[0-9]*_*/*") for file in path.glob(pattern) if file.is_file()):
        if file.name.startswith(".") or file.suffix == ".md" or (not reports and file.match("*-report.json")):
            continue  # cards and what systems leave are no part of a model
        with file.open("rb") as source:
            whole.update(
                f"{file.relative_to(path).as_posix()} {hashlib.file_digest(source, 'sha256').hexdigest()}\n".encode()
            )
    return whole.hexdigest()[:16]
