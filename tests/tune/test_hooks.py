"""The methods of transformers' trainer that ours overrides are called, or the run ends."""

import inspect
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer

from cutwork.errors import CutworkError
from cutwork.recipe import Losses
from cutwork.tune import trainer as trainer_module
from cutwork.tune.resumable_trainer import ResumableTrainer
from cutwork.tune.trainer import SparseTrainer
from tests.torch_models.tiny import sums
from tests.tune.runs import SETTINGS, interrupt_at, run

OURS = {**vars(ResumableTrainer), **vars(SparseTrainer)}
HOOKS = [name for name, value in OURS.items() if inspect.isfunction(value) and hasattr(Trainer, name)]


def test_transformers_calls_every_hook_that_is_overridden(
    monkeypatch: pytest.MonkeyPatch, sparse: Path, dense: Path, tmp_path: Path
) -> None:
    called = set()

    def noted(name: str, original: Any) -> Any:
        return lambda *args, **kwargs: (called.add(name), original(*args, **kwargs))[1]

    for name in HOOKS:
        monkeypatch.setattr(SparseTrainer, name, noted(name, getattr(SparseTrainer, name)))
    settings = SETTINGS.model_copy(update={"keep_best": True})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, 9)  # some are called where a run goes on
        run(sparse, tmp_path / "tuned", dense, settings, validation=sums(4))
    run(sparse, tmp_path / "tuned", dense, settings, validation=sums(4))
    assert called == set(HOOKS) >= trainer_module._HOOKS | {"_save_checkpoint", "log", "train"}


@pytest.mark.parametrize("hook", sorted(trainer_module._HOOKS - {"get_batch_samples", "compute_loss"}))
def test_a_hook_that_transformers_does_not_call_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, hook: str, sparse: Path, tmp_path: Path
) -> None:
    """As if it had been renamed: transformers' own method is what runs."""
    monkeypatch.delattr(SparseTrainer, hook)
    settings = SETTINGS.model_copy(update={"losses": Losses()})
    with pytest.raises(CutworkError, match=f"trains without calling {hook}, so"):
        run(sparse, tmp_path / "tuned", sparse, settings)
    assert not (tmp_path / "tuned").exists()
