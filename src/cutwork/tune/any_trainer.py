"""Zeros that stay in the trainers of others: Hugging Face's, and TRL's for SFT, DPO, GRPO, KTO and so on."""

from typing import Any

import torch
import transformers
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cutwork.errors import CutworkError
from cutwork.torch_models.blocks import block_linears
from cutwork.tune.masks import Masks, local


def keep_zeros(trainer: Trainer) -> None:
    """Hold whatever is zero in the blocks' linears of the trainer's model while it trains.

        trainer = DPOTrainer(model, args=…, train_dataset=…, …)
        keep_zeros(trainer)
        trainer.train()

    Gradients are masked before they are clipped, so that their norm is that of what is trained, and weights after each
    step of the optimiser. Checkpoints and the end of the training are checked: LostZerosError if a zero is none any
    more. What is zero is read off the model at once, so a run that is resumed starts from the same sparse model, and
    with FSDP2 off the shards when training begins.

    Raises CutworkError for a model without zeros or with PEFT adapters, whose merging would fill them, and for
    DeepSpeed and FSDP version 1, which flatten weights.
    """
    model = trainer.model
    if hasattr(model, "peft_config"):
        raise CutworkError(
            "adapters of PEFT fill the zeros once they are merged; leave out peft_config, or train masked adapters: "
            "cutwork tune --lora-rank"
        )
    plugin = trainer.accelerator.state.fsdp_plugin if trainer.is_fsdp_enabled else None
    if trainer.is_deepspeed_enabled or (plugin and plugin.fsdp_version == 1):
        raise CutworkError("DeepSpeed and FSDP version 1 flatten weights, so masks are lost; use DDP or FSDP2")
    masks = Masks(model)
    if not masks.live:
        raise CutworkError("the model has no zeros to keep; prune it first, or leave out keep_zeros")
    keeper = _Keeper(trainer, masks)
    trainer.add_callback(keeper)
    train_one, trainer.training_step = trainer.training_step, keeper.training_step  # type: ignore[method-assign]
    keeper.train_one = train_one


class _Keeper(TrainerCallback):
    """What the trainer calls, and the masks of its model as it is during a run."""

    def __init__(self, trainer: Trainer, masks: Masks) -> None:
        self.trainer, self.masks = trainer, masks
        self.train_one: Any = None  # the trainer's own training_step
        self._masked = False  # the gradients of this optimiser step

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Forward and backward of one micro-batch; masks the gradients after the last one of an optimiser step."""
        loss = self.train_one(*args, **kwargs)
        if self.trainer.accelerator.sync_gradients:
            self.masks.mask_gradients()
            self._masked = True
        assert isinstance(loss, torch.Tensor)
        return loss

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Fit the masks to the weights as they are now: on another device, new from model_init, or in shards."""
        weights = {name: local(linear.weight.data) for name, linear in block_linears(self.trainer.model).items()}
        live = {
            name: mask.to(weights[name].device)
            for name, mask in self.masks.live.items()
            if name in weights and weights[name].shape == mask.shape
        }
        self.masks = Masks(self.trainer.model, live if len(live) == len(self.masks.live) else None)
        self.masks.verify()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Mask the weights, which some optimisers move without a gradient."""
        if not self._masked:
            raise CutworkError(
                f"{type(self.trainer).__name__} trains without calling training_step (transformers "
                f"{transformers.__version__}), so gradients were not masked; please report this"
            )
        self._masked = False
        self.masks.mask_weights()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Check what was saved."""
        self.masks.verify()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Check what training, or the best checkpoint that was loaded, has left."""
        self.masks.verify()
