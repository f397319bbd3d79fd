"""Timing that shares a machine's good and bad moments among all that is compared."""

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)
Measured = TypeVar("Measured")


def interleaved(jobs: Mapping[Name, Callable[[], Measured]], rounds: int) -> dict[Name, list[Measured]]:
    """What each job returned, round by round: every round runs all of them in turn, so that medians can be compared."""
    found: dict[Name, list[Measured]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            found[name].append(job())
    return found
