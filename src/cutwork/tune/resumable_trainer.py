"""transformers' trainer, with checkpoints that outlive a machine's going down, and say what is wrong with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer_utils import rotate_checkpoints

from cutwork.errors import CutworkError
from cutwork.store.atomic import disk_full
from cutwork.store.partial import sync, sync_entry


class ResumableTrainer(Trainer):
    """A checkpoint is on the disk before the one before it goes; what cannot be written or read is a CutworkError."""

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As transformers does, with weights in checkpoints by the model's own names."""
        with _own_names(self.model):
            return super().train(resume_from_checkpoint, *args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        directory = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # none goes before this is on the disk
        try:
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                sync(directory)
                sync_entry(directory.parent)
        except Exception as error:
            if disk_full(error) or _unwritten(error):
                raise CutworkError(
                    f"{directory} could not be written, most likely since the disk is full; free some space and run "
                    "again: training goes on from the last checkpoint"
                ) from None
            raise
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            rotate_checkpoints(str(directory.parent), limit, self.state.best_model_checkpoint, use_mtime=True)

    def _save_rng_state(self, output_dir: str) -> None:
        """Every process's own, before the first writes what says that the checkpoint is complete."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            sync(Path(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with _told_if_damaged(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _told_if_damaged(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _told_if_damaged(checkpoint):
            super()._load_rng_state(checkpoint)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Raise CutworkError for a checkpoint without a weight: transformers would keep what the model began with."""
        weights, missing = self.model.state_dict(keep_vars=True), set(load_result.missing_keys)
        loaded = {id(weight) for name, weight in weights.items() if name not in missing}  # by any name, where tied
        for name in sorted(missing - set(self.model._keys_to_ignore_on_save or ())):
            if id(weights.get(name)) not in loaded:
                raise CutworkError(
                    f"a checkpoint in {self.args.output_dir} has no weight '{name}', as another version of cutwork or "
                    "transformers wrote it; remove that directory to begin the training anew"
                )

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """End with the best checkpoint: the path that its run noted is none any more if the run was moved since."""
        if self.args.load_best_model_at_end and self.state.best_global_step:
            best = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
            if not best.is_dir():
                raise CutworkError(f"the best checkpoint, {best}, is gone; remove {best.parent} to begin anew")
            self.state.best_model_checkpoint = str(best)
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # the last is what an end is told by
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit


@contextmanager
def _told_if_damaged(checkpoint: str | None) -> Iterator[None]:
    """Raise CutworkError for what torch and pickle, in errors of any kind, cannot read of a checkpoint."""
    try:
        yield
    except (CutworkError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CutworkError(
            f"the checkpoint {checkpoint} cannot be read ({reason}); remove it, and training goes on from the one "
            "before or from the start"
        ) from None


def _unwritten(error: Exception) -> bool:
    """Whether torch.save could not write a file, of which it does not say why."""
    return isinstance(error, RuntimeError) and any(
        part in str(error) for part in ("inline_container", "PytorchStreamWriter", "iostream")
    )


@contextmanager
def _own_names(model: Any) -> Iterator[None]:
    """Let checkpoints name weights as the model does. transformers would write the names that the model was loaded by,
    and passes over them when a checkpoint is loaded into a model that is there."""
    conversions = getattr(model, "_weight_conversions", None)
    model._weight_conversions = []
    try:
        yield
    finally:
        model._weight_conversions = conversions
