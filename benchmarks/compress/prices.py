"""Whether a step takes what the prices of its linears add up to: `compress` chooses by that.

    python -m benchmarks.compress.prices out/demo/teacher --for decode --threads 2     # a quiet machine, ten minutes

Prices are measured as `compress` does, before and after models whose linears are candidates as they come, some kinds of
linears alike as frontiers have them, others anything; all of random numbers, so that only milliseconds are asked. The
same prices, least of both times. Leaves prices.json in results/, by purpose and threads.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.common.results import RESULTS, resume, save
from cutwork.architectures import build_plan
from cutwork.compress.candidates import CANDIDATES, SCHEMES, Candidate
from cutwork.compress.milliseconds import (
    SEQUENCES,
    Purpose,
    Steps,
    in_bfloat16,
    options_for,
    quickest_step,
    random_model,
)
from cutwork.engine.backend import native
from cutwork.engine.model import Model
from cutwork.recipe import Scheme

_GROUP = 128  # columns that share a scale in int4
_ROUNDS = 8  # loads of each model, the least of which counts, as of prices


def predicted(steps: Steps, linears: Mapping[str, Candidate], head: Scheme | None) -> float:
    """Milliseconds of a step by its linears' prices."""
    of_head = steps.head[Candidate(scheme=head).label].milliseconds
    return steps.other.milliseconds + of_head + sum(steps.linears[n][c.label].milliseconds for n, c in linears.items())


def some_models(steps: Steps, count: int) -> list[tuple[str, dict[str, Candidate], Scheme | None]]:
    """How their linears are drawn, what they are, and the head's number format: half of them a candidate for each kind
    of linear, half for each linear."""
    random = Random(0)
    found = []
    for number in range(count):
        by_kind = number % 2 == 0
        drawn: dict[str, Candidate] = {}
        linears = {}
        for name, prices in steps.linears.items():
            kind = name.rpartition("layers.")[2].partition(".")[2] if by_kind else name
            drawn.setdefault(kind, random.choice([each for each in CANDIDATES if each.label in prices]))
            linears[name] = drawn[kind]
        found.append(("by kind" if by_kind else "by linear", linears, random.choice(SCHEMES)))
    return found


def measure(options: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    purpose: Purpose = options.purpose
    packed = in_bfloat16(options.model)
    plan = build_plan(packed.config)

    def prices() -> Steps:
        return Steps.measured(options.model, purpose, options.threads, _GROUP, console)

    before = prices()
    models = some_models(before, options.models)
    uniform = [("uniform", dict.fromkeys(before.linears, Candidate(scheme=scheme)), scheme) for scheme in SCHEMES]
    models = uniform + models
    least = [float("inf")] * len(models)
    for _ in range(_ROUNDS):
        for i, (_, linears, head) in enumerate(models):
            anew = random_model(packed, plan, linears, head, _GROUP)
            with Model(anew, **options_for(anew, purpose, options.threads)) as model:
                least[i] = min(least[i], 1e3 * quickest_step(model, purpose).seconds)
    after = prices()
    return [
        {
            "purpose": purpose,
            "threads": options.threads,
            "drawn": drawn,
            "before": predicted(before, linears, head),
            "after": predicted(after, linears, head),
            "measured": measured,
        }
        for (drawn, linears, head), measured in zip(models, least, strict=True)
    ]


def off(row: Mapping[str, Any]) -> float:
    """By what fraction a model took longer than predicted, by the lower of both predictions."""
    return float(row["measured"] / min(row["before"], row["after"]) - 1)


def speedup_off(row: Mapping[str, Any], dense: Mapping[str, Any]) -> float:
    """The same of how many times as fast as the dense one it is."""
    return (1 + off(dense)) / (1 + off(row)) - 1


def table(result: dict[str, Any]) -> str:
    """Of each purpose and number of threads, how far off predictions are."""
    rows = result["rows"]
    lines = [
        "| for | threads | candidates | models | ms off, median | most | speed-ups off, median | most | prices moved |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for purpose, threads in dict.fromkeys((row["purpose"], row["threads"]) for row in rows):
        these = [row for row in rows if (row["purpose"], row["threads"]) == (purpose, threads)]
        for drawn in (*dict.fromkeys(row["drawn"] for row in these), "all"):
            some = [row for row in these if drawn in (row["drawn"], "all")]
            offs = [abs(off(row)) for row in some]
            speedups = [abs(speedup_off(row, these[0])) for row in some if row is not these[0]]  # the first is dense
            moved = median(abs(row["after"] / row["before"] - 1) for row in some)
            cells = (median(offs), max(offs), median(speedups), max(speedups), moved)
            shares = " | ".join(f"{each:.1%}" for each in cells)
            lines.append(f"| {purpose} | {threads} | {drawn} | {len(some)} | {shares} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--for", dest="purpose", choices=SEQUENCES, default="decode")
    parser.add_argument("--threads", type=int, default=native().default_threads())
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    file = options.results / "prices.json"
    key = (options.purpose, options.threads)
    rows = [row for row in resume(file).get("rows", []) if (row["purpose"], row["threads"]) != key]
    rows += measure(options, Console(stderr=True, highlight=False))
    print(table(save(file, {"rows": rows}, threads=options.threads)))


if __name__ == "__main__":
    main()
