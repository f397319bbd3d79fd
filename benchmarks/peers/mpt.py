"""A random MPT of 1.3 billion parameters (ALiBi, no biases): dense and 75% sparse here, against llama.cpp.

    python -m benchmarks.peers.mpt --tokenizer DIR --llama BUILD --llama-source SOURCE

int8 here, Q8_0 and Q4_0 there, in turn, every run in a process of its own; medians. Leaves mpt_speed.json in
results/.
"""

import argparse
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import random_checkpoint as models
from benchmarks.common.provenance import llama_cpp
from benchmarks.common.results import RESULTS, save
from benchmarks.common.shapes import MPT_1B
from benchmarks.common.timing import interleaved

Speeds = dict[str, float]  # tokens/s of "prefill" and "decode"


def cutwork(path: Path, threads: int, prompt: int, decode: int) -> Speeds:
    """One round of `cutwork bench`."""
    sizes = ["--prompt", str(prompt), "--decode", str(decode), "--threads", str(threads), "--repeats", "1", "--json"]
    found = json.loads(_output([str(Path(sys.executable).with_name("cutwork")), "bench", str(path), *sizes]))
    row = found["models"][str(path)]
    return {"prefill": row["prefill_tokens_per_second"], "decode": row["decode_tokens_per_second"]}


def llama_bench(build: Path, path: Path, threads: int, prompt: int, decode: int) -> Speeds:
    """One round of llama.cpp's own benchmark."""
    sizes = ["-p", str(prompt), "-n", str(decode), "-t", str(threads), "-r", "1", "-o", "json"]
    rows = json.loads(_output([str(build / "bin" / "llama-bench"), "-m", str(path), *sizes]))
    return {"prefill" if row["n_prompt"] else "decode": row["avg_ts"] for row in rows}


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Make the models, measure in turn, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a model directory whose tokenizer is used")
    parser.add_argument("--llama", type=Path, required=True, help="a build of llama.cpp, with bin/llama-bench")
    parser.add_argument("--llama-source", type=Path, required=True, help="its source tree")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.0, 0.75])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--setup", action="store_true", help="only make the models")
    parser.add_argument("--work", type=Path, default=Path("build/serving"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    shape = (options.work, "mpt-1.3b", MPT_1B, options.tokenizer)
    ours = {f"cutwork int8 {round(100 * s)}%": models.packed(*shape, s) for s in options.sparsity}
    theirs = {
        f"llama.cpp {kind}": models.gguf(*shape, kind, options.llama, options.llama_source) for kind in ("Q8_0", "Q4_0")
    }
    if options.setup:
        return
    jobs = {}
    for threads in options.threads:
        sizes = (threads, options.prompt, options.decode)
        jobs |= {(threads, name): partial(cutwork, path, *sizes) for name, path in ours.items()}
        jobs |= {(threads, name): partial(llama_bench, options.llama, path, *sizes) for name, path in theirs.items()}
    runs: dict[str, dict[str, list[Speeds]]] = {}
    for (threads, name), found in interleaved(jobs, options.rounds).items():
        runs.setdefault(str(threads), {})[name] = found
    content = {"prompt": options.prompt, "decode": options.decode, "runs": runs}
    print(table(save(options.results / "mpt_speed.json", content, versions=llama_cpp(options.llama))))


def table(result: dict[str, Any]) -> str:
    """Tokens per second, medians, with the slowest and fastest of decode."""
    lines = [f"| threads | engine | prefill {result['prompt']} | decode |", "|--:|---|--:|--:|"]
    for threads, by_name in result["runs"].items():
        for name, rows in by_name.items():
            prefill, decode = ([row[key] for row in rows] for key in ("prefill", "decode"))
            spread = f"{median(decode):.1f} ({min(decode):.1f}–{max(decode):.1f})"
            lines.append(f"| {threads} | {name} | {median(prefill):.0f} | {spread} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
