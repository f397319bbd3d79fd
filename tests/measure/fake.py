"""Results as a run would leave them, without running anything."""

from typing import Any


def results(recipe: str = "demo", sparsity: float = 0.6, accuracy: float = 0.62) -> dict[str, Any]:
    rows = []
    for name, zeros, right, megabytes, speed in [
        ("dense-f32", 0.0, 0.70, 538, 40.0),
        ("dense-bf16", 0.0, 0.70, 269, 75.0),
        ("pruned-f32", sparsity, 0.05, 400, 60.0),
        ("sparse-f32", sparsity, accuracy, 400, 61.0),
        ("sparse-bf16", sparsity, accuracy, 200, 110.0),
        ("dense-int8", 0.0, 0.69, 163, 120.0),
        ("sparse-int8", sparsity, accuracy - 0.01, 110, 180.0),
    ]:
        rows.append(
            {
                "name": name,
                "sparsity": zeros,
                "accuracy": right,
                "right": round(right * 200),
                "samples": 200,
                "perplexity": 3 - right,
                "disk_bytes": megabytes * 1_000_000,
                "memory_bytes": megabytes * 1_000_000,
                "prefill_tokens_per_second": speed * 8,
                "decode_tokens_per_second": speed,
                "decode_speedup_over_dense_f32": speed / 40,
                "decode_speedup_over_dense_int8": speed / 120,
            }
        )
    machine = {"cpu": "Test CPU", "isa": "avx512", "threads": 2}
    return {"recipe": recipe, "task": "gsm_symbolic", "machine": machine, "variants": rows}
