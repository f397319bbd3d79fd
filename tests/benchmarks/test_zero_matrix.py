"""A few cells of the zero matrix, in one process; the others are in benchmarks/results/zero_matrix.json."""

import json
from pathlib import Path

import pytest

from benchmarks.common.results import load
from benchmarks.training import zero_matrix
from benchmarks.training.zero_matrix import WAYS, cells, key, measure_missing, read_cells, table, write_models


@pytest.mark.parametrize("optimiser", ["AdamW", "Muon"])
def test_no_cell_loses_a_zero(tmp_path: Path, optimiser: str) -> None:
    write_models(tmp_path)
    rows = list(cells("single", [optimiser], [True], [4], tmp_path))
    assert [row["way"] for row in rows] == ["full", "LoRA merge", "RTN", "GPTQ", "QAT"]
    assert [row["lost"] for row in rows] == [0] * len(rows)
    assert rows[0]["zeros"] > 30_000
    assert min(rows[0]["moved"], rows[1]["moved"]) > 0.5
    assert table({"cells": rows}).splitlines()[2] == f"| single | {optimiser} |" + " 0 in 1 |" * 5


def test_an_interrupted_matrix_goes_on_without_measuring_a_cell_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measured(world: str, optimisers: list[str], clips: list[bool], accumulations: list[int], work: Path) -> list:
        asked.append((world, optimisers[0], clips[0], accumulations[0]))
        about = {"world": world, "optimiser": optimisers[0], "clip": clips[0], "accumulation": accumulations[0]}
        return [{**about, "way": way, "lost": 0} for way in WAYS]

    monkeypatch.setattr(zero_matrix, "cells", measured)
    measure_missing("single", ["SGD"], tmp_path)
    file = tmp_path / "single.jsonl"
    lines = file.read_text().splitlines()
    assert len(lines) == 4 * len(WAYS) == len({key(json.loads(line)) for line in lines})

    # As if QAT had not been a way yet, and the last combination had been interrupted.
    file.write_text("".join(line + "\n" for line in lines[:-2] if json.loads(line)["way"] != "QAT"))
    asked.clear()
    measure_missing("single", ["SGD"], tmp_path)
    assert len(asked) == 4
    assert sorted(file.read_text().splitlines()) == sorted(lines)

    asked.clear()
    measure_missing("single", ["SGD"], tmp_path)
    assert asked == []
    file.write_text("".join(line + "\n" for line in lines + lines))
    assert len(read_cells(file)) == len(lines)


def test_the_published_matrix_has_every_cell_once() -> None:
    published = load("zero_matrix.json")["cells"]
    assert len(published) == len({key(row) for row in published}) == 20 * 5 + 20 * 4
