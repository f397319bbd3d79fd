"""Is SquareHead behind cross-entropy in the same time where each loss has the learning rate that suits it?

    python -m benchmarks.evidence.own_rates                 # an hour and a half of two cores; resumes
    python -m benchmarks.evidence.own_rates --finished      # trains nothing, reports what is there

On the teacher, task and time of `benchmarks.evidence.feature_loss`, in whose output it works, as docs/experiments.md
announces: rates are doubled or halved while that helps on the validation questions, with the first seed; each loss at
its best one is then asked the test, three seeds, once. Leaves own_rates.json in results/.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from benchmarks.evidence.designs import SEEDS
from benchmarks.evidence.feature_loss import BOTH, CE, NOT_CLIPPED, RATE, FeatureLoss, Phase, arguments, paired
from benchmarks.evidence.report import told
from benchmarks.evidence.statistics import right_share
from benchmarks.evidence.wording import points, shares
from cutwork.recipe import Losses

THEN = "CE+SquareHead, not clipped, then CE"
KINDS = (CE, NOT_CLIPPED, THEN)  # in the order in which they are made
RATES = tuple(RATE * 2.0**power for power in range(-3, 4))
LEAST = 2.0  # points that SquareHead has to be ahead


def variant(kind: str, rate: float) -> str:
    """The name of a loss at a rate; at that of `feature_loss` its own, whose models are there."""
    return kind if rate == RATE and kind != THEN else f"{kind}, {rate:g}"


def phases(kind: str, rate: float) -> tuple[Phase, ...]:
    """What a loss is at a rate."""
    alone, both = Phase(Losses(ce=1.0), rate=rate), Phase(BOTH, clip=0.0, rate=rate)
    if kind == THEN:
        return Phase(BOTH, share=0.5, clip=0.0, rate=rate), Phase(Losses(ce=1.0), share=0.5, rate=rate)
    return (alone,) if kind == CE else (both,)


PARTS = {variant(kind, rate): (kind, rate) for kind in KINDS for rate in RATES}


class OwnRates(FeatureLoss):
    """Losses at several learning rates."""

    name = "own_rates"
    variants: ClassVar[Mapping[str, tuple[Phase, ...]]] = {name: phases(*of) for name, of in PARTS.items()}

    def right(self, kind: str, rate: float) -> int | None:
        """Right answers on validation, of the first seed; None if that model is not made and may not be."""
        row = self.ask(variant(kind, rate), SEEDS[0], "validation")
        return None if row is None else int(row["right"])


def climb(right: Callable[[float], int | None], rates: Sequence[float], start: float) -> float | None:
    """The best of rising rates, looked for from one of them upwards while it gets better, else downwards; None if one
    that had to be asked is not there."""
    place = rates.index(start)
    most = right(start)
    for way in (1, -1):
        moved = False
        while most is not None and 0 <= place + way < len(rates):
            found = right(rates[place + way])
            if found is None:
                return None
            if found <= most:
                break
            place, most, moved = place + way, found, True
        if moved:
            break
    return None if most is None else rates[place]


def main() -> None:
    experiment = OwnRates(arguments(__doc__).parse_args())
    best = {kind: climb(lambda rate, kind=kind: experiment.right(kind, rate), RATES, RATE) for kind in KINDS}
    if None not in best.values():
        for seed in SEEDS:
            for kind, rate in best.items():
                experiment.ask(variant(kind, rate), seed, "test")
    result = experiment.save()
    print(choices(result), table(result), sep="\n\n")


def choices(result: dict[str, Any]) -> str:
    """Right answers on validation by loss and rate."""
    rows = {PARTS[row["variant"]]: row for row in result["rows"] if row["split"] == "validation"}
    rates = [rate for rate in RATES if any(rate == of for _, of in rows)]
    lines = [
        f"| loss | {' | '.join(f'{rate:g}' for rate in rates)} | of |",
        f"|---|{'--:|' * (len(rates) + 1)}",
    ]
    for kind in KINDS:
        own = {rate: row for (loss, rate), row in rows.items() if loss == kind}
        if own:
            said = [f"{own[rate]['right'] / own[rate]['samples']:.1%}" if rate in own else "–" for rate in rates]
            lines.append(f"| {kind} | {' | '.join(said)} | {next(iter(own.values()))['samples']} |")
    return "\n".join(lines)


def table(result: dict[str, Any]) -> str:
    """The test: each loss at its own rate, and whether those with SquareHead are ahead as announced."""
    groups: dict[str, list[dict[str, Any]]] = {}
    rates: dict[str, float] = {}
    for row in result["rows"]:
        if row["split"] == "test":
            kind, rate = PARTS[row["variant"]]
            rates[kind] = rate
            groups.setdefault(kind, []).append(row)
    lines = [
        "| loss | rate | right of the test, by seed | mean [95%] | minus CE, same time [95%] | |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for kind, rows in groups.items():
        mean, low, high = right_share(rows)
        cells = [kind, f"{rates[kind]:g}", shares(rows), f"{mean:.1%} [{low:.1%}, {high:.1%}]", "", ""]
        if kind != CE and CE in groups:
            found = paired(groups, kind, CE)
            cells[4:] = [points(found), told(found[0] >= LEAST and found[1] > 0)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
