"""Do weights that fill the empty slots of an unstructured mask make it better than other masks of the same bytes?

    python -m benchmarks.training.filling out/new-numbers/teacher --recipe benchmarks/evidence/new_numbers.yaml

Where a processor has no instruction that expands a bitmask, the engine lays zeros anywhere out in slots when it loads
them, of which some stay empty. Filling keeps the dearest of the weights that fit into these (`fill`), so that more live
at the same speed; but fewer zeros then are the pattern's own choice. Linears of some blocks are pruned by ALPS, at
several rates, and judged by the error of their outputs on inputs that calibration has not seen, against the bytes that
the engine's slots take. Leaves filling.json in results/.
"""

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks.common.results import RESULTS, save
from cutwork import _native
from cutwork.pack.masked import encode
from cutwork.pack.slots import in_slots
from cutwork.prune.adaptive import AdaptiveTiles
from cutwork.prune.alps import alps
from cutwork.prune.calibrate import calibration_batches, calibration_examples, walk
from cutwork.prune.input_statistics import Hessian
from cutwork.prune.pattern import Choice, KeepNOfM, Pattern, Unstructured
from cutwork.recipe_file import load_recipe
from cutwork.store.block_names import place
from cutwork.tasks.load import load_task
from cutwork.torch_models.blocks import out_in
from cutwork.torch_models.load import load_for_surgery, load_tokenizer

ANYWHERE, FILLED, ADAPTIVE, FOUR = "anywhere", "filled", "adaptive", "4:16"
RATES = {  # whose bytes meet
    ANYWHERE: (0.7, 0.75, 0.8, 0.85),
    FILLED: (0.7, 0.75, 0.8, 0.85, 0.9),
    ADAPTIVE: (0.55, 0.6, 0.65, 0.7, 0.75),
}
STRIP, WINDOW, TAKE = 4, 16, 4  # rows, columns and slots of a row in a step (native/weights/strips.cpp)


def fill(keep: Tensor, costs: Tensor, live: Tensor) -> Tensor:
    """A mask [out, in] and the dearest weights that fit into the slots which it leaves empty.

    Strips of four rows are gone through as the engine lays them out: a step begins at the strip's next live weight, and
    every row takes up to four in the 16 columns from there. What is added is met in the same step, so that a strip has
    as many of them as before.
    """
    rows, columns = keep.shape
    padded = nn.functional.pad(keep, (0, 0, 0, -rows % STRIP))
    prices = nn.functional.pad(costs.masked_fill(~live, -torch.inf), (0, 0, 0, -rows % STRIP), value=-torch.inf)
    result, count = padded.clone(), len(padded)
    places = torch.where(padded, torch.arange(columns), columns).sort(dim=1).values
    places = nn.functional.pad(places, (0, TAKE), value=columns)  # the columns of each row's weights, then the end
    following, begins = torch.zeros(count, dtype=torch.long), torch.zeros(count, dtype=torch.long)
    every = torch.arange(count)
    while True:
        first = places[every, following].view(-1, STRIP).min(1).values
        if bool((first == columns).all()):
            return result[:rows]
        start = first.clamp(max=columns - WINDOW).clamp(min=0).repeat_interleave(STRIP)
        working = (first < columns).repeat_interleave(STRIP)
        ahead = places.gather(1, following[:, None] + torch.arange(TAKE))
        taken = ((ahead < start[:, None] + WINDOW) & working[:, None]).sum(1)
        window = start[:, None] + torch.arange(min(WINDOW, columns))
        offered = prices.gather(1, window).masked_fill(padded.gather(1, window), -torch.inf)
        offered = offered.masked_fill(window < begins[:, None], -torch.inf)
        dearest = offered.topk(TAKE, dim=1)
        chosen = (torch.arange(TAKE) < (TAKE - taken)[:, None]) & working[:, None] & (dearest.values > -torch.inf)
        row, slot = chosen.nonzero(as_tuple=True)
        result[row, window[row, dearest.indices[row, slot]]] = True
        last = places[every, following + taken - 1] + 1  # of a full row, whose next weights may be in this window
        begins = torch.where(working, torch.where(taken < TAKE, start + WINDOW, last), begins)
        following = following + taken


@dataclass(frozen=True)
class Filled:
    """Zeros anywhere, in whose empty slots the dearest other weights live."""

    own: Unstructured

    @property
    def sparsity(self) -> float:
        return self.own.sparsity

    @property
    def width(self) -> int:
        return self.own.width

    def check(self, rows: int, columns: int) -> None:
        self.own.check(rows, columns)

    def zeros(self, live: Tensor) -> int:
        return self.own.zeros(live)

    def keep(self, costs: Tensor, live: Tensor, *, by_row: bool = False) -> Tensor:
        return fill(self.own.keep(costs, live, by_row=by_row), costs, live)

    def choice(self, live: Tensor) -> Choice:
        return lambda costs: self.keep(costs, live)


