"""What each way to predict came to, the oldest first: how near KL was, and what choosing by it was worth."""

from statistics import median
from typing import Any

from benchmarks.compress.advantage import advantage, best_alike

EVERYWHERE = ("choices_everywhere", "choices_seed1")  # what they predict is KL of every token, not in answers
PREDICTED = {
    "choices_everywhere": "KL of every token",
    "choices_seed1": "the same, another teacher",
    "choices": "KL in answers, kinds of linears put right by eight samples",
    "choices_timed": "the same, by 32 samples",
    "choices_judged": "validation samples judge, three whole models put that right",
}

_OFF = ("milliseconds_off_median", "speedup_off_median")


def history_table(*results: dict[str, Any]) -> str:
    """By prediction. `results`: of the files that PREDICTED names, in its order."""
    lines = [
        "| predicted | choices | rank correlation with KL in answers | KL measured over predicted | ms off "
        "| speed-ups off | the frontier's speed over uniform choices' |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for (name, how), result in zip(PREDICTED.items(), results, strict=True):
        kl = "kl_everywhere" if name in EVERYWHERE else "kl"
        ratios = sorted(row[kl] / row["predicted"]["kl"] for row in result["rows"])
        best = best_alike(result["rows"])
        times = [x for each, x in advantage(result["rows"]).items() if each in best]
        off = [f"{result[key]:.0%}" if key in result else "–" for key in _OFF]
        lines.append(
            f"| {how} | {len(ratios)} | {result['kl_rank_correlation']:.2f} "
            f"| {ratios[0]:.2f} to {ratios[-1]:.2f}, median {median(ratios):.2f} | {off[0]} | {off[1]} "
            f"| {min(times):.2f} to {max(times):.2f} times |"
        )
    return "\n".join(lines)
