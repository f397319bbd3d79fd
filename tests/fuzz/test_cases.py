"""A few of the fuzzer's cases, and that a seed is a case."""

from pathlib import Path

import pytest

from cutwork.pack.pack import pack
from tests.pack.models import llama_checkpoint

from .attempt import Outcome, attempt


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bases")
    for name in ("F32-unstructured", "I8-1x4", "I8-adaptive", "I4-unstructured", "I4-4:16"):
        llama_checkpoint(path / name, *name.split("-"))
        pack(path / name, path / f"packed-{name}")
    return path


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_damaged_models_run_or_are_refused(first: int, bases: Path, tmp_path: Path) -> None:
    outcomes = [attempt(bases, seed, tmp_path) for seed in range(first, first + 20)]
    assert not [outcome for outcome in outcomes if outcome.finding]
    assert {outcome.end for outcome in outcomes} == {"ok", "refused"}


def test_only_the_files_that_were_asked_for_are_damaged(bases: Path, tmp_path: Path) -> None:
    files = ".safetensors,cutwork.json"
    outcomes = [attempt(bases, seed, tmp_path, "packed-I8-adaptive,packed-I4-4:16", files) for seed in range(30)]
    assert not [outcome for outcome in outcomes if outcome.finding]
    damaged = {outcome.done.partition(":")[0] for outcome in outcomes}
    assert {outcome.base for outcome in outcomes} == {"packed-I8-adaptive", "packed-I4-4:16"}
    assert all(name == "cutwork.json" or name.endswith(".safetensors") for name in damaged) and len(damaged) > 1


def test_a_seed_is_a_case(bases: Path, tmp_path: Path) -> None:
    def alike(outcome: Outcome) -> tuple[str, str, str]:
        return outcome.end, outcome.base, outcome.done

    assert alike(attempt(bases, 5, tmp_path)) == alike(attempt(bases, 5, tmp_path))
    assert attempt(bases, 5, tmp_path, only="packed-I8-1,none").base == "packed-I8-1x4"
