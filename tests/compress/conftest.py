"""Tiny models show nothing of what a machine takes: once and briefly is enough."""

from collections.abc import Iterator

import pytest

from cutwork.compress import milliseconds, timing


@pytest.fixture(autouse=True, scope="session")
def short_measurements() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(milliseconds, "_ROUNDS", (1, 1))
        patch.setattr(milliseconds, "_LEAST_SECONDS", 0.0)
        patch.setattr(timing, "_LEAST_SECONDS", 0.0)
        yield
