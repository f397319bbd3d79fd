"""Short runs of `tune` on tiny models, and how they are interrupted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from cutwork.recipe import Losses, TuneSettings
from cutwork.tune.trainer import SparseTrainer
from cutwork.tune.tune import tune
from tests.torch_models.tiny import sums

QUIET = Console(quiet=True)


# 20 samples in steps of 8 (4 micro-batches of 2): an epoch has 3 steps, the last of 2 micro-batches.
SETTINGS = TuneSettings(
    max_steps=8,
    batch_size=8,
    micro_batch_size=2,
    save_every=1,
    warmup_steps=2,
    learning_rate=3e-3,
    dtype="float32",
    losses=Losses(squarehead=1.0, kl=0.5),
)


def run(sparse: Path, output: Path, dense: Path, settings: TuneSettings = SETTINGS, **options: Any) -> dict[str, Any]:
    return tune(sparse, output, settings, sums(20), teacher_dir=dense, max_length=64, console=QUIET, **options)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, micro_batch: int) -> None:
    """Raise KeyboardInterrupt in the middle of a run."""
    original, calls = SparseTrainer.training_step, [0]

    def step(self: SparseTrainer, *args: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == micro_batch:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(SparseTrainer, "training_step", step)
