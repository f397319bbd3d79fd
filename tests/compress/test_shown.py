"""What the command says of what it made."""

from pathlib import Path
from typing import Any

import pytest

from cutwork.cli.compress import _print_result

LOST = {"points": 1.0, "low": -1.0, "high": 3.0}


def report(goal: dict[str, float], **changed: Any) -> dict[str, Any]:
    """A report of what takes 600 MB and is twice as fast."""
    return {
        "packed": "out/packed",
        "choice": {"zeros": 0.5, "speedup": 2.0},
        "measured": {"nbytes": {"compressed": 6e8}, "speedup": 2.0},
        "for": "decode",
        "validation": LOST,
        "test": LOST,
        "goal": {"within": None, "speedup": None, "nbytes": None, **goal},
        **changed,
    }


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        ({"nbytes": 6e8}, ""),
        ({"nbytes": 5.99e8}, "loaded again its weights take 600.00 MB, more than the 599.00 asked for"),
        ({"speedup": 2.0}, ""),
        ({"speedup": 2.1}, "timed again it is 2.00 times as fast, less than the 2.1 asked for"),
    ],
)
def test_a_goal_that_the_last_measurement_misses_is_told(
    goal: dict[str, float], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _print_result(report(goal), tmp_path)
    told = [line for line in capsys.readouterr().out.splitlines() if "again" in line]
    assert told == ([said] if said else [])
