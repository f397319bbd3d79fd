"""A few cells of the zero matrix, in one process; the others are in benchmarks/results/zero_matrix.json."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from benchmarks.common.results import load
from benchmarks.training import zero_matrix
from benchmarks.training.zero_matrix import (
    PATTERNS,
    WAYS,
    Training,
    cells,
    key,
    measure_missing,
    read_cells,
    sparse_model,
    table,
    trainings,
    write_models,
)
from cutwork.pack import slots


def test_models_have_their_patterns(tmp_path: Path) -> None:
    write_models(tmp_path)
    found = {}
    for name in PATTERNS:
        weights = load_file(sparse_model(tmp_path, name) / "model.safetensors")
        found[name] = [slots.steps_needed((weight != 0).numpy()) for key, weight in weights.items() if "proj" in key]
    assert all((steps == 1).all() for steps in found["4:16"])
    assert {0, 1, 2, 3} <= set(np.unique(np.concatenate([steps.ravel() for steps in found["adaptive"]])))
    for name in ("4:16", "adaptive"):
        assert all(steps.sum() <= steps.size for steps in found[name])  # four of sixteen, in all


@pytest.mark.parametrize(("pattern", "optimiser"), [("60%", "AdamW"), ("4:16", "Adam"), ("adaptive", "Muon")])
def test_no_cell_loses_a_zero(tmp_path: Path, pattern: str, optimiser: str) -> None:
    write_models(tmp_path)
    rows = list(cells("single", Training(pattern, optimiser, True, 4), tmp_path))
    assert [row["way"] for row in rows] == ["full", "LoRA merge", "RTN", "GPTQ", "QAT"]
    assert [row["lost"] for row in rows] == [0] * len(rows)
    assert rows[0]["zeros"] > 30_000
    assert min(rows[0]["moved"], rows[1]["moved"]) > 0.5
    assert table({"cells": rows}).splitlines()[2] == f"| single | {pattern} | {optimiser} |" + " 0 in 1 |" * 5


def test_an_interrupted_matrix_goes_on_without_measuring_a_cell_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measured(world: str, training: Training, work: Path) -> list:
        asked.append((world, training))
        return [{"world": world, **training._asdict(), "way": way, "lost": 0} for way in WAYS]

    monkeypatch.setattr(zero_matrix, "cells", measured)
    measure_missing("single", ["SGD"], tmp_path)
    file = tmp_path / "single.jsonl"
    lines = file.read_text().splitlines()
    assert len(lines) == len(trainings(["SGD"])) * len(WAYS) == len({key(json.loads(line)) for line in lines})

    # As if QAT had not been a way yet, and the last combination had been interrupted.
    file.write_text("".join(line + "\n" for line in lines[:-2] if json.loads(line)["way"] != "QAT"))
    asked.clear()
    measure_missing("single", ["SGD"], tmp_path)
    assert len(asked) == len(trainings(["SGD"]))
    assert sorted(file.read_text().splitlines()) == sorted(lines)

    asked.clear()
    measure_missing("single", ["SGD"], tmp_path)
    assert asked == []
    file.write_text("".join(line + "\n" for line in lines + lines))
    assert len(read_cells(file)) == len(lines)


def test_the_published_matrix_has_every_cell_once() -> None:
    published = load("zero_matrix.json")["cells"]
    assert len(published) == len({key(row) for row in published}) == 30 * 5 + 30 * 4
