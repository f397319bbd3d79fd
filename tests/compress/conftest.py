"""Tiny models show nothing of what a machine takes: once and briefly is enough."""

from collections.abc import Iterator

import pytest

from tests.compress.prices_of_bytes import measure_once


@pytest.fixture(autouse=True, scope="session")
def short_measurements() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        measure_once(patch.setattr)
        yield
