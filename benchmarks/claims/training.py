"""Pruning, recovery, quantisation, budgets and drafts."""

from math import erfc, sqrt
from statistics import mean
from typing import Any

from benchmarks.claims.line import line
from benchmarks.common.results import load
from benchmarks.evidence.wording import seeds


def recovery() -> str:
    rows = {(row["method"], row["target_sparsity"]): row for row in load("accuracy.json")["rows"]}
    pruned, ce, head = (rows[name, 0.7] for name in ("one-shot", "CE", "SquareHead"))
    return line(f"""
        **Recovery**: with 70% zeros SmolLM2-135M answers {pruned["accuracy"]:.0%} after one-shot SparseGPT,
        {ce["accuracy"]:.0%} after fine-tuning with cross-entropy and {head["accuracy"]:.0%} with SquareHead
        ({head["samples"]} questions, one seed: the last two are not told apart, p = {_p(ce, head):.2f}, as if other
        questions had been asked, since the answers were not kept).
    """)


def pruning() -> str:
    rows = {(row["method"], row["sparsity"]): row for row in load("pruners.json")["rows"]}
    dense, alps, other = rows["dense", 0.0], rows["alps", 0.7], rows["sparsegpt", 0.7]
    return line(f"""
        **Pruning alone**: at 70% zeros ALPS keeps {alps["accuracy"]:.0%} of {alps["samples"]} questions without any
        training, SparseGPT {other["accuracy"]:.0%}; the dense model has {dense["accuracy"]:.0%}.
    """)


def zeros_kept() -> str:
    cells = [row for row in load("zero_matrix.json")["cells"] if "lost" in row]
    lost = sum(row["lost"] for row in cells)
    return line(f"""
        **Zeros stay**: {lost} are lost in {len(cells)} combinations of pattern, optimiser, clipping, accumulation, one
        process or two, and quantiser (a tiny model, three steps).
    """)


def bits() -> str:
    rows = {(row["zeros"], row["scheme"], row["method"]): row["accuracy"] for row in load("quantization.json")["rows"]}
    floats, rounded, gptq = (rows["dense", *how] for how in ((None, None), ("w4a16", "rtn"), ("w4a16", "gptq")))
    return line(f"""
        **Fewer bits**: 4-bit weights by masked GPTQ keep {gptq:.1%} of the dense model's {floats:.1%}, by rounding
        {rounded:.1%} (the weights to begin with are a 4-bit file's, which flatters both).
    """)


def by_budget() -> str:
    rows = _kept("promises_unseen")
    budgets = {row["within"]: [each for each in rows if each["within"] == row["within"]] for row in rows}
    speeds = {budget: [f"{row['speedup']['measured']:.2f}" for row in each] for budget, each in budgets.items()}
    lost = {budget: [f"{row['test']['points']:.1f}" for row in each] for budget, each in budgets.items()}
    found = "; ".join(f"{b:g}: {' and '.join(speeds[b])} times, {' and '.join(lost[b])} lost" for b in budgets)
    files = len({(row["seed"], row["speedup"]["measured"]) for row in rows})
    more = mean(row["test"]["points"] - row["validation"]["points"] for row in rows)
    before = _kept("promises")
    return line(f"""
        **Compress by budget**: what `cutwork compress` makes of SmolLM2-135M for so many points allowed, its decode
        speed beside bfloat16 (two threads of a Xeon with AMX), and what it lost on 600 questions that nobody had
        looked at ({found}): {_counted(rows)}
        ({files} different file{"s" * (files > 1)}, which lost {more:.1f} points more there, on average over the
        promises, than by the 300 that chose them; whether the teacher had converged was not asked). By an earlier
        version with fewer attempts, on other questions, {_counted(before)}.
    """)


def _kept(name: str) -> list[dict[str, Any]]:
    """Promises that were given."""
    return [row for row in load(f"{name}.json")["rows"] if "refused" not in row]


def _counted(rows: list[dict[str, Any]]) -> str:
    """How many promises were kept."""
    kept = sum(row["kept"] for row in rows)
    itself = sum(row["test"]["points"] <= row["within"] for row in rows)
    told = seeds(len({row["seed"] for row in rows}))
    return f"{kept} of {len(rows)} promises ({told}) were kept by the loss's interval, {itself} by the loss itself"


def speculation() -> str:
    rows = [row for row in load("speculative.json")["rows"] if row["batch"] == 1]
    best = max(rows, key=lambda row: row["speed_up"])
    lengths = len({row["draft_tokens"] for row in rows if row["draft_tokens"]})
    alone = {row["name"]: row["decode_tokens_per_second"] for row in load("smollm2-gsm.json")["variants"]}["dense-bf16"]
    auto = load("draft_auto.json")["rows"]
    drafted = max((row for row in auto if row["draft_tokens"]), key=lambda row: row["speed_up"])
    [int8] = [row for row in auto if row.get("alone")]
    return line(f"""
        **Speculation**: a sparse draft makes the dense float32 teacher {best["speed_up"]:.2f} times as fast,
        {best["tokens_per_second"]:.0f} tok/s, at the best of {lengths} draft lengths, with the same answers.
        The same teacher in bfloat16 does {alone:.0f} by
        itself, so as measured it does not pay. `--draft auto`, which makes a draft of the model itself in int4, makes
        SmolLM2-135M in bfloat16 {drafted["speed_up"]:.2f} times as fast (two threads of Zen 4, one stream);
        {drafted["same"]} of {drafted["answers"]} answers are the same to the token. Int8 alone is
        {int8["speed_up"]:.2f} times as fast and says other things ({int8["same"]} the same).
    """)


def _p(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Two-sided p of a difference between two accuracies, questions taken as independent."""
    variance = sum(row["accuracy"] * (1 - row["accuracy"]) / row["samples"] for row in (a, b))
    return erfc(abs(a["accuracy"] - b["accuracy"]) / sqrt(2 * variance))
