"""A few cells of the zero matrix, in one process; the others are in benchmarks/results/zero_matrix.md."""

from pathlib import Path

import pytest

from benchmarks.zero_matrix import cells, table, write_models


@pytest.mark.parametrize("optimiser", ["AdamW", "Muon"])
def test_no_cell_loses_a_zero(tmp_path: Path, optimiser: str) -> None:
    write_models(tmp_path)
    rows = list(cells("single", [optimiser], [True], [4], tmp_path))
    assert [row["way"] for row in rows] == ["full", "LoRA merge", "RTN", "GPTQ", "QAT"]
    assert [row["lost"] for row in rows] == [0] * len(rows)
    assert rows[0]["zeros"] > 30_000
    assert min(rows[0]["moved"], rows[1]["moved"]) > 0.5
    assert table(rows).splitlines()[2] == f"| single | {optimiser} | yes | 4 | 0 | 0 | 0 | 0 | 0 |"
