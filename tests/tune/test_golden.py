"""Loss and gradient-norm curves of a short sparse run of every family, as they were recorded.

python -m tests.tune.test_golden       # records them anew: only after a change that is meant to change them
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.torch_models.tiny import FAMILIES, cut
from tests.tune.test_trainer import make

GOLDEN = Path(__file__).parent / "golden"
RECORDED = ("loss", "ce", "kl", "squarehead", "grad_norm")


@torch.no_grad()
def fill(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Weights that depend on the seed alone, not on how a version of transformers initialises."""
    draw = np.random.Generator(np.random.PCG64(seed))
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.from_numpy(draw.standard_normal(tuple(parameter.shape), dtype=np.float32))
        parameter.copy_(0.2 * noise + ("norm" in name or "ln_" in name))
    return model


def curves(family: str, directory: Path) -> dict[str, list[float]]:
    torch.manual_seed(0)
    model = cut(fill(FAMILIES[family](), 0), 0.5)
    trainer = make(
        directory,
        model,
        family=family,
        max_steps=6,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_grad_norm=1.0,
        learning_rate=3e-3,
        optim="adamw_torch",
    )
    fill(trainer.teacher, 1)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    return {key: [float(f"{log[key]:.6g}") for log in logs] for key in RECORDED}


@pytest.mark.parametrize("family", FAMILIES)
def test_curves_are_as_recorded(family: str, tmp_path: Path) -> None:
    recorded = json.loads((GOLDEN / f"{family}.json").read_text())
    found = curves(family, tmp_path)
    assert recorded.keys() == found.keys() and recorded["loss"]
    for key, values in recorded.items():
        assert found[key] == pytest.approx(values, rel=2e-3), key


if __name__ == "__main__":
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as scratch:
            (GOLDEN / f"{family}.json").write_text(json.dumps(curves(family, Path(scratch)), indent=1) + "\n")
