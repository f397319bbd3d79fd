"""Would low-rank corrections, computed from the Hessian, make better models of the same speed?

    python -m benchmarks.compress.low_rank --recipe my.yaml --work out/my-compress     # minutes; no training

EoRA (arXiv 2410.21271): what pruning and rounding took from a linear, W - W', is put back as far as a product of two
thin matrices can, in the norm that the inputs' Hessian H = L Lᵀ gives: its projection on the left singular vectors of
(W - W') L. What is left is judged as `cutwork compress` judges candidates, on other samples. Every linear is offered
some candidates with such a correction in bfloat16 too, at the price of the bytes that it adds, calls and all else for
nothing; the frontier with these offers is compared with the one without. Every third block is measured and stands for
the two behind it. `--work` is what `cutwork compress` left, or is made.
Leaves low_rank.json in results/.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks.common.results import RECIPES, RESULTS, save
from cutwork.compress.candidates import DENSE, parse
from cutwork.compress.menu import HEAD, Menu, Offer
from cutwork.compress.solve import Option, Solver
from cutwork.compress.workshop import Workshop
from cutwork.prune.calibrate import calibration_batches, calibration_examples, walk
from cutwork.prune.input_statistics import Hessian
from cutwork.prune.pruners import Prune, pruner
from cutwork.prune.second_order import output_error
from cutwork.quantize.gptq import gptq
from cutwork.quantize.qat import round_activations
from cutwork.quantize.schemes import grid_of
from cutwork.recipe import QuantizeSettings
from cutwork.recipe_file import load_recipe
from cutwork.run.stages import path_of
from cutwork.store.block_names import place
from cutwork.tasks.load import load_task
from cutwork.torch_models.blocks import out_in
from cutwork.torch_models.load import load_for_surgery, load_tokenizer

CORRECTED = ("dense w4a16", "8:16 w4a16", "70 w4a16", "4:16 w4a16", "4:16 w8a8", "4:16 bf16")
RANKS = (8, 16, 32, 64)
EVERY = 3  # blocks, of which the first is measured
POINTS = 16
BYTES = 2  # of a number of a correction


def left(weight: Tensor, label: str, statistics: Hessian, prune: Prune, group_size: int) -> list[float]:
    """The part of a candidate's error that stays with a correction of each of RANKS."""
    candidate, weight = parse(label), weight.float()
    assert statistics.held_out is not None
    inputs = nn.functional.normalize(statistics.held_out)  # tokens that count alike
    matrix = inputs.T @ inputs / len(inputs)
    reduced = prune(weight, statistics, candidate.as_pattern())[0] if candidate.sparsity else weight
    rounding = 0.0  # of inputs, which no correction of weights mends
    if candidate.scheme:
        reduced = gptq(
            reduced, statistics, grid_of(candidate.scheme, weight.shape[1], group_size, torch.float32)
        ).weight()
        [rounded] = round_activations(nn.Identity(), (inputs,))
        rounding = (reduced.square() @ (rounded - inputs).square().mean(0)).sum().item()
    lost = weight - reduced
    towards, _, _ = torch.svd_lowrank(lost @ torch.linalg.cholesky(statistics.damped), q=max(RANKS) + 16, niter=4)

    def error(rank: int) -> float:
        basis = towards[:, :rank]
        return output_error(lost - basis @ (basis.T @ lost), matrix).sum().item() + rounding

    return [error(rank) / error(0) for rank in RANKS]


def corrections(shop: Workshop, console: Console) -> dict[str, dict[str, list[float]]]:
    """Of every linear of the blocks, by candidate: `left`."""
    settings, task = shop.base.prune, shop.base.task
    directory = path_of(shop.source)
    model, _ = load_for_surgery(directory)
    count = settings.calibration_samples
    data = list(
        calibration_examples(
            load_tokenizer(directory), shop.task.train, 2 * count, task.max_length, settings.seed, long=task.long
        )
    )
    found: dict[str, dict[str, list[float]]] = {}
    size = (shop.base.quantize or QuantizeSettings()).group_size
    prune = pruner(settings.method, settings.block_size)

    def visit(group: dict[str, nn.Module], statistics: Hessian) -> None:
        for name, linear in group.items():
            block, _ = place(name)
            if block % EVERY:
                found[name] = found[name.replace(f".{block}.", f".{block - block % EVERY}.", 1)]
                continue
            found[name] = {label: left(out_in(linear), label, statistics, prune, size) for label in CORRECTED}

    walk(
        model, calibration_batches(data[:count]), visit, console, "corrections", damping=settings.damping,
        changes=False, held_out=calibration_batches(data[count:]),
    )  # fmt: skip
    return found


