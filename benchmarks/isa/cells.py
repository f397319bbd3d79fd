"""What is measured: a model in an engine with an instruction set and a number of threads, what matters most first."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from benchmarks.common.random_llama import DType

ZEROS = ("dense", "50%", "75%", "90%", "8:16", "4:16")  # anywhere, or all but n of every 16 neighbours
DISTURBED = 0.05  # of a processor, taken by others while something was measured
DTYPES: tuple[DType, ...] = ("int8", "int4")
OURS = tuple(f"{dtype} {zeros}" for dtype in DTYPES for zeros in ZEROS)
UNEVEN = ("int8 75% uneven", "int8 90% uneven")  # anywhere, in some rows more than in others, as real masks are
KINDS = ("Q4_0", "Q4_K_M", "Q8_0")  # of ggml
CUTWORK, LLAMA, IK = "cutwork", "llama.cpp", "ik_llama.cpp"
NATIVE, AVX2, AVX512F = "native", "avx2", "avx512f"  # what a peer is built for; native: all that this processor has
BUILDS = ((IK, NATIVE), (LLAMA, NATIVE), (LLAMA, AVX2), (LLAMA, AVX512F))

# What the targets compare comes first: of the best set and of AVX2, and peers.
_FIRST = ("int8 dense", "int8 4:16", "int4 dense", "int4 4:16", "int8 75%", "int4 75%", "int8 90%", "int4 90%")
_FIRST_PEERS = ((IK, NATIVE, "Q4_0"), *((LLAMA, NATIVE, kind) for kind in KINDS))


PATIENCE = 300.0  # seconds that a process may take


class CellError(Exception):
    """A cell could not be measured; the message says why."""


@dataclass(frozen=True)
class Cell:
    """One of them. `isa`: an instruction set of ours, or what a peer is built for."""

    engine: str
    isa: str
    weights: str
    threads: int

    def __str__(self) -> str:
        return f"{self.engine} {self.isa} {self.weights}, {self.threads} thread{'s' * (self.threads > 1)}"


def ours(isas: Sequence[str], weights: Collection[str], threads: Sequence[int]) -> list[Cell]:
    """What is compared with each other stands side by side."""
    return [Cell(CUTWORK, isa, w, n) for n in threads for w in (*OURS, *UNEVEN) if w in weights for isa in isas]


def peers(builds: Collection[tuple[str, str]], threads: Sequence[int]) -> list[Cell]:
    """Of the builds that there are."""
    return [Cell(*build, kind, n) for n in threads for build in BUILDS if build in builds for kind in KINDS]


def groups(
    isas: Sequence[str], weights: Collection[str], builds: Collection[tuple[str, str]], threads: Sequence[int]
) -> tuple[list[Cell], list[Cell]]:
    """Those that the targets need, and the rest. `isas`: the best one first."""
    every = [
        cell
        for n in threads
        for cell in (*ours(isas, weights, [n]), *peers(builds, [n]))
    ]  # fmt: skip
    first = [cell for cell in every if _is_first(cell, isas)]
    return first, [cell for cell in every if cell not in first]


def _is_first(cell: Cell, isas: Sequence[str]) -> bool:
    if cell.engine == CUTWORK:
        return cell.isa in (isas[0], AVX2) and cell.weights in _FIRST
    return (cell.engine, cell.isa, cell.weights) in _FIRST_PEERS
