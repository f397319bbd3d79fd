"""How much of what is trained on is padding, by the size of micro-batches, and what that costs.

    python -m benchmarks.training.padding --model out/smollm2-gsm/sparse --teacher out/smollm2-gsm/teacher

Samples are drawn and sorted within optimiser steps as `tune` does (`torch_models/data.py`); the shares are those of
three epochs of the demo's task and, with `--gsm8k DIRECTORY` (train.jsonl, test.jsonl), of GSM8K. Then, on some steps
of the demo, forward and backward passes with a teacher are timed with micro-batches of several sizes, in turn, and with
samples cut to the shortest of their step, which is what a perfect packing would make of it. Leaves
results/padding.json.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from benchmarks.common.results import RECIPES, RESULTS, save
from cutwork.recipe import TaskSettings
from cutwork.recipe_file import load_recipe
from cutwork.tasks.load import load_task
from cutwork.torch_models.data import StepSampler, collate, examples
from cutwork.torch_models.load import load_model, load_tokenizer
from cutwork.torch_models.model_inputs import Example

STEPS, MICRO = (8, 32), (8, 4, 2)


def padding(lengths: list[int], step: int, micro: int) -> float:
    """The fraction of tokens that are padding, over three epochs."""
    real = padded = 0
    for epoch in range(3):
        sampler = StepSampler(lengths, step, 0)
        sampler.set_epoch(epoch)
        order = list(sampler)
        for start in range(0, len(order), micro):
            batch = [lengths[i] for i in order[start : start + micro]]
            real, padded = real + sum(batch), padded + max(batch) * len(batch)
    return 1 - real / padded


def train(student: Any, teacher: Any, batches: list[list[Example]]) -> float:
    """Real tokens per second, forward and backward."""
    start = time.perf_counter()
    for batch in batches:
        inputs = collate(batch)
        labels, real = inputs.pop("labels"), inputs["attention_mask"].bool()
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                expected = teacher(**inputs, output_hidden_states=True, logits_to_keep=1).hidden_states
            found = student(**inputs, output_hidden_states=True)
            loss = cross_entropy(found.logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())
            for ours, theirs in zip(found.hidden_states[1:], expected[1:], strict=True):
                loss = loss + (ours - theirs)[real].float().square().mean()
        loss.backward()
    return sum(len(e["input_ids"]) for batch in batches for e in batch) / (time.perf_counter() - start)


def main() -> None:
    """Count, time and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--gsm8k", type=Path)
    parser.add_argument("--steps", type=int, default=3, help="optimiser steps that are timed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "padding.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = load_tokenizer(options.teacher)
    demo = load_recipe(RECIPES / "smollm2-gsm.yaml").task
    tasks = [demo]
    if options.gsm8k:
        where = {"directory": str(options.gsm8k)}
        tasks.append(TaskSettings(name="gsm8k", train_samples=7473, test_samples=1, options=where))
    made = [examples(tokenizer, load_task(task).train, task.max_length) for task in tasks]
    rows = [
        {"task": task.name, "batch_size": step, "micro_batch_size": micro, "padding": padding(lengths, step, micro)}
        for task, lengths in zip(tasks, (found.lengths for found in made), strict=True)
        for step in STEPS
        for micro in MICRO
    ]
    student, teacher = load_model(options.model, torch.float32), load_model(options.teacher, torch.bfloat16).eval()
    order = list(StepSampler(made[0].lengths, STEPS[0], 0))
    speeds: dict[str, list[float]] = {}
    for number in range(options.steps + 1):  # the first warms up
        step = [made[0][i] for i in order[STEPS[0] * number : STEPS[0] * (number + 1)]]
        shortest = min(len(example["input_ids"]) for example in step)
        even = [{key: value[:shortest] for key, value in example.items()} for example in step]
        ways = {str(micro): [step[i : i + micro] for i in range(0, len(step), micro)] for micro in MICRO}
        for name, batches in {**ways, "no padding": [even]}.items():
            speed = train(student, teacher, batches)
            if number:
                speeds.setdefault(name, []).append(speed)
    result = {
        "rows": rows,
        "tokens_per_second": {name: median(found) for name, found in speeds.items()},
        "speeds": speeds,
    }
    print(json.dumps(save(options.output, result, threads=options.threads), indent=1))


def table(result: dict[str, Any]) -> str:
    """Padding by task and batch, and the speed of the demo's steps."""
    lines = ["| task | samples a step | in a micro-batch | padding |", "|---|--:|--:|--:|"]
    for row in result["rows"]:
        lines.append(f"| {row['task']} | {row['batch_size']} | {row['micro_batch_size']} | {row['padding']:.0%} |")
    lines += ["", "| in a micro-batch | tokens/s (slowest–fastest) |", "|---|--:|"]
    for name, runs in result["speeds"].items():
        lines.append(f"| {name} | {median(runs):.0f} ({min(runs):.0f}–{max(runs):.0f}) |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
