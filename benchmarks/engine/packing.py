"""How long `cutwork pack` takes for a 1.1B model, and how much memory.

    python -m benchmarks.engine.packing [--output FILE]

Random checkpoints of TinyLlama-1.1B's shape, 75% zeros in the blocks, as bfloat16, W8A8 and W4A16; written once to
`--directory` and kept there, packed models too. Each is packed by a process of its own. Targets: under a minute on two
cores, and peak resident memory that does not grow with the model: the largest weight as it was and as it is stored,
above what Python takes. `copy_s` is how long a plain copy of the packed file takes.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common.provenance import ROOT
from benchmarks.common.random_llama import DType, write_checkpoint
from benchmarks.common.results import BUILD, save
from benchmarks.common.shapes import SHAPES

FORMATS: tuple[DType, ...] = ("bf16", "int8", "int4")

WORKER = """
import json, sys, time
from pathlib import Path
from cutwork.pack.pack import pack
start = time.perf_counter()
summary = pack(Path(sys.argv[1]), Path(sys.argv[2]), overwrite=True)
seconds = time.perf_counter() - start
status = dict(line.split(":", 1) for line in open("/proc/self/status") if line.startswith("Vm"))
print(json.dumps({
    "seconds": seconds,
    "peak_resident_bytes": 1024 * int(status["VmHWM"].split()[0]),
    "checkpoint_bytes": summary.source_nbytes,
    "packed_bytes": summary.nbytes,
    "largest_weight_bytes": max(weight.nbytes for weight in summary.weights),
    "sparsity": summary.sparsity,
}))
"""


def pack_once(source: Path, output: Path) -> dict[str, Any]:
    """Pack in a process of its own."""
    command = [sys.executable, "-c", WORKER, str(source), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{source} was not packed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    """Write what is missing, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=ROOT / "build" / "random")
    parser.add_argument("--sparsity", type=float, default=0.75)
    parser.add_argument("--write-only", action="store_true", help="write the checkpoints and measure nothing")
    parser.add_argument("--output", type=Path, default=BUILD / "packing.json")
    options = parser.parse_args()
    rows = []
    for kind in FORMATS:
        source = options.directory / f"{kind}-{round(100 * options.sparsity)}"
        if not source.exists():
            write_checkpoint(source, SHAPES["1.1b"], kind, options.sparsity)
        if options.write_only:
            continue
        packed = source.with_name(f"packed-{source.name}")
        row = {"checkpoint": source.name, **pack_once(source, packed)}
        copy = packed / "copy"
        start = time.perf_counter()
        shutil.copyfile(packed / "model.safetensors", copy)
        row["copy_s"] = time.perf_counter() - start
        os.unlink(copy)
        rows.append(row)
        print(
            f"{row['checkpoint']}: {row['checkpoint_bytes'] / 1e6:.0f} MB packed into "
            f"{row['packed_bytes'] / 1e6:.0f} MB in {row['seconds']:.1f} s (copying that file {row['copy_s']:.1f} s), "
            f"peak {row['peak_resident_bytes'] / 1e6:.0f} MB"
        )
    if rows:
        save(options.output, {"sparsity": options.sparsity, "checkpoints": rows})


if __name__ == "__main__":
    main()
