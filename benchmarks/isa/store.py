"""The results file: every cell with its runs, written after each of them, so that the same command goes on."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common.results import resume, save
from benchmarks.isa.cells import Cell


@dataclass
class Store:
    """`cells`: what is known of each, with "runs"."""

    path: Path
    layers: int
    cells: dict[Cell, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, layers: int, fresh: bool) -> "Store":
        """What is in the file. Raises SystemExit if that is of another machine, build or depth."""
        found = {} if fresh else resume(path)
        if found and found["layers"] != layers:
            raise SystemExit(f"{path} holds results of {found['layers']} layers: --fresh begins anew")
        cells = {Cell(**row["cell"]): row for row in found.get("cells", [])}
        return cls(path, layers, cells)

    def runs(self, cell: Cell) -> int:
        """How many there are."""
        return len(self.cells.get(cell, {}).get("runs", []))

    def add(self, cell: Cell, about: dict[str, Any], run: dict[str, float]) -> None:
        """One more run, saved at once."""
        row = self.cells.setdefault(cell, {"cell": asdict(cell), "runs": []})
        runs = [*row.pop("runs"), {name: round(value, 3) for name, value in run.items()}]
        row.update(about)
        row["runs"] = runs
        self.save()

    def save(self) -> dict[str, Any]:
        """Write it; returns what was written."""
        content = {"layers": self.layers, "cells": list(self.cells.values())}
        peers = {f"{c.engine} {c.isa}": row["version"] for c, row in self.cells.items() if "version" in row}
        return save(self.path, content, threads=max((c.threads for c in self.cells), default=None), versions=peers)
