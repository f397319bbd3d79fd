"""How many threads run a plan."""

from types import SimpleNamespace

import pytest

from cutwork.engine.backend import choose, threads_for


def backend(cpus: int) -> SimpleNamespace:
    return SimpleNamespace(default_threads=lambda: cpus, Costs=None)


def test_more_threads_than_cpus_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):  # as of a model and its draft
        assert threads_for(backend(41), 97) == 97
    [record] = caplog.records
    assert record.message.startswith("97 threads are slower than 41,") and record.levelname == "WARNING"


def test_of_others_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert [threads_for(backend(41), wanted) for wanted in (0, 1, 41)] == [41, 1, 41]
    assert threads_for(choose("reference"), 97) == 97
    assert not caplog.records
