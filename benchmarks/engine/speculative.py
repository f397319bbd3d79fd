"""How much faster a dense model answers when a sparse one drafts for it, and whether it still answers the same.

    python -m benchmarks.engine.speculative --target out/demo/packed/dense-f32 --draft out/demo/packed/sparse-int8

    python -m benchmarks.engine.speculative --target out/demo/packed/dense-f32 --draft ngram --repeat README.md

Greedy answers to held-out questions of a recipe's task, or to the request to repeat pieces of a file, one at a time and
several together. Without a draft and with up to so many drafted tokens take turns, question by question; medians of the
speeds. Every answer is compared with the target's own: rounding differs between steps of one token and of several, so
two tokens of almost equal logits may change places; `same` counts the answers that are equal token for token.
Leaves speculative.json in results/.
"""

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.common.results import RECIPES, RESULTS, save
from cutwork.engine.decoding.requests import Generation
from cutwork.engine.model import Model
from cutwork.recipe import load_recipe
from cutwork.tasks.load import load_task
from cutwork.tasks.rendering import render_prompt
from cutwork.tasks.task import Sample

BATCHES = (1, 4, 16)
PIECE = 1200  # characters to repeat


@dataclass
class Measured:
    """One way to answer: tokens per second of each group of questions, and all answers."""

    speeds: list[float] = field(default_factory=list)
    answers: list[Generation] = field(default_factory=list)


def answer(model: Model, prompts: list[str], most: int, measured: Measured) -> None:
    """Answer some questions together, note the answers and the speed of decoding them."""
    start = time.perf_counter()
    answers = model.generate(prompts, max_new_tokens=most)
    seconds = time.perf_counter() - start - max(a.timings.prefill for a in answers)
    measured.answers += answers
    measured.speeds.append(sum(len(a.tokens) for a in answers) / seconds)


def measure(models: dict[int, Model], prompts: list[str], most: int, console: Console) -> list[dict[str, Any]]:
    """Rows of all batches; `models` by the number of tokens drafted, 0 for none."""
    rows = []
    for batch in BATCHES:
        for model in models.values():
            model.generate(prompts[:1], max_new_tokens=4)  # pages of weights and thread pools are there afterwards
        measured = {drafted: Measured() for drafted in models}
        for start in range(0, len(prompts) - batch + 1, batch):
            for drafted, model in models.items():
                answer(model, prompts[start : start + batch], most, measured[drafted])
        own = measured[0]
        for drafted, each in measured.items():
            guessed = sum(a.guessed_tokens for a in each.answers)
            pairs = zip(each.answers, own.answers, strict=True)
            row = {
                "batch": batch,
                "draft_tokens": drafted,
                "tokens_per_second": median(each.speeds),
                "speeds": each.speeds,
                "speed_up": median(a / b for a, b in zip(each.speeds, own.speeds, strict=True)),
                "acceptance": sum(a.accepted_tokens for a in each.answers) / guessed if guessed else None,
                "tokens": sum(len(a.tokens) for a in each.answers),
                "answers": len(each.answers),
                "same": sum(a.tokens == b.tokens for a, b in pairs),
            }
            rows.append(row)
            console.print({key: value for key, value in row.items() if key != "speeds"})
    return rows


def repetitions(text: str, count: int) -> list[Sample]:
    """Requests to repeat so many pieces of a text, which are far from each other."""
    starts = [place * max(len(text) - PIECE, 0) // max(count - 1, 1) for place in range(count)]
    return [Sample(f"Repeat this text word by word:\n\n{text[start : start + PIECE]}", "") for start in starts]


def table(result: dict[str, Any]) -> str:
    """By batch and number of drafted tokens."""
    lines = ["| batch | drafted | tokens/s | speed-up | acceptance | same answers |", "|--:|--:|--:|--:|--:|--:|"]
    for row in result["rows"]:
        rate = "–" if row["acceptance"] is None else f"{row['acceptance']:.0%}"
        lines.append(
            f"| {row['batch']} | {row['draft_tokens'] or 'none'} | {row['tokens_per_second']:.1f} | "
            f"{row['speed_up']:.2f}× | {rate} | {row['same']} of {row['answers']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True, help="the model whose answers are wanted, of any kind")
    parser.add_argument("--draft", required=True, help="the model that drafts")
    parser.add_argument("--recipe", type=Path, default=RECIPES / "smollm2-gsm.yaml")
    parser.add_argument("--draft-tokens", type=int, nargs="*", default=[2, 3, 5, 7])
    parser.add_argument(
        "--repeat", type=Path, help="a text whose pieces are to be repeated, instead of a task's questions"
    )
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "speculative.json")
    options = parser.parse_args()
    console = Console(stderr=True)
    loading: dict[str, Any] = {
        "threads": options.threads,
        "max_context": options.context,
        "max_batch": max(BATCHES),
        "cache_dtype": "f32",
    }
    models = {0: Model.load(options.target, **loading)}
    for count in options.draft_tokens:
        models[count] = Model.load(options.target, draft=options.draft, draft_tokens=count, **loading)
    if options.repeat:
        name, asked = options.repeat.name, repetitions(options.repeat.read_text(encoding="utf-8"), options.questions)
    else:
        task = load_task(load_recipe(options.recipe).task)
        name, asked = task.name, list(task.test[: options.questions])
    prompts = [render_prompt(models[0].tokenizer, sample) for sample in asked]
    result = {
        "target": Path(options.target).name,
        "draft": Path(options.draft).name,
        "task": name,
        "rows": measure(models, prompts, options.max_new_tokens, console),
    }
    for model in models.values():
        model.close()
    print(table(save(options.output, result, threads=options.threads)))


if __name__ == "__main__":
    main()
