"""Sparse against dense on every instruction set beside llama.cpp and ik_llama.cpp: python -m benchmarks.isa.

    python -m benchmarks.isa --prepare          # only write the models: half an hour, 11 GB
    python -m benchmarks.isa --minutes 40       # what matters most first; the same command goes on where it stopped
    python -m benchmarks.isa --dry-run          # say what would be measured, and how long it takes
    python -m benchmarks.isa --isa avx2 --weights "int8 dense" "int8 4:16" --threads 1

Random weights of TinyLlama-1.1B's shape at full depth: int8 and int4, without zeros, with a fraction of zeros anywhere,
and with n of every 16 neighbours kept. Each decodes after a few tokens, alone and in batches of 4 and 16, and takes a
prompt of 512. A run has a process of its own, and only one runs at a time; rounds go through all of them in turn, so
that ratios are those of neighbours in time. Before each run the memory's read bandwidth is measured. Every process has
its weights in transparent huge pages, and how much of them is written beside the results.

Peers are folders with llama-bench and llama-batched-bench of llama.cpp and ik_llama.cpp; how they are built says
docs/results/instruction-sets.md. Leaves isa.json in results/.
"""

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

from benchmarks.common.provenance import ROOT
from benchmarks.common.results import RESULTS
from benchmarks.isa import report
from benchmarks.isa.cells import AVX2, AVX512F, IK, LLAMA, NATIVE, OURS, groups
from benchmarks.isa.llama import Build
from benchmarks.isa.models import write_models
from benchmarks.isa.rounds import Bench, stopped
from benchmarks.isa.store import Store
from cutwork import _native


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.isa", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    isas = [name for name in _native.isas() if name != "scalar"]
    parser.add_argument("--prepare", action="store_true", help="write the models, measure nothing")
    parser.add_argument("--dry-run", action="store_true", help="measure nothing, say what would be")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop before this time is over")
    parser.add_argument("--rounds", type=int, default=4, help="of what the targets need; the rest gets half as many")
    parser.add_argument("--isa", nargs="+", choices=_native.isas(), default=isas, help="all but scalar, which is slow")
    parser.add_argument(
        "--weights", nargs="+", choices=OURS, default=OURS, metavar="WEIGHTS", help=", ".join(OURS).replace("%", "%%")
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--llama-cpp", type=Path, metavar="FOLDER", help="llama.cpp, built for this processor")
    parser.add_argument("--llama-cpp-avx2", type=Path, metavar="FOLDER", help="llama.cpp without AVX-512")
    parser.add_argument("--llama-cpp-avx512f", type=Path, metavar="FOLDER", help="llama.cpp with AVX-512 but not VNNI")
    parser.add_argument("--ik", type=Path, metavar="FOLDER", help="ik_llama.cpp, built for this processor")
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "isa", help="where models are kept")
    parser.add_argument("--stop", type=int, nargs="+", default=[], metavar="PID", help="these stand still meanwhile")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--output", type=Path, default=RESULTS / "isa.json")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    console = Console(soft_wrap=True, highlight=False)

    folders = {
        (IK, NATIVE): options.ik,
        (LLAMA, NATIVE): options.llama_cpp,
        (LLAMA, AVX2): options.llama_cpp_avx2,
        (LLAMA, AVX512F): options.llama_cpp_avx512f,
    }
    builds = {key: Build(key[0], folder.resolve()) for key, folder in folders.items() if folder}
    for build in builds.values():
        if problem := build.missing():
            parser.error(problem)
    first, rest = groups(options.isa, options.weights, builds, options.threads)
    if not options.dry_run:
        write_models(options.models, options.layers, (*first, *rest), builds.values())
    if options.prepare:
        return 0

    store = Store.open(options.output, options.layers, options.fresh)
    bench = Bench(store, options.models, builds, console, deadline)
    rounds = [first] * options.rounds + [rest] * (options.rounds // 2)
    todo = list(bench.missing(rounds))
    minutes = sum(map(bench.seconds, todo)) / 60
    console.print(f"{len(todo)} runs are missing: about {minutes:.0f} minutes")
    if options.dry_run:
        for cell in dict.fromkeys(todo):
            console.print(f"  {cell}, {store.runs(cell)} runs so far")
        return 0
    with stopped(options.stop):
        try:
            finished = bench.run(rounds)
        except KeyboardInterrupt:
            finished = False
    console.print("" if finished else "not all is measured; the same command goes on from here")
    result = store.save()
    console.print(report.targets_table(result), report.table(result), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
