"""How much faster a dense model answers when a sparse one drafts for it, and whether it still answers the same.

    python -m benchmarks.engine.speculative --target out/demo/packed/dense-f32 --draft out/demo/packed/sparse-int8

    python -m benchmarks.engine.speculative --target out/demo/packed/dense-f32 --draft ngram --repeat README.md

    python -m benchmarks.engine.speculative --target out/dense --draft auto --beside out/dense-int8 --general
        --questions 184 --batches 1 --output benchmarks/results/draft_auto.json

Greedy answers to held-out questions of a recipe's task, or to the request to repeat pieces of a file, one at a time and
several together. Without a draft, with up to so many drafted tokens, and other models alone take turns, question by
question; medians of the speeds. Every answer is compared with the target's own: of floats, steps of more than eight
tokens round otherwise than those of one, so two tokens of almost equal logits may change places; `same` counts the
answers that are equal token for token.
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
from benchmarks.compress.drafts import GENERAL
from cutwork.compress.draft import draft_of
from cutwork.engine.decoding.requests import Generation
from cutwork.engine.model import Model
from cutwork.recipe_file import load_recipe
from cutwork.tasks.load import load_task
from cutwork.tasks.rendering import render_prompt
from cutwork.tasks.task import Sample

BATCHES = (1, 4, 16)
PIECE = 1200  # characters to repeat


@dataclass
class Way:
    """One way to answer: tokens per second of each group of questions, and all answers.

    name: of another model, which answers alone. drafted: tokens, at most; 0 for none.
    """

    model: Model
    drafted: int = 0
    name: str | None = None
    speeds: list[float] = field(default_factory=list)
    answers: list[Generation] = field(default_factory=list)


def answer(way: Way, prompts: list[str], most: int) -> None:
    """Answer some questions together, note the answers and the speed of decoding them."""
    start = time.perf_counter()
    answers = way.model.generate(prompts, max_new_tokens=most)
    seconds = time.perf_counter() - start - max(a.timings.prefill for a in answers)
    way.answers += answers
    way.speeds.append(sum(len(a.tokens) for a in answers) / seconds)


def measure(ways: list[Way], prompts: list[str], most: int, batch: int, console: Console) -> list[dict[str, Any]]:
    """A row for each way; the first is the target's own, which the others are compared with."""
    ways = [Way(way.model, way.drafted, way.name) for way in ways]
    for way in ways:
        way.model.generate(prompts[:1], max_new_tokens=4)  # pages of weights and thread pools are there afterwards
    for start in range(0, len(prompts) - batch + 1, batch):
        for way in ways:
            answer(way, prompts[start : start + batch], most)
        if start % (20 * batch) == 0:
            console.print(f"batch {batch}: {start + batch} of {len(prompts)} questions", highlight=False)
    own, rows = ways[0], []
    for way in ways:
        guessed = sum(a.guessed_tokens for a in way.answers)
        pairs = zip(way.answers, own.answers, strict=True)
        row = {
            "batch": batch,
            **({"alone": way.name} if way.name else {}),
            "draft_tokens": way.drafted,
            "tokens_per_second": median(way.speeds),
            "speeds": way.speeds,
            "speed_up": median(a / b for a, b in zip(way.speeds, own.speeds, strict=True)),
            "acceptance": sum(a.accepted_tokens for a in way.answers) / guessed if guessed else None,
            "tokens": sum(len(a.tokens) for a in way.answers),
            "answers": len(way.answers),
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
        drafted = row.get("alone") or row["draft_tokens"] or "none"
        lines.append(
            f"| {row['batch']} | {drafted} | {row['tokens_per_second']:.1f} | "
            f"{row['speed_up']:.2f}× | {rate} | {row['same']} of {row['answers']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True, help="the model whose answers are wanted, of any kind")
    parser.add_argument("--draft", required=True, help="the model that drafts, ngram or auto")
    parser.add_argument("--recipe", type=Path, default=RECIPES / "smollm2-gsm.yaml")
    parser.add_argument("--draft-tokens", type=int, nargs="*", default=[2, 3, 5, 7])
    parser.add_argument(
        "--repeat", type=Path, help="a text whose pieces are to be repeated, instead of a task's questions"
    )
    parser.add_argument("--general", action="store_true", help="sixteen general questions before the task's")
    parser.add_argument("--beside", nargs="*", default=[], help="models that answer alone, each a directory")
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache-dtype", default="f32", choices=["auto", "f32", "bf16", "i8"])
    parser.add_argument("--output", type=Path, default=RESULTS / "speculative.json")
    options = parser.parse_args()
    console = Console(stderr=True)
    loading: dict[str, Any] = {
        "threads": options.threads,
        "max_context": options.context,
        "max_batch": max(options.batches),
        "cache_dtype": options.cache_dtype,
    }
    draft = options.draft
    if draft == "auto":
        draft = draft_of(options.target, threads=options.threads, console=console)
    ways = [Way(Model.load(options.target, **loading))]
    for count in options.draft_tokens:
        ways.append(Way(Model.load(options.target, draft=draft, draft_tokens=count, **loading), count))
    ways += [Way(Model.load(path, **loading), name=Path(path).name) for path in options.beside]
    if options.repeat:
        name, asked = options.repeat.name, repetitions(options.repeat.read_text(encoding="utf-8"), options.questions)
    else:
        task = load_task(load_recipe(options.recipe).task)
        name, asked = task.name, list(task.test[: options.questions])
    if options.general:
        asked = [*(Sample(question, "") for question in GENERAL), *asked]
    prompts = [render_prompt(ways[0].model.tokenizer, sample) for sample in asked]
    about = {"target": Path(options.target).name, "draft": Path(options.draft).name, "task": name}
    rows = [row for batch in options.batches for row in measure(ways, prompts, options.max_new_tokens, batch, console)]
    for way in ways:
        way.model.close()
    print(table(save(options.output, {**about, "rows": rows}, threads=options.threads)))


if __name__ == "__main__":
    main()
