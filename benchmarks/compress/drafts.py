"""How often a model's own draft, pruned and quantised, guesses what the model says next.

    python -m benchmarks.compress.drafts                                # SmolLM2-135M; may be interrupted
    python -m benchmarks.compress.drafts --model out/qwen --name drafts_qwen --drafts "alps 4:16" "alps 8:16 trained"

A draft is not trained, or, after pruning, for some minutes to be like the model (KL and SquareHead) on text of its own.

The model answers prompts greedily; each draft reads the answers, and where its likeliest next token is the model's, it
would have been accepted. That needs no timing, so a busy machine does not matter. `accepted` is the share of all
tokens; `per step` how many tokens a step of the model gives with so many guessed, whatever they cost, counted on the
answers. Leaves NAME.json in results/. What it brings in speed is measured by benchmarks.engine.speculative.
"""

import argparse
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.common.results import RECIPES, RESULTS, save
from cutwork.compress.draft import PACK, QUANTIZE, TEXTS, make_draft, own_text
from cutwork.engine.model import Model
from cutwork.measure.compare import Measurements
from cutwork.prune.prune import prune
from cutwork.recipe import PruneSettings, TuneSettings
from cutwork.recipe_file import load_recipe
from cutwork.run.stages import key_of
from cutwork.store.resolve import resolve
from cutwork.tasks.load import load_task
from cutwork.tasks.rendering import render_prompt
from cutwork.tasks.task import Sample
from cutwork.tune.tune import tune

GENERAL = (
    "What is the capital of France, and what is it known for?",
    "Explain how rain forms in three sentences.",
    "Write a short poem about the sea.",
    "Write a Python function that reverses a string.",
    "What is the difference between a virus and a bacterium?",
    "Give me a recipe for pancakes.",
    "Summarise the story of Romeo and Juliet.",
    "How do I tie a bowline knot?",
    "List five healthy breakfasts.",
    "Translate 'good morning, my friend' into French, German and Spanish.",
    "Write an email that asks a colleague to move a meeting to Friday.",
    "What causes the seasons on Earth?",
    "Write a SQL query that counts the orders of each customer.",
    "Describe the life cycle of a butterfly.",
    "What should I see in Rome in two days?",
    "Explain recursion to a child.",
)
GUESSED = (2, 4, 8)
DRAFTS = ("dense int4", "sparsegpt 8:16", "alps 8:16", "alps 8:16 trained", "alps 4:16", "alps 4:16 trained")
TRAINED = "trained"
TRAINING_TEXTS = 400
TUNE = TuneSettings.model_validate(
    {
        "max_steps": 100,
        "learning_rate": 4e-4,
        "warmup_steps": 10,
        "batch_size": 8,
        "micro_batch_size": 2,  # a vocabulary of 150,000 makes logits of gigabytes
        "dtype": "bfloat16",
        "losses": {"ce": 0.0, "kl": 1.0, "squarehead": 1.0},
    }
)


def settings_of(name: str) -> PruneSettings:
    """How a draft of this name is pruned; "dense" not at all."""
    method, pattern, *rate = name.removesuffix(f" {TRAINED}").split()
    if method == "dense":
        return PruneSettings(method="magnitude", sparsity=0.0)
    own = {"sparsity": float(rate[0])} if rate else {}
    return PruneSettings.model_validate(
        {"method": method, "pattern": pattern, "calibration_samples": QUANTIZE.calibration_samples, **own}
    )


def say(model: Model, samples: list[Sample], most: int) -> list[tuple[list[int], list[int]]]:
    """(token ids of the prompt, of the model's greedy answer) of every sample."""
    prompts = [model.encode(render_prompt(model.tokenizer, sample)) for sample in samples]
    answers = model.generate(prompts, max_new_tokens=most)
    return [(prompt, list(answer.tokens)) for prompt, answer in zip(prompts, answers, strict=True)]


def agreements(draft: Model, said: list[tuple[list[int], list[int]]]) -> list[list[bool]]:
    """For each answer, whether the draft's likeliest token is the model's, token by token."""
    found = []
    for prompt, answer in said:
        parts = draft.token_logprobs([*prompt, *answer], 1, first=len(prompt))
        entries = [entry for part in parts for entry in part]
        found.append([bool(entry and entry.top[0][0] == entry.token) for entry in entries])
    return found