def offers_with(menu: Menu, found: dict[str, dict[str, list[float]]]) -> dict[str, list[Offer]]:
    """Those of the menu and, for linears of the blocks, the corrected ones."""
    parts = {name: list(offers) for name, offers in menu.parts.items()}
    for name, offers in parts.items():
        if name == HEAD:
            continue
        by_label, (rows, columns) = {offer.label: offer for offer in offers}, menu.shapes[name]
        for label, parts_left in found[name].items():
            if (plain := by_label.get(label)) is None:
                continue
            for rank, part in zip(RANKS, parts_left, strict=True):
                share = rank * (rows + columns) / (rows * columns)
                milliseconds = plain.milliseconds + share * by_label[DENSE.label].milliseconds
                nbytes = plain.nbytes + BYTES * rank * (rows + columns)
                offers.append(Offer(f"{label} + {rank}", milliseconds, nbytes, plain.kl * part))
    return parts


def best(parts: dict[str, list[Offer]], budgets: Sequence[float]) -> list[tuple[float, Counter[str]]]:
    """(KL, how many parts take each label) of the best choice within each budget of milliseconds."""
    solver = Solver([[Option(offer.milliseconds, offer.kl) for offer in offers] for offers in parts.values()])
    found = []
    for budget in budgets:
        chosen = solver.within(budget) or []
        taken = [offers[i] for offers, i in zip(parts.values(), chosen, strict=True)]
        found.append((sum(offer.kl for offer in taken), Counter(offer.label for offer in taken)))
    return found


def table(result: dict[str, Any]) -> str:
    """By speed-up."""
    lines = ["| speed-up | KL | with corrections | linears that take one | most often |", "|--:|--:|--:|--:|---|"]
    for row in result["rows"]:
        lines.append(
            f"| {row['speedup']:.2f}× | {row['kl']:.3g} | {row['kl_corrected']:.3g} | {row['corrected']:.0%} "
            f"| {row['most'] or '–'} |"
        )
    return "\n".join(lines)


def left_table(result: dict[str, Any]) -> str:
    """By candidate and rank."""
    heads = " | ".join(f"rank {rank}" for rank in RANKS)
    lines = [f"| candidate | {heads} |", "|---" + "|--:" * len(RANKS) + "|"]
    for label, values in result["left"].items():
        lines.append(f"| {label} | " + " | ".join(f"{value:.0%}" for value in values) + " |")
    return "\n".join(lines)


def main() -> None:
    """Work out and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPES / "smollm2-gsm.yaml", help="model, task and calibration")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("out/choices"))
    parser.add_argument("--output", type=Path, default=RESULTS / "low_rank.json")
    options = parser.parse_args()
    recipe, console = load_recipe(options.recipe), Console(stderr=True)
    compare = recipe.compare.model_copy(update={"threads": options.threads})
    base = recipe.model_copy(update={"output": options.work, "compare": compare})
    shop = Workshop(base, load_task(base.task), "decode", "answers", console)
    menu, found = shop.menu, corrections(shop, console)
    parts = offers_with(menu, found)
    plain = {name: list(offers) for name, offers in menu.parts.items()}
    least = menu.other_milliseconds + sum(min(o.milliseconds for o in offers) for offers in plain.values())
    totals = [float(x) for x in np.geomspace(menu.dense_milliseconds, least, POINTS)[1:]]
    budgets = [1.000001 * total - menu.other_milliseconds for total in totals]
    rows = []
    for total, (kl, _), (corrected, labels) in zip(totals, best(plain, budgets), best(parts, budgets), strict=True):
        taken = Counter({label: count for label, count in labels.items() if " + " in label})
        rows.append(
            {
                "speedup": menu.dense_milliseconds / total,
                "kl": kl,
                "kl_corrected": corrected,
                "corrected": taken.total() / len(found),
                "most": taken.most_common(1)[0][0] if taken else None,
            }
        )
    means = {
        label: [float(np.mean([each[label][i] for each in found.values()])) for i in range(len(RANKS))]
        for label in CORRECTED
    }
    result = save(options.output, {"model": base.model, "rows": rows, "left": means}, threads=options.threads)
    print(left_table(result), table(result), sep="\n\n")


if __name__ == "__main__":
    main()
