"""Whether a step takes what the prices of its linears add up to: `compress` chooses by that.

    python -m benchmarks.compress.prices out/demo/teacher --for decode --threads 2     # a quiet machine, eight minutes
    python -m benchmarks.compress.prices out/demo/teacher --for decode --threads 2 --name prices_amx

Prices are measured as `compress` does, in turns with models whose linears are candidates as they come, some kinds of
linears alike as frontiers have them, others anything; all of random numbers, so that only milliseconds are asked. These
models generate: of as many loads of each the mean of those in the middle counts. Leaves prices.json, or what is named,
in results/, by purpose and threads.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from random import Random
from statistics import mean, median
from typing import Any

from rich.console import Console

from benchmarks.common.results import RESULTS, resume, save
from cutwork.architectures import build_plan
from cutwork.compress.candidates import CANDIDATES, SCHEMES, Candidate
from cutwork.compress.milliseconds import (
    SEQUENCES,
    TOKENS,
    Purpose,
    Steps,
    in_bfloat16,
    in_the_middle,
    names_read,
    options_for,
    random_model,
)
from cutwork.engine.backend import native
from cutwork.engine.model import Model
from cutwork.measure import speed
from cutwork.plan.builder import Plan
from cutwork.plan.ops import Linear
from cutwork.recipe import Scheme

_GROUP = 128  # columns that share a scale in int4
_PROMPT, _DECODED = 192, 64  # tokens: about what prices are of, which attend to 256
_SECONDS = 1.0  # that one load of a model is timed


def predicted(steps: Steps, linears: Mapping[str, Candidate], head: Scheme | None) -> float:
    """Milliseconds of a step by its linears' prices."""
    of_head = steps.head[Candidate(scheme=head).label].milliseconds
    return steps.other.milliseconds + of_head + sum(steps.linears[n][c.label].milliseconds for n, c in linears.items())


def some_models(plan: Plan, count: int) -> list[tuple[str, dict[str, Candidate], Scheme | None]]:
    """How linears are drawn, what they are, and the head's number format: three uniform models, the dense one first,
    then half of so many a candidate for each kind of linear, half for each linear."""
    random, names = Random(0), names_read(plan, Linear)
    found = [("uniform", dict.fromkeys(names, Candidate(scheme=scheme)), scheme) for scheme in SCHEMES]
    for number in range(count):
        by_kind = number % 2 == 0
        drawn: dict[str, Candidate] = {}
        linears = {}
        for name in names:
            kind = name.rpartition("layers.")[2].partition(".")[2] if by_kind else name
            drawn.setdefault(kind, random.choice([each for each in CANDIDATES if each.fits(*plan.weights[name])]))
            linears[name] = drawn[kind]
        found.append(("by kind" if by_kind else "by linear", linears, random.choice(SCHEMES)))
    return found


def generated(model: Model, purpose: Purpose) -> float:
    """Milliseconds of the usual step while text is generated, or of a prompt."""
    prompt = TOKENS["prefill"] if purpose == "prefill" else _PROMPT
    decoded = 1 if purpose == "prefill" else _DECODED
    how: Any = {"batch": SEQUENCES[purpose], "seconds": _SECONDS, "console": Console(quiet=True)}
    found = speed.measure({"": model}, prompt, decoded, 1, **how)[""].as_json()
    milliseconds: Any = found["first_token_ms" if purpose == "prefill" else "step_ms_p50"]
    return float(milliseconds)


def measure(options: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    purpose: Purpose = options.purpose
    packed = in_bfloat16(options.model)
    plan = build_plan(packed.config)
    models = some_models(plan, options.models)
    taken: list[list[float]] = [[] for _ in models]

    def time_all() -> None:
        for i, (_, linears, head) in enumerate(models):
            anew = random_model(packed, plan, linears, head, _GROUP)
            with Model(anew, **options_for(anew, purpose, options.threads)) as model:
                taken[i].append(generated(model, purpose))

    steps = Steps.measured(options.model, purpose, options.threads, _GROUP, console, after_round=time_all)
    return [
        {
            "purpose": purpose,
            "threads": options.threads,
            "drawn": drawn,
            "predicted": predicted(steps, linears, head),
            "measured": mean(in_the_middle(each, float)),
        }
        for (drawn, linears, head), each in zip(models, taken, strict=True)
    ]


def off(row: Mapping[str, Any]) -> float:
    """By what fraction a model took longer than predicted."""
    return float(row["measured"] / row["predicted"] - 1)


def speedup_off(row: Mapping[str, Any], dense: Mapping[str, Any]) -> float:
    """The same of how many times as fast as the dense one it is."""
    return (1 + off(dense)) / (1 + off(row)) - 1


def table(result: dict[str, Any]) -> str:
    """Of each purpose and number of threads, how far off predictions are."""
    rows = result["rows"]
    lines = [
        "| for | threads | candidates | models | ms off, median | most | speed-ups off, median | most |",
        "|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    for purpose, threads in dict.fromkeys((row["purpose"], row["threads"]) for row in rows):
        these = [row for row in rows if (row["purpose"], row["threads"]) == (purpose, threads)]
        for drawn in (*dict.fromkeys(row["drawn"] for row in these), "all"):
            some = [row for row in these if drawn in (row["drawn"], "all")]
            offs = [abs(off(row)) for row in some]
            speedups = [abs(speedup_off(row, these[0])) for row in some if row is not these[0]]  # the first is dense
            cells = (median(offs), max(offs), median(speedups), max(speedups))
            shares = " | ".join(f"{each:.1%}" for each in cells)
            lines.append(f"| {purpose} | {threads} | {drawn} | {len(some)} | {shares} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--for", dest="purpose", choices=SEQUENCES, default="decode")
    parser.add_argument("--threads", type=int, default=native().default_threads())
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--name", default="prices", help="of the result (default: prices)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    file = options.results / f"{options.name}.json"
    key = (options.purpose, options.threads)
    rows = [row for row in resume(file).get("rows", []) if (row["purpose"], row["threads"]) != key]
    rows += measure(options, Console(stderr=True, highlight=False))
    print(table(save(file, {"rows": rows}, threads=options.threads)))


if __name__ == "__main__":
    main()
