"""How near decode comes to memory bandwidth, how threads scale, what context and barriers cost, with one JSON.

    python -m benchmarks.engine.threads [--layers 22] [--rounds 8] [--output FILE]

Random weights of TinyLlama-1.1B's shape, int8, at four sparsities, kept in build/. Bandwidth is measured before every
timing, since on a rented machine the neighbours' share of it changes from one second to the next: only the ratio means
something.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.common.provenance import ROOT
from benchmarks.common.random_llama import write_packed
from benchmarks.common.results import RESULTS, resume, save
from benchmarks.common.shapes import SHAPES
from cutwork import _native
from cutwork.engine.model import Model
from cutwork.engine.weights.cache_size import CacheDType
from cutwork.plan.builder import Plan

SPARSITIES = (0, 50, 75, 90)  # percent
THREADS = (1, 2)
CACHES: tuple[CacheDType, ...] = ("f32", "bf16", "i8")
CONTEXTS = (16, 512, 2048, 4096)
PREFILL = 512
BARRIERS = 1000


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", choices=["decode", "context", "barrier"], help="one part; the file keeps the others")
    parser.add_argument("--output", type=Path, default=RESULTS / "threads.json")
    options = parser.parse_args()
    parts: dict[str, Callable[[int, int], list[dict[str, Any]]]] = {
        "decode": decode,
        "context": context,
        "barrier": barrier,
    }
    result = resume(options.output) | {"layers": options.layers, "rounds": options.rounds}
    result.pop("provenance", None)
    for name, part in parts.items():
        if options.only in (None, name):
            result[name] = part(options.layers, options.rounds)
    save(options.output, result)


def model_path(layers: int, sparsity: int, longest: int = 2048) -> Path:
    """The packed model, written on the first call."""
    path = ROOT / "build" / f"random-{layers}-{longest}" / f"i8-{sparsity}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        Console(stderr=True).print(f"writing {path}")
        write_packed(path, replace(SHAPES["1.1b"], layers=layers, context=longest), "int8", sparsity / 100)
    return path


def step(model: Model, tokens: int, position: int) -> float:
    """Seconds of a step of one sequence; what is in the cache does not matter for speed."""
    ids = np.arange(tokens, dtype=np.int32)
    table = np.arange(-(-(position + tokens) // 32), dtype=np.int32)[None]
    start = time.perf_counter()
    model.executor.step(ids, ids + np.int32(position), np.zeros_like(ids), table, ids[-1:])
    return time.perf_counter() - start


def decode(layers: int, rounds: int) -> list[dict[str, Any]]:
    """Decode and prefill per sparsity and threads; bytes are those of all weights but the embedding."""
    rows = []
    for sparsity in SPARSITIES:
        models = {n: Model.load(model_path(layers, sparsity), threads=n, max_context=1024) for n in THREADS}
        read = sum(w.nbytes for name, w in models[1].weights.items() if "embed_tokens" not in name)
        runs: dict[int, list[tuple[float, float, float]]] = {n: [] for n in THREADS}
        for _ in range(rounds + 1):
            for threads, model in models.items():
                bandwidth = _native.read_bandwidth(threads, 256, 2)
                seconds = median(step(model, 1, 16 + i) for i in range(12))
                runs[threads].append((bandwidth, seconds, step(model, PREFILL, 0) if len(runs[threads]) < 4 else 0))
        for threads, measured in runs.items():
            fractions = [read / seconds / bandwidth for bandwidth, seconds, _ in measured[1:]]
            rows.append(
                {
                    "sparsity": sparsity / 100,
                    "threads": threads,
                    "bytes_per_token": read,
                    "decode_tokens_per_second": [1 / seconds for _, seconds, _ in measured[1:]],
                    "read_bandwidth": [bandwidth for bandwidth, _, _ in measured[1:]],
                    "roofline_fraction": median(fractions),
                    "prefill_tokens_per_second": PREFILL / median(p for _, _, p in measured[1:] if p),
                }
            )
            print(
                f"{sparsity}% {threads} thr: decode {1 / median(s for _, s, _ in measured[1:]):.1f} tok/s, "
                f"{median(fractions):.0%} of the roofline ({min(fractions):.0%} to {max(fractions):.0%}), "
                f"prefill {rows[-1]['prefill_tokens_per_second']:.0f} tok/s",
                flush=True,
            )
    return rows


def context(layers: int, rounds: int) -> list[dict[str, Any]]:
    """A decode step's attention after so many tokens, against the time its keys and values take to read."""
    path = model_path(layers, 75, longest=8192)
    rows = []
    for threads in THREADS:
        models = {
            kind: Model.load(path, threads=threads, max_context=4224, max_batch=1, cache_dtype=kind) for kind in CACHES
        }
        plan = models["f32"].plan
        runs: dict[tuple[CacheDType, int], list[tuple[float, float]]] = {}
        bandwidths = []
        for _ in range(rounds + 1):
            bandwidths.append(_native.read_bandwidth(threads, 256, 2))
            for tokens in CONTEXTS:
                for kind, model in models.items():
                    seconds = median(step(model, 1, tokens) for _ in range(3))
                    runs.setdefault((kind, tokens), []).append((seconds, attention(model, tokens)))
        for (kind, tokens), measured in runs.items():
            head = {"f32": 4 * plan.head_dim, "bf16": 2 * plan.head_dim, "i8": plan.head_dim + 4}[kind]
            read = 2 * plan.cache_layers * plan.kv_heads * head * tokens
            rows.append(
                {
                    "threads": threads,
                    "cache_dtype": kind,
                    "context": tokens,
                    "step_ms": 1e3 * median(whole for whole, _ in measured[1:]),
                    "attention_ms": 1e3 * median(part for _, part in measured[1:]),
                    "bytes_explain_ms": 1e3 * read / median(bandwidths),
                }
            )
            print(*(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    return rows


def attention(model: Model, tokens: int) -> float:
    """Seconds of all attention ops of a decode step."""
    ids = np.zeros(1, np.int32)
    table = np.arange(tokens // 32 + 1, dtype=np.int32)[None]
    model.executor.step(ids, np.asarray([tokens], np.int32), ids, table, ids, profile=True)
    ops = zip(model.plan.ops, model.executor.profile, strict=True)
    return sum(seconds for op, seconds in ops if op.kind == "attention")


def barrier(_: int, rounds: int) -> list[dict[str, Any]]:
    """Microseconds to wake the threads for a linear of 1 us and to see them done, beyond its share of the work."""
    plan, width = Plan(), 192
    x = plan.embed("table", width, width)
    for _ in range(BARRIERS):
        x = plan.linear(x, "square", width)
    plan.logits(plan.gather_rows(x), "square", width)
    weight = _native.Weight.dense(np.eye(width, dtype=np.float32))
    zeros = np.zeros(1, np.int32)
    seconds: dict[int, float] = {}
    for threads in THREADS:
        executor = _native.Executor(
            plan.op_dicts(), plan.spans(), [weight] * 2, [], threads=threads, max_tokens=1, max_logits=1, cache=None
        )
        times = []
        for _ in range(10 * rounds):
            start = time.perf_counter()
            executor.step(zeros, zeros, zeros, zeros[None, :0], zeros)
            times.append(time.perf_counter() - start)
        seconds[threads] = median(times) / BARRIERS
    rows = [
        {
            "threads": threads,
            "linear_us": 1e6 * each,
            "barrier_us": 1e6 * (each - seconds[1] / threads),
        }
        for threads, each in seconds.items()
    ]
    print(*rows, sep="\n", flush=True)
    return rows


def decode_table(result: dict[str, Any]) -> str:
    """Decode beside the bandwidth measured just before it, and prefill."""
    lines = [
        "| zeros | 1 thread, tok/s | of that bandwidth | 2 threads, tok/s | of that bandwidth "
        f"| prefill {PREFILL}, 1 → 2 threads, tok/s |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    rows = {(row["sparsity"], row["threads"]): row for row in result["decode"]}
    for sparsity in dict.fromkeys(row["sparsity"] for row in result["decode"]):
        one, two = (rows[sparsity, threads] for threads in THREADS)
        cells = [f"{median(r['decode_tokens_per_second']):.1f} | {r['roofline_fraction']:.0%}" for r in (one, two)]
        prefill = " → ".join(f"{row['prefill_tokens_per_second']:.0f}" for row in (one, two))
        lines.append(f"| {sparsity:.0%} | {cells[0]} | {cells[1]} | {prefill} |")
    return "\n".join(lines)


def context_table(result: dict[str, Any]) -> str:
    """Milliseconds of attention, and those that reading keys and values takes."""
    lines = ["| context | threads | " + " | ".join(f"{kind} (bytes)" for kind in CACHES) + " |"]
    lines.append("|--:|--:|" + "--:|" * len(CACHES))
    rows = {(row["threads"], row["context"], row["cache_dtype"]): row for row in result["context"]}
    for threads in THREADS:
        for tokens in CONTEXTS[1:]:
            found = [rows.get((threads, tokens, kind)) for kind in CACHES]
            cells = [f"{r['attention_ms']:.2f} ({r['bytes_explain_ms']:.2f})" if r else "" for r in found]
            if any(cells):
                lines.append(f"| {tokens} | {threads} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
