"""What the inner loops of the kernels for ARM take by llvm-mca's models of processors: derived, nothing is measured.

    sh tests/native/aarch64.sh .venv/bin -k nothing            # compiles them to build/aarch64
    python -m benchmarks.engine.arm_loops                      # needs llvm-mca and aarch64-linux-gnu-objdump

Of each kernel the innermost loop with the most products, of several the shortest, as gcc wrote it, its weights in the
first level cache: the models do not know about memory. Leaves arm_loops.json in results/.
"""

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.provenance import ROOT
from benchmarks.common.results import RESULTS, save

OBJECTS = ROOT / "build/aarch64/module/CMakeFiles/_native.dir/native/kernels/sets"
DOTS = ("neoverse-n1", "neoverse-n2", "neoverse-v2", "apple-m1")
MATRICES = ("neoverse-n2", "neoverse-v2")  # of those, what has smmla
PRODUCTS = {"sdot": 16, "smmla": 32}  # multiplications of one instruction
_PASSES = 1000
_INSTRUCTION = re.compile(r"^\s+([0-9a-f]+):\t(.+)$")
_FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
_TARGET = re.compile(r"([0-9a-f]+) <.*>$")


@dataclass(frozen=True)
class Kernel:
    """A function of a set's object file, by a pattern of its name."""

    about: str
    set: str
    function: str
    processors: tuple[str, ...]


KERNELS = (
    Kernel("dense int8, one token", "neondot", r"linear::gemv_dense<.*::I8, 1>", DOTS),
    Kernel("slots int8, one token", "neondot", r"slots::add_some<1, \(cutwork::SlotForm\)0>", DOTS),
    Kernel("dense int4, one token", "neondot", r"int4::gemv_tile<.*\(cutwork::Encoding\)0, 1>", DOTS),
    Kernel("slots int4, one token", "neondot", r"slots::multiply_rows<.*NeonSlots, \(cutwork::SlotForm\)0, 1>", DOTS),
    Kernel("dense int8, a prompt", "neondot", r"linear::multiply\(", DOTS),
    Kernel("dense int8, a prompt", "neoni8mm", r"linear::multiply\(", MATRICES),
    Kernel("dense int4, a prompt", "neondot", r"int4::multiply_panel<", DOTS),
    Kernel("dense int4, a prompt", "neoni8mm", r"int4::multiply_panel<", MATRICES),
    Kernel("slots int8, a prompt", "neondot", r"slots::add_records<4, \(cutwork::SlotForm\)0>", DOTS),
    Kernel("slots int4, a prompt", "neondot", r"slots::multiply_rows<.*NeonSlots, \(cutwork::SlotForm\)0, 4>", DOTS),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=Path, default=OBJECTS, help="where the sets' object files are")
    parser.add_argument("--mca", default="llvm-mca", help="the program, as llvm-mca-19")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    disassembled: dict[str, dict[str, list[tuple[int, str]]]] = {}
    try:
        for kernel in KERNELS:
            if kernel.set not in disassembled:
                disassembled[kernel.set] = functions(
                    _run(
                        "aarch64-linux-gnu-objdump",
                        "-d",
                        "-C",
                        "--no-show-raw-insn",
                        str(options.objects / f"{kernel.set}.cpp.o"),
                    )
                )
            loop = hottest(disassembled[kernel.set], kernel.function)
            rows.append(_row(kernel, loop, options.mca))
        versions = {
            "llvm-mca": _run(options.mca, "--version").split("version ")[1].split()[0],
            "gcc": _run("aarch64-linux-gnu-gcc", "-dumpfullversion").strip(),
        }
    except (FileNotFoundError, subprocess.CalledProcessError, ValueError) as error:
        print(f"this needs llvm-mca, aarch64-linux-gnu-objdump and the sets' object files: {error}", file=sys.stderr)
        return 1
    print(table(save(RESULTS / "arm_loops.json", {"tools": versions, "rows": rows})))
    return 0


def _run(*command: str, text: str | None = None) -> str:
    return subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout


def functions(disassembly: str) -> dict[str, list[tuple[int, str]]]:
    """Addresses and instructions of every function of an object file, by its name."""
    found: dict[str, list[tuple[int, str]]] = {}
    current: list[tuple[int, str]] = []
    for line in disassembly.splitlines():
        if name := _FUNCTION.match(line):
            current = found.setdefault(name[1], [])
        elif instruction := _INSTRUCTION.match(line):
            current.append((int(instruction[1], 16), instruction[2].partition("//")[0].strip()))
    return found


def innermost_loops(code: list[tuple[int, str]]) -> list[list[str]]:
    """What is between a branch backwards and where it goes, without another such branch in between."""
    places = {address: place for place, (address, _) in enumerate(code)}
    backwards = {}
    for place, (address, text) in enumerate(code):
        target = _TARGET.search(text) if text.startswith(("b.", "b\t", "cb", "tb")) else None
        if target and int(target[1], 16) <= address and int(target[1], 16) in places:
            backwards[place] = places[int(target[1], 16)]
    return [
        [text for _, text in code[start : end + 1]]
        for end, start in backwards.items()
        if not any(start <= other < end for other in backwards)
    ]


def hottest(code: dict[str, list[tuple[int, str]]], function: str) -> list[str]:
    """The shortest of the innermost loops with the most products, of all functions of such a name."""
    loops = [loop for name, body in code.items() if re.search(function, name) for loop in innermost_loops(body)]
    best = max(loops, key=lambda loop: (products(loop), -len(loop)), default=[])
    if not products(best):
        raise ValueError(f"no loop with products in {function}")
    return best


def products(loop: list[str]) -> int:
    """Multiplications in a loop."""
    return sum(PRODUCTS.get(text.split()[0], 0) for text in loop)


def cycles(loop: list[str], processor: str, mca: str) -> float:
    """Of one pass through a loop, by llvm-mca's model of a processor, in the steady state."""
    text = "\n".join(["pass:", *(_TARGET.sub("pass", line) for line in loop)])
    options = ["-mtriple=aarch64", f"-mcpu={processor}", "-mattr=+dotprod,+i8mm", f"-iterations={_PASSES}"]
    told = re.search(r"^Total Cycles:\s+(\d+)$", _run(mca, *options, text=text), re.MULTILINE)
    if told is None:
        raise ValueError(f"{mca} says nothing about {processor}")
    return int(told[1]) / _PASSES


def table(result: dict[str, Any]) -> str:
    """Loops by kernel, and their cycles for as many products, 128, by each of the processors asked about."""
    lines = [
        f"| loop | set | instructions | loads | products | {' | '.join(DOTS)} |",
        f"|---|---|--:|--:|--:|{'--:|' * len(DOTS)}",
    ]
    for row in result["rows"]:
        each = [f"{128 * row['cycles'][name] / row['products']:.2f}" if name in row["cycles"] else "–" for name in DOTS]
        counts = [str(row[name]) for name in ("instructions", "loads", "products")]
        lines.append(f"| {' | '.join([row['about'], row['set'], *counts, *each])} |")
    return "\n".join(lines)


def _row(kernel: Kernel, loop: list[str], mca: str) -> dict[str, Any]:
    return {
        "about": kernel.about,
        "set": kernel.set,
        "instructions": len(loop),
        "loads": sum(text.startswith("ld") for text in loop),
        "products": products(loop),
        "cycles": {processor: cycles(loop, processor, mca) for processor in kernel.processors},
    }


if __name__ == "__main__":
    sys.exit(main())
