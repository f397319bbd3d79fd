"""How much faster the frontier is than choices that treat all linears alike, at their KL divergence."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.compress.divergence import DRAWS, drawn, interval
from cutwork.compress.frontier import ALLOWED
from cutwork.compress.menu import Choice, Menu

_FRONTIER = next(iter(ALLOWED))  # of zeros and bits


def advantage(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How many times as fast as each other choice the frontier of zeros and bits is at that choice's measured KL.

    Between the frontier's points along the logarithm of the KL; choices beyond its ends are left out.
    """
    ours = sorted((row["kl"], _takes(row)) for row in rows if row["kind"] == _FRONTIER)
    at, times = np.log([kl for kl, _ in ours]), [ms for _, ms in ours]
    return {
        label(row): _takes(row) / float(np.interp(np.log(row["kl"]), at, times))
        for row in rows
        if row["kind"] != _FRONTIER and ours[0][0] <= row["kl"] <= ours[-1][0]
    }


def with_intervals(rows: Sequence[dict[str, Any]], tokens: Sequence[int]) -> None:
    """Add to rows the 95% intervals of their KL and of the frontier's advantage, over other samples of the kind.

    `tokens`: of the samples' answers, whose KL the rows' `kl_sums` are. The same samples are drawn for all rows;
    speed-ups are taken as they are.
    """
    kls = drawn({label(row): row["kl_sums"] for row in rows}, tokens)
    for row in rows:
        row["kl_interval"] = interval(kls[label(row)])
    each_draw = [advantage([{**row, "kl": kls[label(row)][i]} for row in rows]) for i in range(DRAWS)]
    for row in rows:
        if row["kind"] != _FRONTIER and (found := [each[label(row)] for each in each_draw if label(row) in each]):
            row["advantage_interval"] = interval(np.array(found))


def advantage_predicted(menu: Menu, choice: Choice) -> float | None:
    """How many times as fast as a choice the fastest is whose predicted KL is not more, by the same predictions."""
    best = menu.solver()
    slow, fast = choice.milliseconds, best.least
    if (found := best.within(slow)) is None or found.kl > choice.kl:
        return None
    for _ in range(30):
        middle = (slow + fast) / 2
        tried = best.within(middle)
        slow, fast = (middle, fast) if tried and tried.kl <= choice.kl else (slow, middle)
    return choice.milliseconds / slow


def best_alike(rows: Sequence[dict[str, Any]]) -> set[str]:
    """The uniform choices, and OWL's, that no other of them beats in both KL and milliseconds."""
    alike = [row for row in rows if row["kind"] not in ALLOWED]
    return {
        label(row)
        for row in alike
        if not any(o is not row and o["kl"] <= row["kl"] and _takes(o) <= _takes(row) for o in alike)
    }


def label(row: dict[str, Any]) -> str:
    """What a row is called."""
    return f"{row['kind']}, {row['name']}"


def advantage_table(result: dict[str, Any]) -> str:
    """By other choice; those that no uniform choice beats are bold."""
    lines = ["| choice | KL measured | the frontier is, at that KL | predicted |", "|---|--:|--:|--:|"]
    rows, best = {label(row): row for row in result["rows"]}, best_alike(result["rows"])
    for name, times in advantage(result["rows"]).items():
        row, shown = rows[name], f"**{name}**" if name in best else name
        told = row["predicted"].get("advantage")
        foretold = f"{told:.2f}" if told else "–"
        spread = " ({:.2f} to {:.2f})".format(*row["advantage_interval"]) if "advantage_interval" in row else ""
        lines.append(f"| {shown} | {row['kl']:.3g} | {times:.2f}{spread} times as fast | {foretold} |")
    return "\n".join(lines)


def _takes(row: dict[str, Any]) -> float:
    """A step, in steps of the dense model, which was timed in the same minutes; if none was timed, as predicted."""
    return 1 / float(row["speedup"] if "speedup" in row else row["predicted"]["speedup"])
