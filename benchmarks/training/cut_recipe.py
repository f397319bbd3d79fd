"""A recipe of the paper at its model's full width but cut in depth and steps: does it run, and what does it take?

    python -m benchmarks.training.cut_recipe recipes/llama2-7b-gsm8k.yaml --tokenizer DIR --gsm8k DIR
    python -m benchmarks.training.cut_recipe recipes/mpt-7b-gsm8k.yaml --set prune.sparsity=0.6 --tokenizer DIR …

A random bfloat16 model of the recipe's shape, but few blocks and the tokenizer's vocabulary, goes through `cutwork run`
in a process of its own, from dense fine-tuning to the comparison in the engine; only steps, samples and batch are fewer
than published. Needs about 20 bytes of memory per weight: 2 blocks of 7B take 16 GB. What it says of accuracy is
nothing. Adds its row to cut_recipe.json in results/.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common.random_checkpoint import count_weights, llama, write_random
from benchmarks.common.results import RESULTS, resume, save
from benchmarks.common.shapes import MPT_7B
from benchmarks.common.shapes import SHAPES as LLAMAS
from cutwork import _native
from cutwork.recipe import Recipe
from cutwork.recipe_file import load_recipe
from cutwork.store.atomic import write_atomically
from cutwork.store.json_file import read_json

SHAPES = {  # configuration, and what it calls the number of blocks
    "meta-llama/Llama-2-7b-hf": (llama(LLAMAS["7b"]), "num_hidden_layers"),
    "mosaicml/mpt-7b": (MPT_7B, "n_layers"),
}


def cut(recipe: Recipe, model: Path, gsm8k: Path, output: Path, steps: int, batch: int) -> dict[str, Any]:
    """The recipe as a mapping for YAML, with our model and fewer steps, samples and questions."""
    settings = recipe.model_dump(mode="json", exclude_unset=True)
    settings |= {"model": str(model), "output": str(output)}
    few = steps * batch
    settings["task"] |= {"train_samples": few, "test_samples": 4, "options": {"directory": str(gsm8k)}}
    for stage in ("teacher", "tune"):
        settings[stage] |= {"max_steps": steps, "batch_size": batch, "micro_batch_size": min(2, batch)}
    for stage in ("prune", "quantize"):
        settings[stage]["calibration_samples"] = few
    settings["compare"] = {
        "accuracy_samples": 2,
        "max_new_tokens": 16,
        "perplexity_tokens": 512,
        "prompt_tokens": 128,
        "decode_tokens": 16,
        "repeats": 3,
    }
    return settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", dest="changes", action="append", default=[], help="as of cutwork run")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a model directory whose tokenizer is used")
    parser.add_argument("--gsm8k", type=Path, required=True, help="a folder with train.jsonl and test.jsonl")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4, help="of each fine-tuning")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--work", type=Path, default=Path("out/cut-recipe"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()

    recipe = load_recipe(options.recipe, options.changes)
    config, depth = SHAPES[recipe.model]
    model = (options.work / f"{recipe.name}-{options.layers}-blocks").resolve()
    if not model.exists():
        write_random(model, config | {depth: options.layers}, options.tokenizer)
    output = options.work / recipe.name
    settings = cut(recipe, model, options.gsm8k.resolve(), output, options.steps, options.batch)
    file = options.work / f"{recipe.name}.yaml"
    write_atomically(file, yaml.safe_dump(settings, sort_keys=False))
    start = time.perf_counter()
    with subprocess.Popen([str(Path(sys.executable).with_name("cutwork")), "run", str(file)]) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"cutwork run {file} failed")

    tuned = {stage: read_json(output / stage / "tune-report.json") for stage in ("teacher", "sparse")}
    logs = {stage: (output / stage / "tune-log.jsonl").read_text().splitlines() for stage in tuned}
    pruned = read_json(output / "pruned" / "prune-report.json")
    compared = read_json(output / "results.json")
    row = {
        "recipe": recipe.name,
        "blocks": options.layers,
        "weights": count_weights(model),
        "threads": _native.default_threads(),
        "seconds": round(time.perf_counter() - start, 1),
        "peak_bytes": usage.ru_maxrss * 1024,  # mapped files included
        "tune": {
            stage: {
                "seconds_per_step": round(report["seconds"] / report["steps"], 2),
                "tokens_per_second": report["tokens_per_second"],
                "loss": [round(json.loads(line)["loss"], 4) for line in logs[stage] if "loss" in json.loads(line)],
            }
            for stage, report in tuned.items()
        },
        "prune": {key: pruned[key] for key in ("sparsity", "seconds")},
        "zeros_kept": min(tuned["sparse"]["sparsity"].values()) >= min(layer["sparsity"] for layer in pruned["layers"]),
        "decode_tokens_per_second": {v["name"]: v["decode_tokens_per_second"] for v in compared["variants"]},
        "prefill_tokens_per_second": {v["name"]: v["prefill_tokens_per_second"] for v in compared["variants"]},
    }
    options.results.mkdir(parents=True, exist_ok=True)
    results = options.results / "cut_recipe.json"
    rows = [other for other in resume(results).get("rows", []) if other["recipe"] != row["recipe"]] + [row]
    save(results, {"rows": rows})
    print(json.dumps(row, indent=1))


def table(result: dict[str, Any]) -> str:
    """What each recipe took, and whether zeros and losses behaved."""
    lines = [
        "| recipe | blocks | weights, M | zeros | kept | seconds | prune, s | seconds a step | losses, first → last |",
        "|---|--:|--:|--:|---|--:|--:|--:|---|",
    ]
    for row in result["rows"]:
        tuned = row["tune"].values()
        steps = " / ".join(f"{stage['seconds_per_step']:.0f}" for stage in tuned)
        losses = " / ".join(" → ".join(f"{loss:.1f}" for loss in (s["loss"][0], s["loss"][-1])) for s in tuned)
        lines.append(
            f"| {row['recipe']} | {row['blocks']} | {row['weights'] / 1e6:.0f} | {row['prune']['sparsity']:.0%} "
            f"| {'yes' if row['zeros_kept'] else 'no'} | {row['seconds']:,} | {row['prune']['seconds']:.0f} | {steps} "
            f"| {losses} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
