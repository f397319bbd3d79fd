"""Peak memory and time to prune a model of 1.5 billion parameters, and what they come to at 7 billion.

    python benchmarks/prune_memory.py                 # Qwen2-1.5B's shape, random bfloat16 weights, SparseGPT
    python benchmarks/prune_memory.py --layers 4      # a cut of it: figures per layer in minutes

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
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from cutwork.machine import cpu_name
from cutwork.store.atomic import write_atomically
from cutwork.store.directory import copy_side_files
from cutwork.store.json_file import read_json
from cutwork.store.output import output_directory

HERE = Path(__file__).parent
SHAPES = {  # hidden, mlp, heads, kv heads, layers, vocabulary
    "1.5B": (1536, 8960, 12, 2, 28, 151936),
    "7B": (3584, 18944, 28, 4, 28, 152064),
}


def config(shape: str, layers: int) -> dict[str, Any]:
    """A Qwen2 configuration."""
    hidden, mlp, heads, kv_heads, most, vocabulary = SHAPES[shape]
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_hidden_layers": layers or most,
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }


def write_model(directory: Path, shape: str, layers: int, tokenizer: Path) -> None:
    """Random weights in one file per block, made a block at a time; the tokenizer is another model's."""
    with output_directory(directory) as partial:
        (partial / "config.json").write_text(json.dumps(config(shape, layers)))
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(partial))
        places: dict[str, str] = {}
        groups: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, parameter in model.named_parameters():
            part = name.split(".layers.")[1].split(".")[0] if ".layers." in name else "rest"
            groups.setdefault(f"model-{part}.safetensors", {})[name] = tuple(parameter.shape)
        generator = torch.Generator().manual_seed(0)
        for file, shapes in groups.items():
            tensors = {}
            for name, size in shapes.items():
                values = torch.empty(size, dtype=torch.bfloat16)
                if len(size) > 1:
                    values.normal_(0, size[-1] ** -0.5, generator=generator)
                else:
                    values.fill_(1 if "norm" in name else 0)
                tensors[name] = values
            save_file(tensors, partial / file, metadata={"format": "pt"})
            places |= dict.fromkeys(shapes, file)
        (partial / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
        copy_side_files(tokenizer, partial)


def write_samples(file: Path, count: int, words: int) -> None:
    """Nonsense of a fixed length."""
    draw = random.Random(0)
    known = [
        "the",
        "of",
        "and",
        "to",
        "in",
        "a",
        "is",
        "that",
        "for",
        "it",
        "as",
        "was",
        "with",
        "be",
        "by",
        "on",
        "not",
        "he",
        "his",
        "but",
        "at",
        "are",
        "this",
        "have",
    ]
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
        hidden, mlp, heads, kv_heads, _, _ = SHAPES[name]
        kv = hidden * kv_heads // heads
        linears = [(hidden, hidden), (hidden, kv), (hidden, kv), (hidden, hidden)]
        linears += [(hidden, mlp), (hidden, mlp), (mlp, hidden)]
        forward = sum(i * o for i, o in linears)
        hessians = 3 * hidden**2 + mlp**2
        return count * forward, count * hessians, count * sum(i * i * o for i, o in linears), hessians

    small, large = work("1.5B", layers), work(shape, SHAPES[shape][4])
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
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()

    layers = options.layers or SHAPES["1.5B"][4]
    model = options.work / f"random-{layers}"
    if not model.exists():
        write_model(model, "1.5B", layers, options.tokenizer)
    samples = options.work / "samples.jsonl"
    write_samples(samples, options.samples, options.words)
    chosen = ["--method", options.method, "--calibration-samples", str(options.samples), "--sparsity", "0.7"]
    chosen += ["--activation-memory", str(options.activation_memory)]
    found = prune(model, options.work / "pruned", samples, chosen)
    result = {
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "method": options.method,
        "layers": layers,
        **found,
        "model_bytes": sum(file.stat().st_size for file in model.glob("*.safetensors")),
        "seconds_per_layer": found["seconds"] / layers,
        "extrapolated": {"1.5B": extrapolate(found, layers, "1.5B"), "7B": extrapolate(found, layers, "7B")},
    }
    options.results.mkdir(parents=True, exist_ok=True)
    write_atomically(options.results / "prune_memory.json", json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
