"""Fine-tuning as one call, dense or sparse: resumable while it runs, one plain checkpoint when it is done."""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from rich.console import Console
from torch import Tensor, nn
from transformers import TrainingArguments, set_seed
from transformers.integrations import is_tensorboard_available
from transformers.training_args import OptimizerNames

from cutwork.errors import CutworkError
from cutwork.recipe import TuneSettings
from cutwork.store.directory import fingerprint
from cutwork.store.json_file import read_json
from cutwork.store.output import output_directory
from cutwork.tasks.task import Sample
from cutwork.torch_models.data import Examples, examples
from cutwork.torch_models.load import load_config, load_model, load_tokenizer, save_model
from cutwork.torch_models.model_inputs import inputs_of
from cutwork.torch_models.precision import wants_bfloat16
from cutwork.tune.console import TrainingLog, read_log, show_examples, show_layers
from cutwork.tune.estimate import Estimate, estimate
from cutwork.tune.gradual import schedule_of
from cutwork.tune.lora import add_adapters, merge
from cutwork.tune.malloc import kept_memory
from cutwork.tune.masks import LostZerosError, sparsity
from cutwork.tune.optimizers import check_optimizer
from cutwork.tune.trainer import SparseTrainer, is_complete, last_checkpoint

REPORT = "tune-report.json"
_LOG = "tune-log.jsonl"
_RUN = "run.json"
_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


@dataclass(frozen=True)
class Preparation:
    """What is done to a model before it is trained; `key`, anything JSON can hold, tells one from another."""

    apply: Callable[[nn.Module], None]
    key: object


