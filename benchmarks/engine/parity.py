"""Perplexity by the engine and by transformers, on the same tokens in the same windows.

    python -m benchmarks.engine.parity MODEL [QUANTISED_MODEL …] --text wikitext2-test.txt \
        --output benchmarks/results/parity_smollm2.json

Each directory is a checkpoint that transformers can load too; a quantised one may differ by 1%, any other by 0.1%.
Exits with status 1 if one differs by more.
"""

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.common.results import save
from cutwork import Model
from cutwork.store.directory import kind_of

TOLERANCE = {"checkpoint": 0.001, "quantized": 0.01}


def transformers_perplexity(path: Path, tokens: list[int], window: int) -> float:
    """exp of the mean negative log-likelihood over windows that do not overlap, in float32."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, use_safetensors=True).eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for begin in range(0, len(tokens) - 1, window):
            ids = torch.tensor([tokens[begin : begin + window]])
            if ids.shape[1] < 2:
                break
            losses = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1].float(), ids[0, 1:], reduction="sum")
            total, count = total + float(losses), count + ids.shape[1] - 1
    return math.exp(total / count)


def compare(path: Path, text: str, limit: int, window: int, threads: int) -> dict[str, Any]:
    """One row of the result."""
    with Model.load(path, threads=threads, max_context=window, max_batch=1) as model:
        tokens = model.encode(text)[:limit]
        start = time.perf_counter()
        ours = model.perplexity(tokens, window=window)
        seconds = time.perf_counter() - start
        row = {"isa": model.isa, "threads": model.threads, "cache_dtype": model.cache_dtype, "sparsity": model.sparsity}
    start = time.perf_counter()
    theirs = transformers_perplexity(path, tokens, window)
    tolerance = TOLERANCE[kind_of(path)]
    difference = ours.perplexity / theirs - 1
    return {
        "model": path.name,
        "kind": kind_of(path),
        "tokens": ours.tokens,
        "window": window,
        "cutwork": ours.perplexity,
        "transformers": theirs,
        "relative_difference": difference,
        "tolerance": tolerance,
        "passed": abs(difference) <= tolerance,
        "cutwork_seconds": seconds,
        "transformers_seconds": time.perf_counter() - start,
        **row,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")
    rows = []
    for path in arguments.models:
        rows.append(compare(path, text, arguments.tokens, arguments.window, arguments.threads))
        row = rows[-1]
        print(
            f"{row['model']} ({row['kind']}): cutwork {row['cutwork']:.4f}, transformers {row['transformers']:.4f}, "
            f"{row['relative_difference']:+.4%} (at most {row['tolerance']:.1%}) over {row['tokens']} tokens: "
            + ("passed" if row["passed"] else "FAILED")
        )
    if arguments.output:
        save(arguments.output, {"rows": rows}, threads=arguments.threads)
    sys.exit(0 if all(row["passed"] for row in rows) else 1)


if __name__ == "__main__":
    main()
