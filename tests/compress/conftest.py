"""A tiny model, its data, what was made of it. It shows nothing of what machines take: once and briefly is enough."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.compress.command import FEW, call
from tests.compress.prices_of_bytes import measure_once, price_by_bytes
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import sums


@pytest.fixture(autouse=True, scope="session")
def short_measurements() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        measure_once(patch.setattr)
        yield


@pytest.fixture(scope="module")
def as_long_as_bytes_take() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        price_by_bytes(patch.setattr)
        yield


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dense model and data."""
    directory = tmp_path_factory.mktemp("given")
    data = directory / "sums.jsonl"
    data.write_text("".join(json.dumps({"prompt": s.prompt, "answer": s.answer}) + "\n" for s in sums(60)))
    return write_tiny_checkpoint(directory / "dense"), data


@pytest.fixture(scope="module")
def finished(
    given: tuple[Path, Path], as_long_as_bytes_take: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """What was made 1.3 times as fast, and the report."""
    output = tmp_path_factory.mktemp("finished") / "out"
    model, data = given
    return output, json.loads(call(model, output, "--data", data, "--speedup", 1.3, *FEW, "--json"))
