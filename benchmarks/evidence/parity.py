"""Whether packed models say of a text what transformers says of the same weights: perplexity, in int8 and in int4.

    python -m benchmarks.evidence.parity out/teacher out/sparse --text wikitext2-test.txt    # minutes on two cores
    python -m benchmarks.evidence.parity out/teacher out/sparse --recipe recipes/demo.yaml --output parity_task.json

Each checkpoint, in float32, is packed with linears and head rounded to the nearest, and restored from that as floats
for transformers, whose linears then round their inputs as the engine's do: to int8, one scale for each token. Beside it
what transformers says without that. Windows of 1,024 tokens, of a text or of a recipe's test questions with their
answers. Leaves parity.json, or another file, in results/.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from rich.console import Console

from benchmarks.common.results import RESULTS, save
from cutwork.engine.decoding.perplexity import perplexity
from cutwork.engine.model import Model
from cutwork.pack.pack import pack
from cutwork.pack.restore import restore
from cutwork.recipe_file import load_recipe
from cutwork.tasks.load import load_task
from cutwork.tasks.rendering import render_answer, render_prompt
from cutwork.torch_models.load import load_tokenizer

NUMBERS: dict[str, Literal["auto", "i8", "i4"]] = {"float32": "auto", "int8": "i8", "int4": "i4"}
WINDOW = 1024
MOST = 0.5  # percent that perplexities may be apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", help="checkpoints in float32")
    parser.add_argument("--names", nargs="+", help="what they are called in the table")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", type=Path)
    what.add_argument("--recipe", type=Path)
    parser.add_argument("--tokens", type=int, default=16 * WINDOW, help="of the text, at most")
    parser.add_argument("--output", type=Path, default=RESULTS / "parity.json")
    options = parser.parse_args()
    console, rows = Console(stderr=True), []
    text = options.text.read_text() if options.text else questions(options.recipe, options.models[0])
    for model, name in zip(options.models, options.names or map(str, options.models), strict=True):
        for numbers in NUMBERS:
            rows.append({"model": name, "numbers": numbers, **compared(model, numbers, text, options.tokens)})
            console.print(rows[-1], highlight=False)
    print(table(save(options.output, {"window": WINDOW, "rows": rows})))


def questions(recipe: Path, model: Path) -> str:
    """The recipe's test questions as a model is asked them, each with its answer."""
    task, tokenizer = load_task(load_recipe(recipe).task), load_tokenizer(model)
    end = tokenizer.eos_token
    parts = [render_prompt(tokenizer, each) + render_answer(tokenizer, each.answer) + end for each in task.test]
    return "\n".join(parts)


def compared(model: Path, numbers: str, text: str, most: int) -> dict[str, Any]:
    """Perplexities of a text by the engine and by transformers with the same weights, and of how many tokens."""
    with tempfile.TemporaryDirectory() as work:
        packed, plain = Path(work) / "packed", Path(work) / "plain"
        rounded = NUMBERS[numbers]
        pack(model, packed, "f32", weights=rounded, head="auto" if rounded == "auto" else "i8")
        with Model.load(packed, max_context=WINDOW) as engine:
            tokens = engine.encode(text)[:most]
            ours = engine.perplexity(tokens, window=WINDOW)
        restore(packed, plain)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32).eval()
    found = {"tokens": ours.tokens, "zeros": zeros(theirs), "ours": ours.perplexity, "floats": told(theirs, tokens)}
    if rounded != "auto":
        round_inputs(theirs)
    return found | {"theirs": told(theirs, tokens)}


def told(model: Any, tokens: Sequence[int]) -> float:
    """The perplexity that transformers gives."""

    def logits(part: Sequence[int]) -> Iterator[np.ndarray]:
        with torch.inference_mode():
            yield model(torch.tensor([list(part)])).logits[0].float().numpy()

    return perplexity(logits, tokens, window=WINDOW, stride=WINDOW).perplexity


def round_inputs(model: Any) -> None:
    """Make every linear round its inputs to int8, one scale per token."""

    def rounded(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        scale = inputs[0].abs().amax(-1, keepdim=True) / 127
        return ((inputs[0] / scale).round() * scale,)

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(rounded)


def zeros(model: Any) -> float:
    """The share of zeros in the linears of the blocks."""
    weights = [w for name, w in model.named_parameters() if name.endswith("_proj.weight")]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def table(result: dict[str, Any]) -> str:
    """Perplexities by model and numbers, and how far they are apart."""
    lines = [
        "| model | in | zeros | tokens | perplexity | transformers, same weights | apart | | its inputs not rounded |",
        "|---|---|--:|--:|--:|--:|--:|---|--:|",
    ]
    for row in result["rows"]:
        apart = 100 * (row["ours"] / row["theirs"] - 1)
        verdict = "met" if abs(apart) <= MOST else "**missed**"
        lines.append(
            f"| {row['model']} | {row['numbers']} | {row['zeros']:.0%} | {row['tokens']:,} | {row['ours']:.3f} | "
            f"{row['theirs']:.3f} | {apart:+.2f}% | {verdict} | {row['floats']:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
