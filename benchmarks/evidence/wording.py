"""How differences, shares and numbers of seeds are told in tables."""

from collections.abc import Sequence
from typing import Any


def points(found: Sequence[float] | None) -> str:
    """A difference with its interval; nothing where there is none."""
    return "" if found is None else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*found)


def seeds(count: int) -> str:
    """So many seeds."""
    return f"{count} seed{'s' * (count > 1)}"


def shares(rows: Sequence[dict[str, Any]]) -> str:
    """Right answers, row by row."""
    return " / ".join(f"{row['right'] / row['samples']:.1%}" for row in rows)
