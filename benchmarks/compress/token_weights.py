"""Do calibration tokens that count as much as answers owe to them leave better answers?

    python -m benchmarks.compress.token_weights --recipe my.yaml --teacher out/teacher --seeds 0 1

For each seed of the calibration samples a dense model is pruned by the recipe's method and rounded by GPTQ, in one
shot, with Hessians in which all tokens are equal and in which they are weighed (`prune/token_weights.py`). Asked is the
KL divergence from the dense model of the next token on validation samples, in their answers and everywhere in them.
Leaves token_weights.json in results/, after every row, and goes on where it was interrupted.
"""

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks.common.results import RESULTS, resume, save
from cutwork.compress.candidates import Candidate, parse
from cutwork.compress.corrections import with_weights
from cutwork.compress.sensitivity import divergences
from cutwork.prune.calibrate import calibration_batches, calibration_examples, walk
from cutwork.prune.input_statistics import Hessian
from cutwork.prune.pruners import pruner
from cutwork.prune.token_weights import token_weights
from cutwork.quantize.gptq import gptq
from cutwork.quantize.schemes import grid_of
from cutwork.recipe import QuantizeSettings, Recipe
from cutwork.recipe_file import load_recipe
from cutwork.tasks.load import load_task
from cutwork.torch_models.blocks import block_linears, out_in
from cutwork.torch_models.data import collate
from cutwork.torch_models.load import load_for_surgery, load_tokenizer

CANDIDATES = ("dense w4a16", "8:16 w4a16", "70 w8a8", "4:16 w4a16")
KINDS = ("equal", "answers")


def made(
    model: Any, batches: Sequence[dict[str, Tensor]], candidate: Candidate, weights: Mapping[str, Tensor] | None,
    recipe: Recipe, console: Console,
) -> dict[str, Tensor]:  # fmt: skip
    """What a candidate leaves of every linear's weight, [out, in]; the model stays as it is."""
    prune, size = (
        pruner(recipe.prune.method, recipe.prune.block_size),
        (recipe.quantize or QuantizeSettings()).group_size,
    )
    changed = copy.deepcopy(model)

    def visit(group: dict[str, nn.Module], statistics: Hessian) -> None:
        for linear in group.values():
            weight = out_in(linear)
            left = prune(weight, statistics, candidate.as_pattern())[0] if candidate.sparsity else weight.float()
            if candidate.scheme:
                grid = grid_of(candidate.scheme, weight.shape[1], size, torch.float32)
                left = gptq(left, statistics, grid).weight()
            weight.copy_(left)

    walk(changed, batches, visit, console, candidate.label, damping=recipe.prune.damping, weights=weights)
    return {name: out_in(linear) for name, linear in block_linears(changed).items()}


def table(result: dict[str, Any]) -> str:
    """By candidate: the mean over seeds, and each seed's ratio."""
    lines = [
        "| candidate | KL in answers, equal | weighed | ratio by seed | everywhere, equal | weighed |",
        "|---|--:|--:|---|--:|--:|",
    ]
    rows = result["rows"]
    for label in dict.fromkeys(row["candidate"] for row in rows):
        own = {kind: [row for row in rows if (row["candidate"], row["weights"]) == (label, kind)] for kind in KINDS}
        mean = {
            (kind, key): float(np.mean([r[key] for r in own[kind]]))
            for kind in KINDS
            for key in ("kl", "kl_everywhere")
        }
        ratios = ", ".join(f"{b['kl'] / a['kl']:.2f}" for a, b in zip(own["equal"], own["answers"], strict=True))
        lines.append(
            f"| {label} | {mean['equal', 'kl']:.3g} | {mean['answers', 'kl']:.3g} | {ratios} "
            f"| {mean['equal', 'kl_everywhere']:.3g} | {mean['answers', 'kl_everywhere']:.3g} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Make, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True, help="task, pruning and rounding")
    parser.add_argument("--teacher", type=Path, required=True, help="the dense model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the calibration samples")
    parser.add_argument("--calibration", type=int, help="samples, instead of the recipe's")
    parser.add_argument("--candidates", nargs="+", default=CANDIDATES)
    parser.add_argument("--samples", type=int, default=32, help="of validation, of which KL is measured")
    parser.add_argument("--name", default="token_weights", help="of the results")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()

    recipe, console = load_recipe(options.recipe), Console(stderr=True)
    task, count = load_task(recipe.task), options.calibration or recipe.prune.calibration_samples
    model, _ = load_for_surgery(options.teacher)
    tokenizer = load_tokenizer(options.teacher)

    def examples(samples: Sequence[Any], count: int, seed: int) -> Any:
        return calibration_examples(tokenizer, samples, count, recipe.task.max_length, seed, long=recipe.task.long)

    judging = [collate([example]) for example in examples(task.validation, options.samples, 0)]
    everywhere = [{**batch, "labels": batch["input_ids"]} for batch in judging]
    file = options.results / f"{options.name}.json"
    rows = resume(file).get("rows", [])
    for seed in options.seeds:
        batches = calibration_batches(examples(task.train, count, seed))
        weights: dict[str, Callable[[], Mapping[str, Tensor] | None]] = {
            "equal": lambda: None,
            "answers": lambda batches=batches, seed=seed: token_weights(model, batches, console, seed),  # type: ignore[misc]
        }
        for kind, weigh in weights.items():
            missing = [
                label for label in options.candidates
                if not any((r["seed"], r["candidate"], r["weights"]) == (seed, label, kind) for r in rows)
            ]  # fmt: skip
            given = weigh() if missing else None
            for label in missing:
                left = made(model, batches, parse(label), given, recipe, console)
                damage = {label: with_weights(model, left)}
                [in_answers], [all_] = (
                    divergences(model, each, damage, console).values() for each in (judging, everywhere)
                )
                row = {"seed": seed, "candidate": label, "weights": kind, "kl": in_answers, "kl_everywhere": all_}
                console.print(row, highlight=False)
                rows.append(row)
                about = {"task": task.name, "method": recipe.prune.method, "calibration_samples": count}
                result = save(file, {**about, "samples": len(judging), "rows": rows})
    print(table(result))


if __name__ == "__main__":
    main()
