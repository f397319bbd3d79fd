"""src/cutwork/_native.pyi is what the module says of itself."""

from pathlib import Path

import pytest

from cutwork import _native

STUB = Path(__file__).parents[2] / "src" / "cutwork" / "_native.pyi"


def test_the_stub_is_that_of_the_module() -> None:
    stubgen = pytest.importorskip("nanobind.stubgen")
    made = stubgen.StubGen(_native)
    made.put(_native)
    assert STUB.read_text() == made.get(), "run `make stub` and commit it"
