"""Ten thousand damaged models in slots: none may crash, and what is refused is refused in one sentence.

    python -m benchmarks.engine.damaged_slots            # ten minutes on two cores

Of int8 and int4, 4:16 and adaptive as they are written, and 8:16 and 12:16, which are read only. Each case damages the
weights' file or the manifest in one way, and loads, runs, packs or restores the model in a process of its own. Leaves
damaged_slots.json in results/ and exits with 1 if a case ended otherwise than it may; its seed is printed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common.provenance import ROOT, build
from benchmarks.common.results import RESULTS, save

MODELS = tuple(f"packed-{dtype}-{kept}" for dtype in ("I8", "I4") for kept in ("4:16", "adaptive", "8:16", "12:16"))
FILES = (".safetensors", "cutwork.json")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    build()  # before anybody makes another one
    with tempfile.TemporaryDirectory() as work:
        counts = Path(work) / "counts.json"
        command = [sys.executable, "-m", "tests.fuzz", "--only", ",".join(MODELS), "--files", ",".join(FILES)]
        command += ["--seed", str(options.seed), "--cases", str(options.cases), "--seconds", "inf"]
        done = subprocess.run([*command, "--counts", counts], cwd=ROOT, check=False)
        ends = json.loads(counts.read_text())
    models = {name: ends.get(name, {}) for name in MODELS}
    result = {"cases": options.cases, "seed": options.seed, "models": models}
    print(table(save(options.results / "damaged_slots.json", result)))
    return done.returncode


def table(result: dict[str, Any]) -> str:
    """How many models were damaged, and how that ended."""
    lines = ["| weights | damaged | refused | run all the same | any other end |", "|---|--:|--:|--:|--:|"]
    all_ends = [0, 0, 0]
    for name, ends in result["models"].items():
        total = sum(ends.values())
        each = [ends.get("refused", 0), ends.get("ok", 0)]
        each.append(total - sum(each))
        all_ends = [sum(pair) for pair in zip(all_ends, each, strict=True)]
        _, dtype, kept = name.split("-")
        lines.append(_row(f"int{dtype[1:]} {kept}", [total, *each]))
    lines.append(_row("all", [sum(all_ends), *all_ends]))
    return "\n".join(lines)


def _row(name: str, counts: list[int]) -> str:
    return f"| {name} | {' | '.join(f'{count:,}' for count in counts)} |"


if __name__ == "__main__":
    raise SystemExit(main())