def patterns() -> list[tuple[str, Pattern]]:
    """By name, several rates of each that has any."""
    return [
        *((ANYWHERE, Unstructured(rate)) for rate in RATES[ANYWHERE]),
        *((FILLED, Filled(Unstructured(rate))) for rate in RATES[FILLED]),
        *((ADAPTIVE, AdaptiveTiles(rate)) for rate in RATES[ADAPTIVE]),
        (FOUR, KeepNOfM(4, 16)),
    ]


def slot_bytes(mask: Tensor) -> int:
    """Of int8 codes with these zeros, laid out when loaded or, if that is smaller, as stored slots."""
    codes, scale = mask.to(torch.int8).numpy(), np.ones(len(mask), np.float32)
    bitmask = encode(codes, scale)
    weight = _native.Weight.dense(codes, scale).in_slots()
    assert weight is not None
    stored = in_slots(codes, bitmask)
    return min(weight.nbytes, stored.nbytes if stored.encoding == "slots" else weight.nbytes)


def errors(weight: Tensor, statistics: Hessian) -> list[dict[str, Any]]:
    """Of every pattern: zeros, bytes of a weight, and the part of the outputs' energy that is lost."""
    assert statistics.held_out is not None
    outputs, found = weight @ statistics.held_out.T, []
    for name, pattern in patterns():
        pruned, mask = alps(weight, statistics, pattern)
        lost = (outputs - pruned @ statistics.held_out.T).square().sum() / outputs.square().sum()
        found.append(
            {
                "pattern": name,
                "rate": pattern.sparsity,
                "zeros": 1 - mask.float().mean().item(),
                "bytes": slot_bytes(mask) / mask.numel(),
                "error": lost.item(),
            }
        )
    return found


def at_bytes(rows: list[dict[str, Any]], bytes_: float) -> tuple[float, float] | None:
    """(log error, zeros) of a pattern at so many bytes a weight, between its rates; None beyond them."""
    rows = sorted(rows, key=lambda row: float(row["bytes"]))
    sizes = [row["bytes"] for row in rows]
    if not sizes[0] <= bytes_ <= sizes[-1]:
        return None
    return tuple(
        float(np.interp(bytes_, sizes, values))
        for values in ([np.log(row["error"]) for row in rows], [row["zeros"] for row in rows])
    )  # type: ignore[return-value]


def table(result: dict[str, Any]) -> str:
    """At the bytes of 70% and 75% of zeros anywhere and of 4:16: every pattern's zeros, and its error over theirs."""
    lines = ["| at the bytes of | pattern | zeros | error over that one's | linears |", "|---|---|--:|--:|--:|"]
    by_linear: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in result["rows"]:
        by_linear[row["linear"]][row["pattern"]].append(row)
    for name, rate, called in (
        (ANYWHERE, 0.7, "70% anywhere"),
        (ANYWHERE, 0.75, "75% anywhere"),
        (FOUR, 0.75, "4:16"),
    ):
        ratios: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for linear in by_linear.values():
            base = next(row for row in linear[name] if row["rate"] == rate)
            for pattern, rows in linear.items():
                if found := at_bytes(rows, base["bytes"]):
                    ratios[pattern].append((found[0] - np.log(base["error"]), found[1]))
        for pattern, values in ratios.items():
            gain, zeros = np.mean(values, axis=0)
            lines.append(f"| {called} | {pattern} | {zeros:.1%} | {np.exp(gain):.3f} | {len(values)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--recipe", type=Path, required=True, help="its task is what calibrates")
    parser.add_argument("--every", type=int, default=3, help="blocks, of which the first is measured")
    parser.add_argument("--samples", type=int, default=64, help="for calibration, and as many to judge by")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe)
    task, settings = load_task(recipe.task), recipe.prune
    model, _ = load_for_surgery(options.model)
    data = list(
        calibration_examples(
            load_tokenizer(options.model), task.train, 2 * options.samples, recipe.task.max_length, settings.seed
        )
    )
    console, rows = Console(stderr=True), list[dict[str, Any]]()

    def visit(group: dict[str, nn.Module], statistics: Hessian) -> None:
        for name, linear in group.items():
            if place(name)[0] % options.every == 0:
                console.print(name, highlight=False)
                rows.extend({"linear": name, **row} for row in errors(out_in(linear).float(), statistics))

    walk(
        model,
        calibration_batches(data[: options.samples]),
        visit,
        console,
        "pruning",
        damping=settings.damping,
        changes=False,
        held_out=calibration_batches(data[options.samples :]),
    )
    result = save(RESULTS / "filling.json", {"model": options.model.name, "rows": rows}, compact=True)
    print(table(result))


if __name__ == "__main__":
    main()
