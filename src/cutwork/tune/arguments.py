"""Our settings as those of transformers' trainer."""

import os
from pathlib import Path

import torch
from transformers import Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

from cutwork.errors import CutworkError
from cutwork.recipe import TuneSettings
from cutwork.tune.low_bit import LOW_BIT
from cutwork.tune.optimizers import check_optimizer
from cutwork.tune.trackers import trackers

_ELSEWHERE = ("schedule_free", "lomo", "adalomo")  # averages that would have to be asked for; steps inside `backward`
_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def in_environment(switch: str) -> bool:
    """Whether a switch of accelerate's is on, as `accelerate launch` sets them."""
    return os.environ.get(switch, "").lower() in ("1", "true", "yes")


def training_arguments(work: Path, settings: TuneSettings, fsdp: bool, validates: bool) -> TrainingArguments:
    """What transformers' trainer is told; CutworkError for settings that cannot be carried out here."""
    _check_possible(settings, fsdp, validates)
    processes = _processes()
    micro = min(settings.micro_batch_size, settings.batch_size)
    if settings.batch_size % (micro * processes):
        times = f" times {processes} processes" if processes > 1 else ""
        raise CutworkError(f"batch_size {settings.batch_size} is not a multiple of micro_batch_size {micro}{times}")
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps if settings.max_steps > 0 else -1,  # 0 would be one step at rate 0
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup_steps,
        lr_scheduler_type=_SCHEDULES[settings.schedule],
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch_size // (micro * processes),
        max_grad_norm=settings.max_grad_norm,
        optim=settings.optimizer if settings.optimizer in list(OptimizerNames) else "sgd",  # replaced by the trainer
        **({"fsdp": True, "fsdp_config": {"version": 2, "state_dict_type": "SHARDED_STATE_DICT"}} if fsdp else {}),
        seed=settings.seed,
        save_strategy="steps",
        save_steps=settings.save_every,
        save_total_limit=1,
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if validates else "no",
        eval_steps=settings.save_every,
        load_best_model_at_end=_keeps_best(settings),
        metric_for_best_model="eval_loss" if _keeps_best(settings) else None,
        report_to=trackers(settings.report_to),
        run_name=work.stem,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=settings.losses.ce == settings.losses.kl == 0,  # then the head is not used
        restore_callback_states_from_checkpoint=settings.patience > 0,  # how long it has waited
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    # A process has one GPU: transformers would split micro-batches among all it sees, and enlarge the batch.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    try:
        Trainer.get_optimizer_cls_and_kwargs(arguments)
    except (ImportError, ValueError) as error:
        raise CutworkError(f"optimizer {settings.optimizer}: {' '.join(str(error).split())}") from None
    return arguments


def _processes() -> int:
    """How many torchrun or accelerate launched."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _keeps_best(settings: TuneSettings) -> bool:
    return settings.keep_best or settings.patience > 0


def _check_possible(settings: TuneSettings, fsdp: bool, validates: bool) -> None:
    """Raise CutworkError for settings that exclude each other, or that the way of launching cannot carry out."""
    check_optimizer(settings.optimizer)
    _check_weights(settings, fsdp or in_environment("ACCELERATE_USE_FSDP"))
    if _keeps_best(settings) and not validates:
        raise CutworkError(
            "keep_best and patience look at a validation loss; set task.validation_samples (--validation-samples)"
        )
    if _keeps_best(settings) and settings.gradual:
        raise CutworkError("gradual: the best checkpoint may be one with fewer zeros; leave out keep_best and patience")
    if os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no":
        raise CutworkError("what forward passes compute in is dtype's to say; launch with --mixed_precision no")
    if in_environment("ACCELERATE_USE_DEEPSPEED"):
        raise CutworkError("DeepSpeed is not supported; launch with FSDP2 or DDP (accelerate launch, torchrun)")
    if settings.optimizer.startswith(_ELSEWHERE):
        raise CutworkError(
            f"optimizer {settings.optimizer} changes weights behind the back of masks, or trains others than it means; "
            "choose another"
        )
    if fsdp and _processes() == 1:
        raise CutworkError("--fsdp shares one model among several processes; launch it with torchrun or accelerate")
    if (fsdp or in_environment("ACCELERATE_USE_FSDP")) and not torch.cuda.is_available():
        raise CutworkError(
            "accelerate shares a model among GPUs only and would keep a whole one in every process; "
            "on CPUs leave out --fsdp, which is data-parallel"
        )


def _check_weights(settings: TuneSettings, fsdp: bool) -> None:
    """Raise CutworkError for weights in bfloat16 that could not be trained as well as float32 ones."""
    if settings.weights == "float32":
        return
    if settings.dtype == "float32":
        raise CutworkError("weights in bfloat16 are multiplied in bfloat16; leave out dtype float32")
    if fsdp:
        raise CutworkError("weights in bfloat16 are for one process or DDP; with FSDP leave them float32")
    if not settings.lora and settings.optimizer not in LOW_BIT:
        raise CutworkError(
            f"rounded to the nearest bfloat16, weights lose small steps; set optimizer to {LOW_BIT[0]}, which rounds "
            "at random, or train adapters (lora)"
        )