def tokens_per_step(agreed: list[list[bool]], guessed: int) -> float:
    """Tokens that a step of the model gives if so many are guessed before it: those accepted and its own next one."""
    tokens = steps = 0
    for answer in agreed:
        place = 0
        while place < len(answer):
            run = 0
            while run < guessed and place + run < len(answer) and answer[place + run]:
                run += 1
            place += run + 1
            steps += 1
        tokens += len(answer)
    return tokens / max(steps, 1)


def table(result: dict[str, Any]) -> str:
    """By draft."""
    heads = [f"per step, {guessed} guessed" for guessed in GUESSED]
    lines = ["| draft | zeros | MB | accepted | " + " | ".join(heads) + " |", "|---" + "|--:" * 6 + "|"]
    for row in result["rows"]:
        steps = " | ".join(f"{row['tokens_per_step'][str(guessed)]:.2f}" for guessed in GUESSED)
        lines.append(
            f"| {row['draft']} | {row['sparsity']:.0%} | {row['nbytes'] / 1e6:.0f} | {row['accepted']:.1%} | {steps} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Make, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument(
        "--drafts", nargs="+", default=list(DRAFTS), help='"METHOD PATTERN [RATE] [trained]"; dense int4'
    )
    parser.add_argument(
        "--recipe", type=Path, default=RECIPES / "smollm2-gsm.yaml", help="whose test questions are asked"
    )
    parser.add_argument("--questions", type=int, default=24, help="beside sixteen general ones")
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("out/drafts"))
    parser.add_argument("--name", default="drafts", help="of the results")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()

    console, dense = Console(stderr=True), resolve(options.model)
    task = load_task(load_recipe(options.recipe).task)
    samples = [*(Sample(prompt, "") for prompt in GENERAL), *task.test[: options.questions]]
    kept, loading = Measurements(options.work / "cells"), {"threads": options.threads, "max_context": 1024}
    about = [key_of(dense), [sample.prompt for sample in samples], options.max_new_tokens]

    def answers() -> dict[str, Any]:
        with Model.load(dense, **loading) as model:
            return {"said": say(model, samples, options.max_new_tokens)}

    said = kept.get(["said", *about], answers)["said"]

    def own(count: int) -> list[Sample]:
        def write() -> dict[str, Any]:
            written = own_text(dense, count, threads=options.threads, console=console)
            return {"texts": [[sample.prompt, sample.answer] for sample in written]}

        key = ["own", key_of(dense), *([] if count == TEXTS else [count])]
        return [Sample(prompt, answer) for prompt, answer in kept.get(key, write)["texts"]]

    def cell(name: str) -> dict[str, Any]:
        made, texts = options.work / "draft", own(TEXTS)
        trained = name.endswith(TRAINED)
        more = own(TRAINING_TEXTS) if trained else []
        shutil.rmtree(made, ignore_errors=True)
        start = time.monotonic()
        if trained:
            pruned, tuned = made / "pruned", made / "tuned"
            prune(dense, pruned, settings_of(name), texts, long="cut", console=console)
            tune(pruned, tuned, TUNE, more, teacher_dir=dense, long="cut", console=console)
            make_draft(tuned, made / "packed", texts, console=console)
        else:
            make_draft(dense, made / "packed", texts, settings=settings_of(name), console=console)
        seconds = time.monotonic() - start
        with Model.load(made / "packed", **loading) as draft:
            agreed = agreements(draft, said)
            facts = {"sparsity": draft.sparsity, "nbytes": draft.memory_bytes["weights"]}
        shutil.rmtree(made)
        tokens = sum(map(len, agreed))
        return {
            **facts,
            "seconds": seconds,
            "tokens": tokens,
            "accepted": sum(map(sum, agreed)) / tokens,
            "general": sum(map(sum, agreed[: len(GENERAL)])) / sum(map(len, agreed[: len(GENERAL)])),
            "tokens_per_step": {str(guessed): tokens_per_step(agreed, guessed) for guessed in GUESSED},
        }

    how = [QUANTIZE.model_dump(mode="json"), PACK.model_dump(mode="json")]
    rows = []
    for name in options.drafts:
        training = [TUNE.model_dump(mode="json"), TRAINING_TEXTS] if name.endswith(TRAINED) else []
        key = [name, settings_of(name).model_dump(mode="json"), *training, *how, *about]
        rows.append({"draft": name, **kept.get(key, partial(cell, name))})
        console.print({key: rows[-1][key] for key in ("draft", "accepted", "general", "tokens_per_step")})
    result = {"model": str(options.model), "task": task.name, "prompts": len(samples), "rows": rows}
    print(table(save(options.results / f"{options.name}.json", result, threads=options.threads)))


if __name__ == "__main__":
    main()
