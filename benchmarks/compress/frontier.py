"""The frontier that `cutwork compress` predicts before any training, and what each kind of linear becomes there."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cutwork.compress.menu import HEAD


def frontier_table(result: dict[str, Any]) -> str:
    """Predicted KL by speed-up, with zeros and bits, with either alone, and what most linears of a kind become."""
    frontiers = result["frontiers"]
    both = [point for point in frontiers["zeros and bits"] if point["kl"] > 0]
    kinds = [kind for kind in both[-1]["by_kind"] if kind != HEAD]
    lines = [
        "| speed-up | zeros | KL | bits alone | zeros alone | "
        + " | ".join(kind.split(".")[-1] for kind in kinds)
        + " |",
        "|--:|--:|--:|--:|--:|" + "---|" * len(kinds),
    ]
    for point in both:
        others = [between(frontiers[name], point["speedup"]) for name in ("bits alone", "zeros alone")]
        alone = " | ".join("–" if kl is None else f"{kl:.2g}" for kl in others)
        most = " | ".join(next(iter(point["by_kind"][kind])) for kind in kinds)
        lines.append(f"| {point['speedup']:.2f}× | {point['zeros']:.0%} | {point['kl']:.2g} | {alone} | {most} |")
    return "\n".join(lines)


def between(points: Sequence[dict[str, Any]], speedup: float) -> float | None:
    """The KL of a frontier at a speed-up, between its points; None beyond them."""
    x, y = ([point[key] for point in points] for key in ("speedup", "kl"))
    return float(np.interp(speedup, x, y)) if x and speedup <= x[-1] else None
