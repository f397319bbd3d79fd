"""What `cutwork tune` says beforehand of a model of 7 billion weights: which settings fit a card of 80 GB.

    python -m benchmarks.training.memory        # a minute: nothing is trained, and no weight is ever in memory

Half of the weights of Llama-2-7B's shape are taken to be zeros that are kept, and SquareHead to follow a teacher in
bfloat16 on the same card. Leaves memory.json in results/.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from benchmarks.common.results import RESULTS, save
from cutwork.recipe import LoraSettings, Losses, TuneSettings
from cutwork.torch_models.model_inputs import Example
from cutwork.tune.estimate import estimate

SHAPE = LlamaConfig(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
)
TOKENS, MICRO_BATCH = 512, 8
WAYS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "`optimizer: adamw_torch_8bit`": {"optimizer": "adamw_torch_8bit"},
    "`optimizer: adamw_torch_8bit`, `weights: bfloat16`": {"optimizer": "adamw_torch_8bit", "weights": "bfloat16"},
    "`optimizer: adamw_torch_4bit`, `weights: bfloat16`": {"optimizer": "adamw_torch_4bit", "weights": "bfloat16"},
    "`lora: {rank: 16}`, `weights: bfloat16`": {"lora": LoraSettings(), "weights": "bfloat16"},
}


class Alike(list[Example]):
    """Samples of one length."""

    @property
    def lengths(self) -> list[int]:
        return [len(example["labels"]) for example in self]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    data = Alike([{"input_ids": [1] * TOKENS, "labels": [1] * TOKENS}])
    rows = {}
    for name, changes in WAYS.items():
        settings = TuneSettings(gradient_checkpointing=True, losses=Losses(squarehead=1.0), **changes)
        rows[name] = estimate(
            SHAPE,
            data,  # type: ignore[arg-type]
            settings,
            bfloat16=True,
            attention="sdpa",
            device=torch.device("cpu"),
            steps=1,
            micro_batch=MICRO_BATCH,
            accumulation=1,
            shards=1,
        ).memory
    print(table(save(options.results / "memory.json", {"tokens": TOKENS, "micro_batch": MICRO_BATCH, "rows": rows})))


def table(result: dict[str, Any]) -> str:
    """Gigabytes by purpose."""
    purposes = list(next(iter(result["rows"].values())))
    lines = ["| GB | " + " | ".join(purposes) + " | together |", "|---|" + "--:|" * (len(purposes) + 1)]
    for name, memory in result["rows"].items():
        cells = [f"{memory[purpose] / 1e9:.1f}" for purpose in purposes]
        lines.append(f"| {name} | {' | '.join(cells)} | {sum(memory.values()) / 1e9:.0f} |")
    samples = f"{result['micro_batch']} samples of {result['tokens']} tokens in a forward pass"
    return "\n".join([*lines, "", f"{samples}, gradient checkpointing, accumulation left out."])


if __name__ == "__main__":
    main()
