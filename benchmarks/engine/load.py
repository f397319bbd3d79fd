"""How long packed models take to load, warm, and how much memory.

    python -m benchmarks.engine.load MODEL… [--output FILE]

Each model is loaded by fresh processes, some with one thread and some with two, in turn; the first of them only warms
the page cache and is not counted. Medians are kept. The models of the shapes compared elsewhere are made by
benchmarks/engine/packing.py. Targets: ready (imported and loaded) in under a second, and resident memory of at most
weights + KV cache + arena + 150 MB. Of the cache only what is in use is resident, and of a bfloat16 embedding only rows
looked up, so memory can be below the weights.
"""

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common.results import RESULTS, save
from benchmarks.common.timing import interleaved

PROMPT = [5, 6, 7, 8]
ALLOWED_EXTRA = 150e6

WORKER = """
import json, sys, time
started = float(sys.argv[3])
from cutwork import Model
imported = time.time()
with Model.load(sys.argv[1], threads=int(sys.argv[2])) as model:
    loaded = time.time()
    model.generate(json.loads(sys.argv[4]), max_new_tokens=1)
    first = time.time()
    status = dict(line.split(":", 1) for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(json.dumps({
        "start_and_import_s": imported - started,
        "load_s": loaded - imported,
        "first_token_s": first - loaded,
        "ready_s": loaded - started,
        "peak_resident_bytes": 1024 * int(status["VmHWM"].split()[0]),
        "has_tokenizer": model.tokenizer is not None,
        "memory": model.memory_bytes,
    }))
"""


def load_once(model: Path, threads: int) -> dict[str, Any]:
    """Load in a process of its own."""
    command = [sys.executable, "-c", WORKER, str(model), str(threads), str(time.time()), json.dumps(PROMPT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{model} did not load:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", help="packed models")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "load.json")
    options = parser.parse_args()
    cases = [(model, threads) for model in options.models for threads in (1, 2)]
    for model in options.models:
        load_once(model, 1)
    runs = interleaved({case: partial(load_once, *case) for case in cases}, options.repeats)
    rows = []
    for (model, threads), results in runs.items():
        row: dict[str, Any] = {"model": model.name, "threads": threads, "has_tokenizer": results[0]["has_tokenizer"]}
        for key in ("start_and_import_s", "load_s", "ready_s", "first_token_s", "peak_resident_bytes"):
            row[key] = median(result[key] for result in results)
        row["slowest_ready_s"] = max(result["ready_s"] for result in results)
        row["memory"] = results[0]["memory"]
        row["weights_and_allowance_bytes"] = row["memory"]["weights"] + row["memory"]["arena"] + ALLOWED_EXTRA
        rows.append(row)
        print(
            f"{row['model']}, {threads} threads: {row['memory']['weights'] / 1e6:.0f} MB of weights ready in "
            f"{row['ready_s']:.2f} s ({row['load_s']:.2f} s of them loading), first token {row['first_token_s']:.2f} s "
            f"later, {row['peak_resident_bytes'] / 1e6:.0f} MB resident"
        )
    save(options.output, {"repeats": options.repeats, "prompt_tokens": len(PROMPT), "models": rows})


def table(result: dict[str, Any]) -> str:
    """Seconds from the start of the process."""
    lines = ["| weights, MB | threads | ready, s | slowest | of them loading | first token later, s |"]
    lines.append("|--:|--:|--:|--:|--:|--:|")
    for row in sorted(result["models"], key=lambda row: -row["memory"]["weights"]):
        times = " | ".join(f"{row[key]:.2f}" for key in ("ready_s", "slowest_ready_s", "load_s", "first_token_s"))
        lines.append(f"| {row['memory']['weights'] / 1e6:,.0f} | {row['threads']} | {times} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
