"""What zeros should bring on every instruction set, and what was measured: ratios of runs at equal bandwidth."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.common.shapes import SHAPES
from benchmarks.isa.cells import AVX2, CUTWORK, DISTURBED, DTYPES, IK, LLAMA, NATIVE, Cell
from benchmarks.isa.work import CONTEXT, STEPS, WHAT

PAGES = 0.5  # of a peer's memory must lie in huge pages, as ours does, or the two are not compared
EQUAL = 0.1  # by which the bandwidths before two runs may differ for the runs to be compared as of one round
NOISE = 0.05  # by which a cell may be slower than dense and count as equal
Cells = dict[Cell, dict[str, Any]]


@dataclass(frozen=True)
class Target:
    """`least` by number of threads, of a cell's speed over another's, or over what memory gives."""

    what: str
    isa: str
    weights: str
    over: tuple[str, str, str] | None  # engine, instruction set, weights; None: the memory's bandwidth
    least: dict[int, float]


@dataclass(frozen=True)
class Verdict:
    """A target in numbers; `ratios` is of one round each."""

    work: str
    against: str
    threads: int
    ratios: Sequence[float]
    least: float

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @property
    def met(self) -> bool:
        return self.ratio >= self.least


BEST = ("amx", "avx512")  # the set that a processor prefers of those that targets are set for


def targets(best: str) -> tuple[Target, ...]:
    """What the best set of a processor and AVX2 should reach."""
    return (
        Target("decode", AVX2, "int8 4:16", (CUTWORK, AVX2, "int8 dense"), {1: 2.0, 2: 2.0}),
        Target("decode", AVX2, "int8 75%", (CUTWORK, AVX2, "int8 dense"), {1: 1.5, 2: 1.8}),
        Target("decode", best, "int8 4:16", None, {1: 0.95, 2: 0.95}),
        Target("decode", best, "int8 90%", None, {1: 0.85, 2: 0.85}),
        Target("decode", best, "int4 4:16", (CUTWORK, best, "int4 dense"), {1: 1.7, 2: 1.7}),
        Target("decode", best, "int4 4:16", (IK, NATIVE, "Q4_0"), {1: 1.8, 2: 1.8}),
        Target("decode", best, "int4 4:16", (LLAMA, NATIVE, "Q4_0"), {1: 2.2, 2: 2.2}),
        Target("prefill", best, "int8 4:16", (CUTWORK, best, "int8 dense"), {1: 2.0, 2: 2.0}),
        Target("prefill", AVX2, "int8 4:16", (CUTWORK, AVX2, "int8 dense"), {1: 2.0, 2: 2.0}),
    )


BATCH_16 = 2.5  # of int8 4:16 over the best peer, a batch of 16


def cells_of(result: dict[str, Any]) -> Cells:
    """The results by cell, without runs that were disturbed; `round` is added to those that are left."""
    cells = {}
    for row in result["cells"]:
        runs = [{**run, "round": i} for i, run in enumerate(row["runs"]) if run["others"] <= DISTURBED]
        if runs:
            cells[Cell(**row["cell"])] = {**row, "runs": runs}
    return cells


def best_of(cells: Cells) -> str:
    """Of the instruction sets that were measured."""
    measured = {cell.isa for cell in cells if cell.engine == CUTWORK}
    return next((isa for isa in BEST if isa in measured), BEST[-1])


def in_small_pages(cell: Cell, row: dict[str, Any]) -> bool:
    """Whether a peer was measured without the huge pages that we had."""
    return cell.engine != CUTWORK and min(run["huge_pages"] for run in row["runs"]) < PAGES


def verdicts(result: dict[str, Any]) -> Iterator[Verdict]:
    """Of those that can be judged by what is measured."""
    cells = {cell: row for cell, row in cells_of(result).items() if not in_small_pages(cell, row)}
    for target in targets(best_of(cells)):
        for threads, least in target.least.items():
            cell = Cell(CUTWORK, target.isa, target.weights, threads)
            other = Cell(*target.over, threads) if target.over else None
            if cell not in cells or (other and other not in cells):
                continue
            work = f"{target.isa} {target.weights}: {target.what}"
            if other:
                yield Verdict(work, named(other), threads, ratios(cells, cell, other, target.what), least)
            else:
                yield Verdict(work, "the memory's bandwidth", threads, of_memory(cells[cell], result["layers"]), least)
    for threads in sorted({cell.threads for cell in cells}):
        yield from _batches(cells, threads)
        yield from _worst(cells, threads)


def named(cell: Cell) -> str:
    """A cell as tables call it."""
    return f"{cell.isa} {cell.weights}" if cell.engine == CUTWORK else f"{cell.engine} ({cell.isa}) {cell.weights}"


def ratios(cells: Cells, cell: Cell, other: Cell, what: str) -> list[float]:
    """Of the speeds of the same rounds, or where memory was not equally fast in both runs, at the nearest bandwidth.

    Runs beside which there is none at equal bandwidth count only if there is none beside any.
    """

    def apart(run: dict[str, Any], theirs: dict[str, Any]) -> float:
        return float(abs(theirs["bandwidth"] / run["bandwidth"] - 1))

    def beside(run: dict[str, Any]) -> dict[str, Any]:
        def distance(theirs: dict[str, Any]) -> tuple[bool, float]:
            return not (theirs["round"] == run["round"] and apart(run, theirs) <= EQUAL), apart(run, theirs)

        nearest: dict[str, Any] = min(cells[other]["runs"], key=distance)
        return nearest

    pairs = [(run, beside(run)) for run in cells[cell]["runs"]]
    equal = [pair for pair in pairs if apart(*pair) <= EQUAL]
    return [run[what] / theirs[what] for run, theirs in equal or pairs]


def of_memory(row: dict[str, Any], layers: int) -> list[float]:
    """How much of the bandwidth measured just before decoding took, in each round."""
    cache = SHAPES["1.1b"].cache_bytes(CONTEXT + STEPS // 2) * layers / SHAPES["1.1b"].layers
    return [run["decode"] * (row["bytes_per_token"] + cache) / (run["bandwidth"] * 1e9) for run in row["runs"]]


def _batches(cells: Cells, threads: int) -> Iterator[Verdict]:
    """Against the peer whose batches are fastest."""
    best_set, what = best_of(cells), "batch 16"
    cell = Cell(CUTWORK, best_set, "int8 4:16", threads)
    others = [other for other in cells if other.engine != CUTWORK and other.threads == threads]
    if cell in cells and others:
        best = max(others, key=lambda other: median(run[what] for run in cells[other]["runs"]))
        yield Verdict(
            f"{best_set} {cell.weights}: {what}", named(best), threads, ratios(cells, cell, best, what), BATCH_16
        )


def _worst(cells: Cells, threads: int) -> Iterator[Verdict]:
    """For each set, where zeros gain least over none."""
    isas = dict.fromkeys(cell.isa for cell in cells if cell.engine == CUTWORK)
    for isa in isas:
        found = [
            (median(rates), cell.weights, what, rates)
            for dtype in DTYPES
            if (dense := Cell(CUTWORK, isa, f"{dtype} dense", threads)) in cells
            for cell in cells
            if cell != dense and (cell.engine, cell.isa, cell.threads) == (CUTWORK, isa, threads)
            if cell.weights.startswith(dtype)
            for what in WHAT
            for rates in [ratios(cells, cell, dense, what)]
        ]
        if found:
            _, weights, what, rates = min(found, key=lambda each: each[0])
            work = f"{isa}, no zeros that cost time; the worst: {weights}, {what}"
            yield Verdict(work, f"{weights.split()[0]} dense", threads, rates, 1 - NOISE)
