from benchmarks.evidence.cells import Cell
from benchmarks.evidence.designs import LOSSES


def test_cells_are_told_apart() -> None:
    cells = [Cell(loss, level, 0, 1e-4, steps) for loss in LOSSES for level in (0.75, 0.6) for steps in (100, 200)]
    assert len({cell.name for cell in cells}) == len(cells)


def test_a_cell_is_named_by_its_pattern_unless_it_is_the_recipes() -> None:
    assert Cell("CE", 0.75, 0, 4e-4, 83).name == "ce-75-rate0.0004-steps83-seed0"
    assert Cell("CE", 0.75, 0, 4e-4, 83, "2:8").name == "ce-75-2of8-rate0.0004-steps83-seed0"
