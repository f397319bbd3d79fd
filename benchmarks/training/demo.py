"""Takes what `make demo` measured into benchmarks/results, with where it comes from.

    make demo && python -m benchmarks.training.demo [--run out/demo] [--one-thread]

Leaves demo.json and demo.png in results/; with --one-thread times three of its models again, for demo_one_thread.json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common.provenance import ROOT
from benchmarks.common.results import RESULTS, save
from cutwork.measure.report.plots import plot
from cutwork.measure.report.tables import headings, table_rows
from cutwork.store.json_file import read_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "out" / "demo", help="the directory of the run")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--one-thread", action="store_true", help="run `cutwork bench` on one thread instead")
    options = parser.parse_args()
    if options.one_thread:
        models = [str(options.run / "packed" / name) for name in ("dense-bf16", "dense-int8", "sparse-int8")]
        command = [Path(sys.executable).with_name("cutwork"), "bench", models[-1], "--threads", "1", "--json"]
        for other in models[:-1]:
            command += ["--against", other]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        found["models"] = {Path(name).name: row for name, row in found["models"].items()}
        print(one_thread_table(save(options.results / "demo_one_thread.json", found, threads=1)))
        return
    found = read_json(options.run / "results.json")
    result = save(options.results / "demo.json", found, threads=found["machine"]["threads"])
    (options.results / "demo.png").write_bytes(plot([found]))
    print(table(result))


def table(result: dict[str, Any]) -> str:
    """As `cutwork run` prints it."""
    names = headings([result])
    lines = ["| " + " | ".join(names) + " |", "|---|" + "--:|" * (len(names) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in table_rows([result]))])


def one_thread_table(result: dict[str, Any]) -> str:
    """`cutwork bench` of three of them."""
    lines = ["| model | prefill, tok/s | decode, tok/s |", "|---|--:|--:|"]
    for name, row in result["models"].items():
        speeds = row["prefill_tokens_per_second"], row["decode_tokens_per_second"]
        lines.append(f"| {Path(name).name} | {speeds[0]:.0f} | {speeds[1]:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
