"""How fast the engine is beside others and beside itself without zeros."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.claims.line import line
from benchmarks.common.results import RESULTS, load
from benchmarks.evidence import new_numbers
from benchmarks.isa import targets
from benchmarks.isa.cells import Cell
from benchmarks.peers.plan import BANDWIDTH
from benchmarks.peers.store import Store

_GENERATIONS = ("isa_zen4", "isa_zen5")


def decode() -> str:
    cells = targets.cells_of(load("isa_zen4.json"))

    def over(theirs: Cell) -> str:
        return _told(targets.ratios(cells, Cell("cutwork", "avx512", "int8 75%", theirs.threads), theirs, "decode"))

    def times(peer: str, threads: int, weights: str = "Q4_0") -> str:
        return over(Cell(peer, "native", weights, threads))

    return line(f"""
        **Decode**: with 75% zeros anywhere int8 is {times("llama.cpp", 1, "Q4_K_M")} times as fast as llama.cpp's
        Q4_K_M and {times("ik_llama.cpp", 1)} times as fast as ik_llama.cpp's Q4_0 on one core of Zen 4,
        {times("llama.cpp", 2)} and {times("ik_llama.cpp", 2)} times as fast as the Q4_0 of both on two, the fastest of
        their 4 bits, built natively; but {over(Cell("cutwork", "avx512", "int4 dense", 1))} times as fast as our own
        dense int4 on one (*random* weights of a 1.1B shape, huge pages for all, medians and extremes of up to three
        rounds).
    """)


def dense_int4() -> str:
    found = {name: targets.cells_of(load(f"{name}.json")) for name in _GENERATIONS}

    def times(weights: str) -> str:
        over = [
            targets.ratios(cells, *(Cell("cutwork", "avx512", each, 1) for each in (weights, "int4 dense")), "decode")
            for cells in found.values()
        ]
        return " and ".join(map(_told, over))

    return line(f"""
        **What the zeros bring** beyond our own dense int4, on one core of Zen 4 and of Zen 5 (random weights of a 1.1B
        shape): with 75% zeros anywhere int8 decodes {times("int8 75%")} times as fast, int4 {times("int4 75%")} times;
        where 4 of 16 neighbours are kept, int8 {times("int8 4:16")} and int4 {times("int4 4:16")} times. Medians and
        extremes of up to three rounds; Zen 5's are of an earlier build.
    """)


def _told(ratios: Sequence[float]) -> str:
    """A median with its extremes, or that there is one round alone."""
    extremes = f"{min(ratios):.2f} to {max(ratios):.2f}" if len(ratios) > 1 else "one round"
    return f"{median(ratios):.2f} ({extremes})"


def prefill() -> str:
    cells = _cells("peers", 2, "prefill", 512)
    name, best = _best_peer(cells)
    ours = cells["cutwork int8 75%"]
    return line(f"""
        **Prefill** of 512 tokens: {ours:.0f} tok/s in int8 with 75% zeros anywhere, {ours / best:.1f} times the best
        of the others ({name}), on two cores of Zen 4 (random weights of a 1.1B shape; peers had pages of 4 KiB, we
        huge ones).
    """)


def batches() -> str:
    cells = _decodes("peers", 1, batch=16)
    name, best = _best_peer(cells)
    plain, reordered = (cells[f"cutwork int8 75%{how}"] / best for how in ("", " ahead"))
    return line(f"""
        **Batches** of 16 on one core, the same models and pages: {plain:.2f} times the best of the others ({name}),
        {reordered:.1f} times with weights reordered as `serve` and `batch` do (a later build and call, twenty minutes
        after), which makes the sparse model as large in memory as dense int8.
    """)


def without_vbmi2() -> str:
    def times(zeros: str, name: str) -> str:
        [each] = [
            v
            for v in targets.verdicts(load(f"{name}.json"))
            if (v.work, v.against, v.threads) == (f"avx2 int8 {zeros}: decode", "avx2 int8 dense", 1)
        ]
        return _told(each.ratios)

    cells = targets.cells_of(load("isa.json"))

    def speed(engine: str, weights: str) -> float:
        return median(run["decode"] for run in cells[Cell(engine, "avx2", weights, 1)]["runs"])

    ours, peers = speed("cutwork", "int8 4:16"), {kind: speed("llama.cpp", kind) for kind in ("Q4_0", "Q4_K_M")}
    return line(f"""
        **Without AVX-512's VBMI2**, as on Zen 3 and older and on Intel's desktop processors since Alder Lake, 75% zeros
        anywhere make int8 decode {times("75%", "isa_zen4")} times as fast as none on one core of Zen 4 and
        {times("75%", "isa_zen5")} on Zen 5, with AVX2 alone; where 4 of 16 neighbours are kept
        {times("4:16", "isa_zen4")} and {times("4:16", "isa_zen5")} times. On Zen 5 an earlier build did {ours:.1f}
        tok/s with those in int8, llama.cpp built for AVX2 {peers["Q4_0"]:.1f} in Q4_0 and {peers["Q4_K_M"]:.1f} in
        Q4_K_M (one run).
    """)


def with_amx() -> str:
    cells = targets.cells_of(load("isa_amx.json"))

    def times(weights: str, over: Cell, what: str = "decode", threads: int = 1) -> str:
        return _told(targets.ratios(cells, Cell("cutwork", "amx", weights, threads), over, what))

    def ours(weights: str) -> Cell:
        return Cell("cutwork", "amx", weights, 1)

    def speed(cell: Cell, what: str) -> float:
        return median(run[what] for run in cells[cell]["runs"])

    peers = [cell for cell in cells if cell.engine != "cutwork" and cell.threads == 1]
    decodes, reads = (max(peers, key=lambda cell: speed(cell, what)) for what in ("decode", "prefill"))
    other, fastest = _best_peer(_cells("peers_amx", 1, "prefill", 512))
    return line(f"""
        **On a Xeon with AMX** one core decodes int4 with 4 of 16 neighbours kept {times("int4 4:16", decodes)} times as
        fast as {targets.named(decodes)}, the fastest llama.cpp there, and {times("int4 4:16", ours("int4 dense"))}
        times as fast as our own dense int4; int8 with 75% zeros anywhere {times("int8 75%", ours("int8 dense"))} times
        as fast as without. Prompts are multiplied as whole matrices, whose zeros cannot be skipped: int8 takes
        {speed(ours("int8 dense"), "prefill"):.0f} tok/s of them without zeros and
        {speed(ours("int8 75%"), "prefill"):.0f} with 75% anywhere, {targets.named(reads)}, the fastest llama.cpp,
        {speed(reads, "prefill"):.0f}; in an older run {other}, in pages of 4 KiB, {fastest:.0f}. Random weights of
        a 1.1B shape, huge pages for llama.cpp too, medians and extremes of up to 3 rounds.
    """)


_BATCHES = "avx512 int8 4:16: batch 16"  # of `targets`


def against_four_bits() -> str:
    result = load("isa_zen4.json")
    found = {(each.work, each.against, each.threads): each for each in targets.verdicts(result)}
    [zen5] = [
        each
        for each in targets.verdicts(load("isa_avx512.json"))
        if each.threads == 1 and each.work == "avx512 int4 4:16: decode" and each.against.startswith("ik")
    ]

    def times(work: str, against: str, threads: int = 1) -> str:
        return _told(found[work, against, threads].ratios)

    [batches] = [each for (work, _, threads), each in found.items() if (work, threads) == (_BATCHES, 1)]
    decode, peer, own = "avx512 int4 4:16: decode", "ik_llama.cpp (native) Q4_0", "avx512 int4 dense"
    runs = targets.cells_of(result)[Cell("cutwork", "avx512", "int8 4:16", 1)]["runs"]
    ours = median(run["batch 16"] for run in runs)
    other, fastest = _best_peer(_decodes("peers", 1, batch=16))
    lost, *_ = new_numbers.difference(load("new_numbers.json"), ("tuned", "4:16", "int4"), new_numbers.CONTROL) or [0.0]
    return line(f"""
        **Against 4 bits**: where 4 of 16 neighbours are kept, int4 decodes {times(decode, peer)} times as fast as
        ik_llama.cpp's Q4_0, built natively, on one core of Zen 4, {times(decode, peer, 2)} times on two; that is
        {times(decode, own)} and {times(decode, own, 2)} times as fast as our own dense int4. Batches of 16 in int8 do
        {batches.ratio:.1f} times those of {batches.against}, the fastest llama.cpp of the same run, on one core, and
        {ours / fastest:.1f} times the {fastest:.0f} tok/s that {other} had in an older one, in pages of 4 KiB. Random
        weights of a 1.1B shape, huge pages for llama.cpp too, medians and extremes of up to
        {len(found[decode, peer, 1].ratios)} rounds; an earlier build on one core of Zen 5 did {zen5.ratio:.2f} times
        ik's. A small model, fine-tuned with those zeros and in int4, lost {-lost:.1f} points to itself in int8 without
        them.
    """)


def serving() -> str:
    servers = {name: row["load"] for name, row in load("serving.json")["servers"].items()}
    ours, peer = servers["cutwork int8 75%"], servers["llama-server Q4_0"]
    return line(f"""
        **Serving**: 64 clients at once get {ours["tokens_per_second"]:.0f} tok/s of the 1.1B model at 75% zeros from
        two cores of Zen 5, {peer["tokens_per_second"]:.1f} from llama-server in Q4_0; the two were not measured for
        the same time ({ours["seconds"] / 60:g} and {peer["seconds"] / 60:g} minutes) nor tuned alike.
    """)


def layers() -> str:
    found = {
        (c["engine"], c["sparsity"], c["tokens"]): c["median"]
        for c in _store("layers").layers.values()
        if (c["dtype"], c["threads"]) == ("int8", 1)
    }
    plain, reordered = (
        [found[name, zeros, 128] / found["DeepSparse", zeros, 128] for zeros in (0.5, 0.75, 0.9)]
        for name in ("cutwork", "cutwork ahead")
    )
    one, many = (found["cutwork 4:16", 0.75, tokens] / found["DeepSparse", 0.75, tokens] for tokens in (1, 128))
    return line(f"""
        **Single layers** in int8, of 128 tokens, reach {plain[0]:.2f}, {plain[1]:.2f} and
        {plain[2]:.2f} of the speed of DeepSparse's closed kernels at 50, 75 and 90% zeros, {reordered[0]:.2f},
        {reordered[1]:.2f} and {reordered[2]:.2f} with reordered weights. Where 4 of 16 neighbours are kept they are
        {many:.2f} times as fast as its 75% anywhere, and {one:.2f} times for one token (one core of Zen 4, an earlier
        build).
    """)


def _store(name: str) -> Store:
    return Store.open(RESULTS / f"{name}.json")


def _is(cell: dict[str, Any], threads: int, phase: str, prompt: int, batch: int) -> bool:
    about = tuple(cell[key] for key in ("shape", "threads", "phase", "prompt", "batch", "isa"))
    return about == ("1.1b", threads, phase, prompt, batch, "native")


def _cells(name: str, threads: int, phase: str, prompt: int, batch: int = 1) -> dict[str, float]:
    return {c["engine"]: c["median"] for c in _store(name).cells.values() if _is(c, threads, phase, prompt, batch)}


def _decodes(name: str, threads: int, batch: int = 1) -> dict[str, float]:
    return _cells(name, threads, "decode", 16, batch)


def _best_peer(cells: dict[str, float]) -> tuple[str, float]:
    peers = {n: v for n, v in cells.items() if not n.startswith("cutwork") and n != BANDWIDTH}
    name = max(peers, key=lambda n: peers[n])
    return name, peers[name]
