"""Peak memory and time to prune a model of 1.5 billion parameters, and what they come to at 7 billion.

    python -m benchmarks.training.prune_memory                 # Qwen2-1.5B's shape, random bfloat16 weights, SparseGPT
    python -m benchmarks.training.prune_memory --layers 4      # a cut of it: figures per layer in minutes

The model is written once to `--work` and pruned by `cutwork prune` in a process of its own. Memory is told apart into
what the process itself took (anonymous) and pages of mapped files, which the system takes back when it needs them.
Leaves prune_memory.json in results/.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.random_checkpoint import write_random
from benchmarks.common.results import RESULTS, save
from benchmarks.common.shapes import QWEN2_1B, QWEN2_7B
from cutwork.store.json_file import read_json

SHAPES = {"1.5B": QWEN2_1B, "7B": QWEN2_7B}


def write_samples(file: Path, count: int, words: int) -> None:
    """Nonsense of a fixed length."""
    draw = random.Random(0)
    common = "the of and to in a is that for it as was with be by on not he his but at are this have"
    known = common.split(" ")
    texts = (" ".join(draw.choices(known, k=words)) for _ in range(count))
    file.write_text("".join(json.dumps({"prompt": "Go on.", "answer": text}) + "\n" for text in texts))


def prune(model: Path, output: Path, samples: Path, options: list[str]) -> dict[str, Any]:
    """Prune in a process of its own; its report, and the most of each kind of memory that it had at once."""
    command = [sys.executable, "-c", "from cutwork.cli import main; main()", "prune", str(model), str(output)]
    command += ["--task", str(samples), "--json", "--overwrite", "--max-length", "2048", *options]
    peaks = {"RssAnon": 0, "RssFile": 0, "VmRSS": 0}
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                break
            for line in status.splitlines():
                key = line.partition(":")[0]
                if key in peaks:
                    peaks[key] = max(peaks[key], int(line.split()[1]) * 1024)
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    report = read_json(output / "prune-report.json")
    return {
        "wall_seconds": time.perf_counter() - start,
        "peak_anonymous_bytes": peaks["RssAnon"],
        "peak_mapped_bytes": peaks["RssFile"],
        "peak_resident_bytes": peaks["VmRSS"],
        "seconds": report["seconds"],
        "surgery_seconds": sum(layer["seconds"] for layer in report["layers"]),
        "spilled_bytes": report["spilled_bytes"],
        "tokens": report["calibration_tokens"],
        "sparsity": report["sparsity"],
        "damped_again": sum(layer.get("attempts", 1) > 1 for layer in report["layers"]),
    }


def extrapolate(found: dict[str, Any], layers: int, shape: str) -> dict[str, float]:
    """The same work at another shape: forward passes scale with weights, Hessians with Σ in², pruning with Σ in²·out.

    The time beside pruning is taken to be half forward passes, half Hessians. Memory is that of the largest block's
    Hessian and factors, twice over, its float32 copies and the hidden states.
    """

    def work(name: str, count: int) -> tuple[float, float, float, float]:
        shape = SHAPES[name]
        hidden, mlp = shape["hidden_size"], shape["intermediate_size"]
        kv = hidden * shape["num_key_value_heads"] // shape["num_attention_heads"]
        linears = [(hidden, hidden), (hidden, kv), (hidden, kv), (hidden, hidden)]
        linears += [(hidden, mlp), (hidden, mlp), (mlp, hidden)]
        forward = sum(i * o for i, o in linears)
        hessians = 3 * hidden**2 + mlp**2
        return count * forward, count * hessians, count * sum(i * i * o for i, o in linears), hessians

    small, large = work("1.5B", layers), work(shape, SHAPES[shape]["num_hidden_layers"])
    rest = found["seconds"] - found["surgery_seconds"]
    seconds = found["surgery_seconds"] * large[2] / small[2]
    seconds += rest / 2 * large[0] / small[0] + rest / 2 * large[1] / small[1]
    return {"seconds": seconds, "peak_anonymous_bytes": found["peak_anonymous_bytes"] * large[3] / small[3]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=0, help="a cut of the model; 0: all 28")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a model directory whose tokenizer is used")
    parser.add_argument("--method", default="sparsegpt")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--words", type=int, default=240, help="per sample")
    parser.add_argument("--activation-memory", type=float, default=1.0, help="GB; more goes to files")
    parser.add_argument("--work", type=Path, default=Path("out/prune-memory"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()

    layers = options.layers or QWEN2_1B["num_hidden_layers"]
    model = options.work / f"random-{layers}"
    if not model.exists():
        write_random(model, QWEN2_1B | {"num_hidden_layers": layers}, options.tokenizer)
    samples = options.work / "samples.jsonl"
    write_samples(samples, options.samples, options.words)
    chosen = ["--method", options.method, "--calibration-samples", str(options.samples), "--sparsity", "0.7"]
    chosen += ["--activation-memory", str(options.activation_memory)]
    found = prune(model, options.work / "pruned", samples, chosen)
    result = {
        "method": options.method,
        "layers": layers,
        **found,
        "model_bytes": sum(file.stat().st_size for file in model.glob("*.safetensors")),
        "seconds_per_layer": found["seconds"] / layers,
        "extrapolated": {"1.5B": extrapolate(found, layers, "1.5B"), "7B": extrapolate(found, layers, "7B")},
    }
    options.results.mkdir(parents=True, exist_ok=True)
    file = options.results / "prune_memory.json"
    print(json.dumps(save(file, result, threads=torch.get_num_threads()), indent=1))


def table(result: dict[str, Any]) -> str:
    """Measured, and what it comes to at another size."""
    lines = ["| weights | | minutes | own memory, GB | mapped files, GB |", "|---|---|--:|--:|--:|"]
    own, mapped = result["peak_anonymous_bytes"] / 1e9, result["peak_mapped_bytes"] / 1e9
    lines.append(f"| 1.5B | measured | {result['seconds'] / 60:.0f} | {own:.1f} | {mapped:.1f} |")
    far = result["extrapolated"]["7B"]
    minutes, memory = far["seconds"] / 60, far["peak_anonymous_bytes"] / 1e9
    lines.append(f"| 7B | extrapolated | {minutes:.0f} | {memory:.0f} | |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
