"""A T5 that learns to translate, and what pruning costs it: CE against SquareHead, and int8, in BLEU and chrF.

    python benchmarks/t5.py --extra pairs.json          # about 1.5 hours on two cores; interrupt it, run it again

No T5 is at hand without the Hub, so this one is trained from scratch on sentences with numbers, dates, times and prices
made in English and German (benchmarks/translation). `--extra` mixes in real pairs, a JSON list of [English, German].
From that dense teacher each model is pruned in one shot and fine-tuned on the same tokens. Needs num2words and babel.
"""

import argparse
import random
from itertools import islice
from pathlib import Path

from rich.console import Console
from translation.model import PREFIX, write_model, write_tokenizer
from translation.sentences import pairs, read_extra

from cutwork import checkpoint
from cutwork.recipe import Losses, PruneSettings, QuantizeSettings, TuneSettings
from cutwork.stages import Source, Stages, sample_digest
from cutwork.tasks.task import Sample, Task

HERE = Path(__file__).parent
LOSSES = {"CE": Losses(ce=1.0), "SquareHead": Losses(ce=1.0, squarehead=1.0)}
VOCABULARY = 4096


def make_task(train: int, test: int, seed: int, extra: Path | None) -> Task:
    """Made sentences, and one real pair in ten where there are any; the test is made sentences only."""
    chosen = list(islice(pairs(seed, held_out=False), train))
    if extra:
        rng = random.Random(seed)
        found = read_extra(extra)
        rng.shuffle(found)
        chosen[: train // 10] = found[: train // 10]
    samples = [
        tuple(Sample(PREFIX + english, german) for english, german in part)
        for part in (chosen, islice(pairs(seed, held_out=True), test))
    ]
    return Task("translation", *samples)


def models(
    stages: Stages, sparsities: list[float], seed: int, teacher_steps: int, steps: int, again: bool
) -> list[tuple[str, float, Source]]:
    """(method, sparsity, model) of everything compared; adds the stages that make them."""

    def random_model(output: Path) -> None:
        with checkpoint.output_directory(output) as partial:
            texts = [text for sample in stages.task.train for text in (sample.prompt, sample.answer)]
            write_tokenizer(partial, texts, VOCABULARY)
            write_model(partial, seed)

    settings = TuneSettings(
        max_steps=teacher_steps,
        learning_rate=1.5e-3,
        warmup_steps=200,
        batch_size=64,
        micro_batch_size=64,
        save_every=100,
        seed=seed,
    )
    start = stages.add("random", "teacher", random_model, [seed, sample_digest(stages.task.train)])
    dense = stages.tune("teacher", "teacher", start, settings)
    tuned = settings.model_copy(update={"max_steps": steps, "learning_rate": 1e-3, "warmup_steps": 20})
    compared: list[tuple[str, float, Source]] = [("dense", 0.0, dense)]
    for sparsity in sparsities:
        percent = round(100 * sparsity)
        pruned = stages.prune(f"pruned-{percent}", dense, PruneSettings(sparsity=sparsity))
        compared.append(("one-shot", sparsity, pruned))
        for name, losses in LOSSES.items():
            changed = tuned.model_copy(update={"losses": losses})
            compared.append(
                (name, sparsity, stages.tune(f"{name.lower()}-{percent}", "tune", pruned, changed, teacher=dense))
            )
    for method, sparsity, model in [*compared]:
        if method in ("dense", "SquareHead"):
            name = f"w8a8-{round(100 * sparsity)}"
            compared.append((f"{method} W8A8", sparsity, stages.quantize(name, model, QuantizeSettings())))
    if again:
        compared.append(("dense, tuned again", 0.0, stages.tune("dense-again", "tune", dense, tuned)))
    return compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", type=Path, help="a JSON list of [English, German] to mix in")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5, 0.75, 0.85])
    parser.add_argument("--train", type=int, default=100_000, help="sentence pairs")
    parser.add_argument("--test", type=int, default=500, help="held-out sentence pairs")
    parser.add_argument("--teacher-steps", type=int, default=1500, help="of 64 sentences")
    parser.add_argument("--steps", type=int, default=250, help="of each sparse fine-tuning")
    parser.add_argument("--again", action="store_true", help="also fine-tune the dense one a second time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE.parent / "out" / "t5")
    options = parser.parse_args()

    task = make_task(options.train, options.test, options.seed, options.extra)
    stages = Stages(options.output, task, 256, Console(stderr=True))
    models(stages, options.sparsity, options.seed, options.teacher_steps, options.steps, options.again)
    stages.carry_out()


if __name__ == "__main__":
    main()
