"""Measures the costs of kernels and writes them into native/cost: what is chosen where nobody has measured.

    python -m benchmarks.engine.default_costs                       # print what has changed, write nothing
    python -m benchmarks.engine.default_costs --write [--isa avx2] [--only "slots"] [--rounds 3]

On a quiet machine, half a minute for each instruction set and round; then `make native` builds the module anew. Zen 3
and 4 write zen4.h, Intel's intel.h, all other processors defaults.h, which holds the costs of Zen 5 and of all that
have none of their own.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.common.provenance import ROOT
from cutwork import _native
from cutwork.machine import processor

DEFAULTS, ZEN4, INTEL = (ROOT / "native" / "cost" / name for name in ("defaults.h", "zen4.h", "intel.h"))
LINE = re.compile(
    r'    \{"(?P<isa>\w+)", Algorithm::(?P<kernel>\w+), Encoding::(?P<encoding>\w+), DType::(?P<dtype>\w+),'
    r" \{(?P<costs>[^}]*)\}\},"
)
_MEASURE = "from cutwork.engine.weights.costs import cache_path, measure_costs; measure_costs(); print(cache_path())"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", nargs="+", choices=_native.isas(), default=_native.isas())
    parser.add_argument("--only", default="", metavar="TEXT", help="kernels whose names, like 'gemv dense i8', have it")
    parser.add_argument("--rounds", type=int, default=3, help="of which the medians count")
    parser.add_argument("--write", action="store_true", help="change the file")
    options = parser.parse_args()
    found: dict[str, list[dict[str, list[float]]]] = {isa: [] for isa in options.isa}
    for _ in range(options.rounds):
        for isa, rounds in found.items():
            rounds.append(measured(isa))
    medians = {
        (isa, name): [median(values) for values in zip(*(each[name] for each in rounds), strict=True)]
        for isa, rounds in found.items()
        for name in rounds[0]
        if options.only in name
    }
    vendor, family = processor().vendor, processor().family
    file = ZEN4 if (vendor, family) == ("AuthenticAMD", 25) else INTEL if vendor == "GenuineIntel" else DEFAULTS
    text = file.read_text()
    print(*changes(text, medians), sep="\n")
    if options.write:
        file.write_text(rewritten(text, medians))


def measured(isa: str) -> dict[str, list[float]]:
    """Picoseconds of each kernel of an instruction set, by its name."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"CUTWORK_ISA": isa, "XDG_CACHE_HOME": folder}
        command = [sys.executable, "-c", _MEASURE]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        content = json.loads(Path(done.stdout.strip()).read_text())
    constants: dict[str, list[float]] = content["constants"]
    return constants


def rewritten(text: str, costs: dict[tuple[str, str], list[float]]) -> str:
    """The header with these costs in place of its own; kernels that it does not have are left out."""

    def line(found: re.Match[str]) -> str:
        new = costs.get(_key(found))
        return found[0].replace(f"{{{found['costs']}}}}}", f"{{{_written(new)}}}}}") if new else found[0]

    return LINE.sub(line, text)


def changes(text: str, costs: dict[tuple[str, str], list[float]]) -> Iterator[str]:
    """A line for each kernel: what it has, and what it would get."""
    for found in LINE.finditer(text):
        if (key := _key(found)) in costs:
            yield f"{key[0]:8} {key[1]:24} {found['costs']:36} {_written(costs[key])}"


def _key(found: re.Match[str]) -> tuple[str, str]:
    return found["isa"], f"{found['kernel']} {found['encoding']} {found['dtype']}"


def _written(costs: list[float]) -> str:
    least = 1e-6  # less is rounding
    kept = costs[: max([3, *(i + 1 for i, cost in enumerate(costs) if cost > least)])]
    return ", ".join(f"{cost if cost > least else 0:.4g}" for cost in kept)


if __name__ == "__main__":
    main()
