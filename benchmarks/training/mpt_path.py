"""A tiny MPT through the whole path: trained from scratch, pruned, recovered, rounded, packed, and asked by the engine.

    python -m benchmarks.training.mpt_path    # about a quarter of an hour on one core; interrupt it, run it again

No MPT is at hand without the Hub, so one of 2 million weights (ALiBi over six heads, no biases, tied head) learns sums
of two numbers below 50. From that dense teacher it is pruned in one shot and fine-tuned on the same tokens, with
cross-entropy alone and with SquareHead. Leaves mpt_path.json in results/.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.common.results import RESULTS, save
from benchmarks.translation.model import write_tokenizer
from cutwork.engine.model import Model
from cutwork.measure.compare import Measurements
from cutwork.measure.quality import accuracy
from cutwork.recipe import Losses, PackSettings, PruneSettings, QuantizeSettings, TuneSettings
from cutwork.run.stages import Source, Stages, key_of, path_of, sample_digest
from cutwork.store.output import output_directory
from cutwork.tasks.task import Sample, Task

LOSSES = {"CE": Losses(ce=1.0), "SquareHead": Losses(ce=1.0, squarehead=1.0)}


def sums(below: int, held_out: int, seed: int) -> Task:
    """All sums of two numbers, some of them kept for the test."""
    every = [Sample(f"{a} + {b} =", f" {a + b}") for a in range(below) for b in range(below)]
    random.Random(seed).shuffle(every)
    return Task("sums", tuple(every[held_out:]), tuple(every[:held_out]))


def write_model(directory: Path, seed: int) -> None:
    """An MPT with random weights, for the tokenizer that is there."""
    import torch
    from tokenizers import Tokenizer
    from transformers import MptConfig, MptForCausalLM

    vocabulary = Tokenizer.from_file(str(directory / "tokenizer.json")).get_vocab_size()
    config = MptConfig(vocab_size=-(-vocabulary // 64) * 64, d_model=192, n_heads=6, n_layers=4, max_seq_len=64)
    config.eos_token_id = config.bos_token_id = 1
    torch.manual_seed(seed)
    MptForCausalLM(config).save_pretrained(directory)


def models(
    stages: Stages, sparsities: list[float], steps: int, again: int, seed: int
) -> list[tuple[str, float, Source]]:
    """(method, sparsity, model) of everything compared; adds the stages that make them."""

    def random_model(output: Path) -> None:
        with output_directory(output) as partial:
            texts = [text for sample in stages.task.train for text in (sample.prompt, sample.answer)]
            write_tokenizer(partial, texts, 64)
            file = partial / "tokenizer.json"  # which is T5's: nothing is to end a prompt
            file.write_text(json.dumps({**json.loads(file.read_text()), "post_processor": None}))
            write_model(partial, seed)

    settings = TuneSettings(
        max_steps=steps, learning_rate=1e-3, warmup_steps=100, batch_size=64, micro_batch_size=64, save_every=500
    )
    start = stages.add("random", "teacher", random_model, [seed, sample_digest(stages.task.train)])
    dense = stages.tune("teacher", "teacher", start, settings)
    tuned = settings.model_copy(update={"max_steps": again, "warmup_steps": 20})
    compared: list[tuple[str, float, Source]] = [("dense", 0.0, dense)]
    for sparsity in sparsities:
        percent = round(100 * sparsity)
        one_shot = PruneSettings(method="sparsegpt", sparsity=sparsity)
        pruned = stages.prune(f"pruned-{percent}", dense, one_shot)
        compared.append(("one-shot", sparsity, pruned))
        for name, losses in LOSSES.items():
            changed = tuned.model_copy(update={"losses": losses})
            sparse = stages.tune(f"{name.lower()}-{percent}", "tune", pruned, changed, teacher=dense)
            compared.append((name, sparsity, sparse))
        rounded = stages.quantize(f"w8a8-{percent}", sparse, QuantizeSettings())
        packed = stages.pack(f"packed-{percent}", rounded, PackSettings())
        compared.append((f"{name} W8A8, packed", sparsity, packed))
    return compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5, 0.75])
    parser.add_argument("--steps", type=int, default=4000, help="of the teacher")
    parser.add_argument("--again", type=int, default=500, help="steps after pruning")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("out/mpt-path"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()

    console = Console(stderr=True)
    task = sums(50, 400, options.seed)
    stages = Stages(options.output, task, 32, console)
    compared = models(stages, options.sparsity, options.steps, options.again, options.seed)
    stages.carry_out()

    def measure(path: Path) -> dict[str, Any]:
        with Model.load(path) as model:
            score = accuracy(model, task, max_new_tokens=6, console=console)
            return {"accuracy": score.accuracy, "samples": score.samples, "sparsity": model.sparsity}

    kept = Measurements(options.output / "measurements")
    rows = []
    for method, sparsity, model in compared:
        found = kept.get([key_of(model), sample_digest(task.test)], lambda model=model: measure(path_of(model)))
        rows.append({"method": method, "target_sparsity": sparsity, **found})
    about = {"steps": options.steps, "again": options.again, "seed": options.seed}
    print(table(save(options.results / "mpt_path.json", {**about, "rows": rows})))


def table(result: dict[str, Any]) -> str:
    """Held-out sums that are right, by level."""
    rows = {(row["method"], row["target_sparsity"]): row["accuracy"] for row in result["rows"]}
    levels = sorted({level for _, level in rows})
    lines = ["| model | " + " | ".join(f"{level:.0%} zeros" for level in levels) + " |"]
    lines.append("|---|" + "--:|" * len(levels))
    for method in dict.fromkeys(method for method, _ in rows):
        cells = [f"{rows[method, level]:.1%}" if (method, level) in rows else "" for level in levels]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
