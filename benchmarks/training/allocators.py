"""What training on CPUs takes by glibc's malloc, as `cutwork tune` sets it, and by others put before it.

    python -m benchmarks.training.allocators SmolLM2-135M=smollm2 Qwen2.5-Coder-0.5B=qwen --task train.jsonl

Debian's libtcmalloc-minimal4 and libjemalloc2 have to be there. Each is a `cutwork tune` of some steps in a process of
its own, in turns, on a quiet machine; seconds are the later half's mean, memory the most that the process held at
once. Leaves allocators.json in results/.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common.results import RESULTS, save
from cutwork.errors import CutworkError

ALLOCATORS = {"glibc": "", "tcmalloc": "libtcmalloc_minimal.so.4", "jemalloc": "libjemalloc.so.2"}
SETTINGS = ["--max-length", "384", "--learning-rate", "2e-5", "--dtype", "bfloat16"]
SETTINGS += ["--batch-size", "16", "--micro-batch-size", "4"]
CUTWORK = [sys.executable, "-c", "from cutwork.cli import main; main()"]


def tune(model: Path, task: list[str], output: Path, steps: int, library: str) -> dict[str, float]:
    """Seconds of a step and the most bytes held while `steps` of them are trained, of the estimate, too."""
    command = [*CUTWORK, "tune", str(model), str(output), *task, *SETTINGS]
    command += ["--max-steps", str(steps), "--samples", str(20 * steps), "--save-every", str(steps + 1)]
    environment = {**os.environ, "LD_PRELOAD": library}
    ends, peak, estimated = dict[int, float](), 0, 0.0
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "cannot be preloaded" in line:  # which the system only tells
                raise CutworkError(f"{library} is not there")
            if found := re.match(r"estimate: ([\d.]+) GB", line):
                estimated = 1e9 * float(found[1])
            if found := re.search(rf"(\d+)/{steps}  loss", line):  # not of every step, where they are quick
                ends[int(found[1])] = time.perf_counter()
                held = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{process.pid}/status").read_text())
                peak = max(peak, int(held[1]) * 1024 if held else 0)
    shutil.rmtree(output, ignore_errors=True)
    if process.returncode or steps not in ends:
        raise CutworkError(f"failed: {' '.join(command)}")
    half = min(step for step in ends if step >= steps // 2)
    return {"seconds": (ends[steps] - ends[half]) / (steps - half), "peak": peak, "estimated": estimated}


def table(result: dict[str, Any]) -> str:
    """By model and allocator: medians of the rounds, and the extremes of seconds."""
    lines = ["| model | malloc | s per step | most memory, GB | estimated |", "|---|---|--:|--:|--:|"]
    for row in result["rows"]:
        seconds, peak, estimated = (median(run[key] for run in row["runs"]) for key in ("seconds", "peak", "estimated"))
        took = [run["seconds"] for run in row["runs"]]
        told = f"{seconds:.1f} ({min(took):.1f}–{max(took):.1f}) | {peak / 1e9:.1f} | {estimated / 1e9:.1f}"
        lines.append(f"| {row['model']} | {row['allocator']} | {told} |")
    rounds = len(result["rows"][0]["runs"])
    return "\n".join([*lines, "", f"{rounds} runs of {result['steps']} steps each; seconds of the later half's steps."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="NAME=FOLDER")
    parser.add_argument("--task", required=True, help="as of `cutwork tune`")
    parser.add_argument("--task-option", nargs="+", default=[], help="as of `cutwork tune`")
    parser.add_argument("--allocators", nargs="+", default=list(ALLOCATORS), choices=list(ALLOCATORS))
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("out/allocators"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    task = ["--task", options.task, *(part for given in options.task_option for part in ("--task-option", given))]
    rows: list[dict[str, Any]] = []
    for name, _, folder in (model.partition("=") for model in options.models):
        own = [{"model": name, "allocator": allocator, "runs": []} for allocator in options.allocators]
        rows += own
        for _ in range(options.rounds):
            for row in own:
                row["runs"].append(tune(Path(folder), task, options.work, options.steps, ALLOCATORS[row["allocator"]]))
                print(name, row["allocator"], row["runs"][-1], file=sys.stderr)
    print(table(save(options.results / "allocators.json", {"steps": options.steps, "rows": rows})))


if __name__ == "__main__":
    main()
