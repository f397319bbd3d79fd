"""What 75% zeros bring on each kind of processor, in one table of a few lines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.isa.cells import AVX2, CUTWORK, DTYPES, NATIVE, Cell
from benchmarks.isa.targets import Cells, cells_of, in_small_pages, ratios

_WHERE = {"75%": "anywhere", "4:16": "4:16"}
FILES = ("isa_zen4", "isa_zen5", "isa_avx512", "isa", "isa_amx")  # in the order in which `table` takes them
_ZEROS = {f"{dtype} {zeros}": f"{dtype}, {where}" for dtype in DTYPES for zeros, where in _WHERE.items()}

_BRIEF = ("int8 75%", "int8 4:16", "int4 4:16")


@dataclass(frozen=True)
class _Machine:
    """Ours with an instruction set, and peers built for `built`, on which results; not both need be of one."""

    name: str
    isa: str
    built: str
    ours: str
    peers: str


_MACHINES = (
    _Machine("Zen 4", "avx512", NATIVE, "isa_zen4", "isa_zen4"),
    _Machine("Zen 5", "avx512", NATIVE, "isa_zen5", "isa_avx512"),
    _Machine("Xeon with AMX", "amx", NATIVE, "isa_amx", "isa_amx"),
    _Machine("Zen 4, AVX2 alone", AVX2, AVX2, "isa_zen4", "isa_zen4"),
    _Machine("Zen 5, AVX2 alone", AVX2, AVX2, "isa_zen5", "isa"),
)


def table(*results: dict[str, Any]) -> str:
    """Decode on one thread: over ours without zeros, and over the fastest 4 bits of llama.cpp and ik_llama.cpp."""
    found = {name: cells_of(result) for name, result in zip(FILES, results, strict=True)}
    lines = [
        "| one core | 75% zeros | over our dense int8 | over our dense int4 | over the fastest 4-bit peer | which is |",
        "|---|---|--:|--:|--:|---|",
    ]
    for machine in _MACHINES:
        for weights, said in _ZEROS.items():
            lines.append(f"| {' | '.join(_row(machine, weights, said, found))} |")
    return "\n".join(lines)


def brief(*results: dict[str, Any]) -> str:
    """The same of two kinds of files, one line a machine, without our dense int8."""
    found = {name: cells_of(result) for name, result in zip(FILES, results, strict=True)}
    heads = [f"{_ZEROS[weights]}: over our dense int4 | over that peer" for weights in _BRIEF]
    lines = [f"| one core | fastest 4-bit peer | {' | '.join(heads)} |", "|---|---|" + "--:|" * 2 * len(heads)]
    for machine in _MACHINES:
        rows = [_row(machine, weights, "", found) for weights in _BRIEF]
        lines.append(f"| {machine.name} | {rows[0][-1]} | {' | '.join(cell for row in rows for cell in row[3:5])} |")
    return "\n".join(lines)


def _row(machine: _Machine, weights: str, said: str, found: Mapping[str, Cells]) -> list[str]:
    ours, cells = Cell(CUTWORK, machine.isa, weights, 1), found[machine.ours]
    dense = [Cell(CUTWORK, machine.isa, f"{dtype} dense", 1) for dtype in DTYPES]
    over = [_told(ratios(cells, ours, each, "decode")) for each in dense]
    beside = found[machine.peers]
    peer = _fastest(beside, machine.built)
    earlier = "†" * (machine.peers != machine.ours)
    theirs = _told(ratios(beside, ours, peer, "decode")) + earlier if ours in beside else "–"
    return [machine.name, said, *over, theirs, f"{peer.engine} {peer.weights}"]


def _fastest(cells: Cells, built: str) -> Cell:
    """Of the peers' 4 bits, on one thread."""
    fit = [
        cell
        for cell, row in cells.items()
        if cell.engine != CUTWORK and (cell.isa, cell.threads) == (built, 1) and cell.weights.startswith("Q4")
        if not in_small_pages(cell, row)
    ]
    return max(fit, key=lambda cell: median(run["decode"] for run in cells[cell]["runs"]))


def _told(found: Sequence[float]) -> str:
    extremes = f" ({min(found):.2f}–{max(found):.2f})" if len(found) > 1 else " (once)"
    return f"{median(found):.2f}{extremes}"
