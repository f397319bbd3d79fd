"""How fast a model is beside the dense one: packed as it was made, or of random numbers before anything is made.

Prices of single linears (`milliseconds.py`) add up to what a step takes only nearly: a choice's linears share caches
and ops in ways that no uniform model has shown.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cutwork.architectures import architecture_of, build_plan
from cutwork.compress.candidates import parse
from cutwork.compress.menu import HEAD, Choice
from cutwork.compress.milliseconds import SEQUENCES, TOKENS, Purpose, random_model
from cutwork.engine.model import Model
from cutwork.measure.context import room
from cutwork.measure.speed import measure
from cutwork.pack.reader import PackedModel, read_packed
from cutwork.recipe import CompareSettings
from cutwork.store.directory import read_config

_LEAST_SECONDS = 30.0  # that both models are timed: a step takes a tenth more or less from one second to the next


def prompt_tokens(config: dict[str, Any], purpose: Purpose, settings: CompareSettings) -> int:
    """Tokens of the prompt that is timed: for `prefill`, as many as its prices are of."""
    if purpose != "prefill":
        return settings.prompt_tokens
    others = settings.decode_tokens + 1
    return max(1, room(config, TOKENS["prefill"] + others) - others)


@dataclass(frozen=True)
class Timing:
    """What is timed: a purpose beside the dense model packed in a directory, as `settings` say how long and often."""

    dense: Path
    purpose: Purpose
    settings: CompareSettings
    console: Console

    @property
    def amounts(self) -> tuple[int, int, int]:
        """Tokens of the prompt, tokens that are decoded, and how often."""
        settings = self.settings
        return prompt_tokens(read_config(self.dense), self.purpose, settings), settings.decode_tokens, settings.repeats

    def load(self, packed: PackedModel) -> Model:
        """A model as it is timed."""
        prompt, decoded, _ = self.amounts
        return Model(
            packed,
            threads=self.settings.threads,
            max_context=room(packed.config, prompt + decoded + 1),
            max_batch=SEQUENCES[self.purpose],
            reorder_weights=False if self.purpose == "decode" else None,
        )

    def speeds(self, packed: PackedModel) -> dict[str, Any]:
        """Speed and memory of both models, in turns for a while; how many milliseconds what the purpose asks for takes
        the other one, and how many times as fast as the dense one it is, by medians."""
        prompt, decoded, repeats = self.amounts
        how: Any = {"batch": SEQUENCES[self.purpose], "seconds": _LEAST_SECONDS, "console": self.console}
        with self.load(read_packed(self.dense)) as dense, self.load(packed) as ours:
            models = {"dense": dense, "compressed": ours}
            found = measure(models, prompt, decoded, repeats, **how)
            sizes = {name: model.memory_bytes["weights"] for name, model in models.items()}
        of, ms = ("prefill", "first_token_ms") if self.purpose == "prefill" else ("decode", "step_ms_p50")
        ratio = getattr(found["compressed"], of) / getattr(found["dense"], of)
        numbers = {name: speed.as_json() for name, speed in found.items()}
        return {"speedup": ratio, "milliseconds": numbers["compressed"][ms], "nbytes": sizes, **numbers}

    def of_random_numbers(self, choice: Choice, group_size: int) -> dict[str, Any]:
        """The speeds of random numbers that are stored as a choice says."""
        dense = read_packed(self.dense)
        plan_name = architecture_of(dense.config).plan_name
        linears = {plan_name(f"{name}.weight"): parse(of) for name, of in choice.labels.items() if name != HEAD}
        head = parse(choice.labels[HEAD]).scheme if HEAD in choice.labels else None
        return self.speeds(random_model(dense, build_plan(dense.config), linears, head, group_size))
