"""`cutwork demo` on a run that was put together from tiny models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutwork.engine.decoding.scheduler import Scheduler
from cutwork.pack.pack import pack
from cutwork.store.examples import FILE, write_examples
from cutwork.store.json_file import write_json
from tests.cli.test_commands import cutwork  # noqa: F401  # a fixture
from tests.tiny_checkpoint import write_tiny_checkpoint

ROW = {"sparsity": 0.0, "accuracy": 0.5, "perplexity": 3.0, "disk_bytes": 1, "memory_bytes": 2_000_000}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("demo")
    checkpoint = write_tiny_checkpoint(directory / "checkpoint")
    for name in ("dense-int8", "sparse-int8"):
        pack(checkpoint, directory / "packed" / name)
        write_examples(directory / "packed" / name, ["two and two?"])
    variants = [{"name": "dense-int8", **ROW}, {"name": "sparse-int8", **ROW, "sparsity": 0.75}]
    machine = {"cpu": "a processor", "isa": "avx2", "threads": 1}
    write_json(directory / "results.json", {"recipe": "tiny", "task": "sums", "machine": machine, "variants": variants})
    return directory


def test_both_answer_and_are_compared(cutwork: Any, run: Path) -> None:  # noqa: F811
    status, out, err = cutwork("demo", run, "-n", 6)
    assert (status, err) == (0, "")
    for expected in ("two and two?", "dense-int8", "sparse-int8", "75% zeros", "50.0%"):
        assert expected in out


def test_json(cutwork: Any, run: Path) -> None:  # noqa: F811
    status, out, _ = cutwork("demo", run, "-n", 6, "-q", "abc", "--json")
    found = json.loads(out)
    assert status == 0 and found["question"] == "abc"
    left, right = found["answers"]
    assert left["text"] == right["text"]  # the same weights
    assert (left["zeros"], right["zeros"]) == (0.0, 0.75)
    assert all(answer["tokens_per_second"] > 0 and answer["first_token_seconds"] > 0 for answer in found["answers"])


def test_an_answer_that_failed_is_none(cutwork: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    execute = Scheduler._run
    asked: list[int] = []

    def damaged(scheduler: Scheduler, batch: Any) -> Any:
        asked.append(len(batch))
        rows = execute(scheduler, batch)
        return rows if len(asked) <= 2 else rows * np.float32(np.nan)  # after the steps that warm up

    monkeypatch.setattr(Scheduler, "_run", damaged)
    status, out, err = cutwork("demo", run, "-n", 6, "--json")
    assert (status, out) == (1, "") and "not finite" in err and "Traceback" not in err


def test_what_is_missing_is_named(cutwork: Any, run: Path, tmp_path: Path) -> None:  # noqa: F811
    status, out, err = cutwork("demo", tmp_path / "nothing")
    assert (status, out) == (1, "") and "make demo" in err and "Traceback" not in err
    status, _, err = cutwork("demo", run, "--sparse", "sparse-int4")
    assert status == 1 and "no packed model 'sparse-int4'; it has dense-int8, sparse-int8" in err
    (run / "packed" / "sparse-int8" / FILE).unlink()
    status, _, err = cutwork("demo", run)
    assert status == 1 and "--question" in err
    (run / "packed" / "sparse-int8").rename(run / "packed" / "elsewhere")
    status, _, err = cutwork("demo", run)
    assert status == 1 and err.endswith("no packed model 'sparse-int8'; it has dense-int8\n")