def tune(
    model_dir: Path,
    output: Path,
    settings: TuneSettings,
    samples: Sequence[Sample],
    *,
    teacher_dir: Path | None = None,
    max_length: int = 512,
    fsdp: bool = False,
    dry_run: bool = False,
    restart: bool = False,
    prepared: Preparation | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Fine-tune the model in `model_dir` on `samples` and write a plain checkpoint to `output`; returns its report.

    With `settings.keep_zeros`, whatever is zero in a linear of a block stays zero, and the result is checked. While it
    runs, resumable checkpoints are in `OUTPUT.work` beside the output: the same call after an interruption goes on from
    the last one and ends with the same weights. If `output` is already the result of this call, nothing is done.
    `restart` throws both away first. `dry_run` prints two examples and the estimate, and trains nothing. `prepared` may
    parametrise weights, as quantisation-aware training does; the stored weights are what is written.

    In several processes (torchrun, accelerate launch) this is data-parallel, and the model is sharded with `fsdp` or
    where accelerate's own settings say so; the first process writes and prints.

    Raises CutworkError for unusable models, data or settings, when the loss diverges, when zeros were lost, or when
    what is in `OUTPUT.work` or `output` comes from other settings.
    """
    first = int(os.environ.get("RANK", "0")) == 0
    console = (console or Console(stderr=True)) if first else Console(quiet=True)
    work = output.with_name(f"{output.name}.work")
    arguments = _arguments(work, settings, fsdp)
    device = arguments.device  # from here on the processes know each other
    if restart and first and not dry_run:
        shutil.rmtree(work, ignore_errors=True)
    PartialState().wait_for_everyone()
    config = load_config(model_dir)
    tokenizer = load_tokenizer(model_dir)
    data = examples(tokenizer, samples, max_length, inputs_of(config))
    run = _describe(model_dir, teacher_dir, settings, data)
    if prepared:
        run["prepared"] = prepared.key
    finished = None if restart or dry_run else _finished(output, run)
    if finished is not None:
        console.print(f"{output} is already there; nothing to do")
        return finished
    if settings.losses.needs_teacher and teacher_dir is None:
        raise CutworkError("the kl and squarehead losses compare with a teacher; give the dense model as --teacher")
    bfloat16 = None if dry_run else _begun(work, run)
    if bfloat16 is None:
        bfloat16 = wants_bfloat16(settings.dtype, device)
    [bfloat16] = broadcast_object_list([bfloat16])  # measured, so processes may differ
    assert isinstance(bfloat16, bool)
    attention = _attention(data)
    expected = _estimate(config, data, settings, arguments, bfloat16, attention)
    if dry_run:
        show_examples(console, tokenizer, data)
    console.print(expected.sentence() if expected else "no estimate: this architecture cannot be run on empty tensors")
    if dry_run:
        return {"estimate": asdict(expected) if expected else None}

    set_seed(settings.seed)
    model = load_model(model_dir, torch.float32, attention)
    before = sparsity(model)
    teacher = None
    if teacher_dir is not None and settings.losses.needs_teacher:
        teacher = _load_teacher(teacher_dir, settings, bfloat16, attention, model.config, device)
    if settings.lora:
        add_adapters(model, settings.lora, settings.keep_zeros)
    if prepared:
        prepared.apply(model)
    if settings.gradient_checkpointing:
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    trainer = SparseTrainer(
        model=model,
        args=arguments,
        train_dataset=data,
        losses=settings.losses,
        teacher=teacher,
        bfloat16=bfloat16,
        keep_zeros=settings.keep_zeros,
        own_optimizer=settings.optimizer,
        schedule=schedule_of(settings, model, tokenizer, samples, max_length, bfloat16),
    )
    work.mkdir(parents=True, exist_ok=True)
    if first:
        (work / _RUN).write_text(json.dumps({"run": run, "bfloat16": bfloat16}, indent=1))
    log = TrainingLog(console, work / _LOG, "sparse fine-tuning" if max(before.values()) > 0.1 else "fine-tuning")
    trainer.add_callback(log)
    start = time.perf_counter()
    try:
        with kept_memory():
            trainer.train(resume_from_checkpoint=_resume_from(work, console))
    except KeyboardInterrupt:
        log.close()
        console.print(f"interrupted; the same command goes on from {last_checkpoint(work) or 'the start'}")
        raise
    finally:
        log.close()
        if trainer.state.global_step < trainer.state.max_steps and last_checkpoint(work) is None:
            shutil.rmtree(work, ignore_errors=True)  # cut off with nothing to resume from
    seconds = time.perf_counter() - start

    report: dict[str, Any] = {}
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # gathered from all processes
    if first:
        if settings.lora:
            state = merge(state, settings.lora, settings.keep_zeros)
        state = {name.replace(".parametrizations.weight.original", ".weight"): value for name, value in state.items()}
        after = {name: _zeros(state[f"{name}.weight"]) for name in before}
        if settings.keep_zeros:
            _check_zeros(before, after)
        lines = read_log(work / _LOG)
        report = {
            "run": run,
            "seconds": round(seconds, 3),
            "steps": trainer.state.global_step,
            "tokens_per_second": round(trainer.tokens * arguments.world_size / seconds, 1),
            "dtype": "bfloat16" if bfloat16 else "float32",
            "final": lines[-1] if lines else {},
            "sparsity": after,
        }
        show_layers(console, lines)
        with output_directory(output, overwrite=restart) as partial:
            save_model(model, model_dir, partial, state)
            shutil.copyfile(work / _LOG, partial / _LOG)
            if (work / "runs").is_dir():
                shutil.copytree(work / "runs", partial / "runs")  # for TensorBoard
            (partial / REPORT).write_text(json.dumps(report, indent=1))
        shutil.rmtree(work, ignore_errors=True)
    shared = [report]
    broadcast_object_list(shared)  # so that no process ends, or begins the next run, before the output is there
    return shared[0]


def _describe(model: Path, teacher: Path | None, settings: TuneSettings, data: Examples) -> dict[str, Any]:
    """What identifies a run: a resumed or finished one must agree in all of it."""
    return {
        "model": fingerprint(model),
        "teacher": fingerprint(teacher) if teacher and settings.losses.needs_teacher else None,
        "data": data.digest(),
        "settings": settings.model_dump(mode="json"),
    }


def _finished(output: Path, run: dict[str, Any]) -> dict[str, Any] | None:
    if not (output / REPORT).is_file():
        return None
    report = read_json(output / REPORT)
    if report.get("run") != run:
        raise CutworkError(
            f"{output} was made with another {_difference(report.get('run'), run)}; "
            "choose another output, or replace it with --restart"
        )
    return report


def _begun(work: Path, run: dict[str, Any]) -> bool | None:
    """Whether the unfinished run in a work directory uses bfloat16, which is decided once; None if there is none."""
    if not (work / _RUN).is_file():
        return None
    begun = read_json(work / _RUN)
    if begun.get("run") != run:
        raise CutworkError(
            f"{work} holds an unfinished run with another {_difference(begun.get('run'), run)}; "
            "finish that one, or throw it away with --restart"
        )
    return bool(begun.get("bfloat16"))


def _attention(data: Examples) -> str:
    """On CPUs, plain attention is a tenth faster than the fused one up to about 128 tokens (measured end to end)."""
    return "eager" if not data.lazy and max(data.lengths) <= 128 and not torch.cuda.is_available() else "sdpa"


def _difference(old: Any, new: dict[str, Any]) -> str:
    """The first key in which two run descriptions differ, with both values."""
    old = old if isinstance(old, dict) else {}
    for key, value in new.items():
        if old.get(key) == value:
            continue
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            return _difference(old[key], value)
        return f"{key} ({old.get(key)}, now {value})"
    return "version of cutwork"


def _resume_from(work: Path, console: Console) -> str | None:
    good = last_checkpoint(work)
    for directory in work.glob("checkpoint-*"):
        if not is_complete(directory):  # cut off while it was being written
            shutil.rmtree(directory, ignore_errors=True)  # by whichever process is first
    if good:
        console.print(f"resuming from {good}")
    return str(good) if good else None


def _load_teacher(
    path: Path, settings: TuneSettings, bfloat16: bool, attention: str, student: Any, device: torch.device
) -> Any:
    wanted = settings.teacher_dtype if settings.teacher_dtype != "auto" else ("float32", "bfloat16")[bfloat16]
    teacher = load_model(path, getattr(torch, wanted), attention).requires_grad_(False)
    for key in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size"):
        if getattr(teacher.config, key, None) != getattr(student, key, None):
            raise CutworkError(
                f"the teacher {path} has another {key} ({getattr(teacher.config, key, None)}, the student "
                f"{getattr(student, key, None)}); the teacher is the dense model the student was pruned from"
            )
    try:
        return teacher.to(device if settings.teacher_device == "auto" else settings.teacher_device)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CutworkError(f"cannot put the teacher on teacher_device '{settings.teacher_device}': {reason}") from None


def _estimate(
    config: Any, data: Examples, settings: TuneSettings, arguments: TrainingArguments, bfloat16: bool, attention: str
) -> Estimate | None:
    """What the run will take, or None for a model that does not run without contents: no reason not to train it."""
    accumulation = arguments.gradient_accumulation_steps
    per_epoch = math.ceil(len(data) / (arguments.per_device_train_batch_size * accumulation * arguments.world_size))
    try:
        return estimate(
            config,
            data,
            settings,
            bfloat16=bfloat16,
            attention=attention,
            device=arguments.device,
            steps=settings.max_steps if settings.max_steps > 0 else math.ceil(per_epoch * settings.epochs),
            micro_batch=arguments.per_device_train_batch_size,
            accumulation=accumulation,
            shards=arguments.world_size if arguments.fsdp or _in_environment("ACCELERATE_USE_FSDP") else 1,
        )
    except Exception:
        return None


def _in_environment(switch: str) -> bool:
    return os.environ.get(switch, "").lower() in ("1", "true", "yes")


def _arguments(work: Path, settings: TuneSettings, fsdp: bool) -> TrainingArguments:
    check_optimizer(settings.optimizer)
    if _in_environment("ACCELERATE_USE_DEEPSPEED"):
        raise CutworkError("DeepSpeed is not supported; launch with FSDP2 or DDP (accelerate launch, torchrun)")
    processes = int(os.environ.get("WORLD_SIZE", "1"))  # as launched by torchrun or accelerate
    if fsdp and processes == 1:
        raise CutworkError("--fsdp shares one model among several processes; launch it with torchrun or accelerate")
    micro = min(settings.micro_batch_size, settings.batch_size)
    if settings.batch_size % (micro * processes):
        times = f" times {processes} processes" if processes > 1 else ""
        raise CutworkError(f"batch_size {settings.batch_size} is not a multiple of micro_batch_size {micro}{times}")
    return TrainingArguments(
        output_dir=str(work),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps,
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
        report_to=["tensorboard"] if is_tensorboard_available() else [],
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=settings.losses.ce == settings.losses.kl == 0,  # then the head is not used
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _check_zeros(before: dict[str, float], after: dict[str, float]) -> None:
    for name, fraction in before.items():
        if after[name] < fraction:
            raise LostZerosError(
                f"{name} has {after[name]:.4%} zeros after training and had {fraction:.4%}; please report this"
            )


def _zeros(weight: Tensor) -> float:
    size = int(weight.numel())
    return (size - int(weight.count_nonzero())) / size
