"""Fine-tuning as one call, dense or sparse: resumable while it runs, one plain checkpoint when it is done."""

import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from rich.console import Console
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, TrainingArguments, set_seed

from cutwork.errors import CutworkError
from cutwork.machine import available_memory
from cutwork.recipe import Long, TuneSettings
from cutwork.store.directory import check_plain
from cutwork.store.json_file import write_json
from cutwork.store.lock import only_process
from cutwork.store.output import absolute, check_apart, check_free, lock_of, output_directory, work_of
from cutwork.tasks.task import Sample
from cutwork.torch_models.data import Examples, examples
from cutwork.torch_models.load import load_config, load_tokenizer, save_model, stop_at
from cutwork.torch_models.model_inputs import EncoderInputs, inputs_of
from cutwork.torch_models.packing import check_packing
from cutwork.torch_models.precision import wants_bfloat16
from cutwork.tune.arguments import in_environment, training_arguments
from cutwork.tune.checkpoints import last_checkpoint
from cutwork.tune.console import TrainingLog, read_log, show_examples, show_layers
from cutwork.tune.estimate import Estimate, estimate
from cutwork.tune.gradual import schedule_of
from cutwork.tune.interruption import saved_when_interrupted
from cutwork.tune.kernel_cache import few_kernels
from cutwork.tune.lora import add_adapters, merge
from cutwork.tune.malloc import kept_pages, memory_advice
from cutwork.tune.masks import LostZerosError, sparsity
from cutwork.tune.resume import REPORT, begin, begun, check_own, finished, identity, remove, resume_from
from cutwork.tune.student_and_teacher import (
    check_teacher,
    check_teacher_device,
    checkpoint_activations,
    load_student,
    load_teacher,
)
from cutwork.tune.trainer import SparseTrainer

LOG = "tune-log.jsonl"


@dataclass(frozen=True)
class Preparation:
    """What is done to a model before it is trained; `key`, anything JSON can hold, tells one from another."""

    apply: Callable[[nn.Module], None]
    key: object


@dataclass(frozen=True)
class _Run:
    """What one call is about, once its inputs have been read."""

    model_dir: Path
    teacher_dir: Path | None
    output: Path
    work: Path  # what a resumed call goes on from
    settings: TuneSettings
    arguments: TrainingArguments
    config: Any
    tokenizer: Any
    samples: Sequence[Sample]
    data: Examples
    validation: Examples | None
    max_length: int
    long: Long
    prepared: Preparation | None
    identity: dict[str, Any]  # a resumed or finished run must agree in all of it
    sharded: bool  # among processes, by FSDP
    first: bool  # whether this process writes and prints
    console: Console


def tune(
    model_dir: Path,
    output: Path,
    settings: TuneSettings,
    samples: Sequence[Sample],
    *,
    teacher_dir: Path | None = None,
    validation: Sequence[Sample] = (),
    max_length: int = 512,
    long: Long = "drop",
    fsdp: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
    prepared: Preparation | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Fine-tune the model in `model_dir` on `samples` and write a plain checkpoint to `output`; returns its report.

    With `settings.keep_zeros`, whatever is zero in a linear of a block stays zero, and the result is checked. While it
    runs, resumable checkpoints are in `OUTPUT.work` beside the output: the same call after an interruption goes on from
    the last one and ends with the same weights. If `output` is already the result of this call, nothing is done.
    `overwrite` throws both away first. `long` says what becomes of samples of more than `max_length` tokens. `dry_run`
    prints two examples and the estimate, and trains nothing. `prepared` may parametrise weights, as quantisation-aware
    training does; the stored weights are what is written.

    In several processes (torchrun, accelerate launch) this is data-parallel, and the model is sharded with `fsdp` or
    where accelerate's own settings say so; the first process writes and prints.

    Raises CutworkError for unusable models, data or settings, when the loss diverges, when zeros were lost, when what
    is in `OUTPUT.work` or `output` comes from other settings, or another process is at it.
    """
    first = int(os.environ.get("RANK", "0")) == 0
    console = (console or Console(stderr=True)) if first else Console(quiet=True)
    output = absolute(output)
    for read in (model_dir, teacher_dir):
        if read:
            check_apart(output, read)
            check_plain(read)
    work = work_of(output)
    arguments = training_arguments(work, settings, fsdp, validates=bool(validation))
    _ = arguments.device  # from here on the processes know each other
    refusal = f"another process is fine-tuning into {output}; wait for it or choose another output"
    writes = first and not dry_run
    with only_process(lock_of(output), refusal) if writes else nullcontext():
        config, tokenizer = load_config(model_dir), load_tokenizer(model_dir)
        _check_learns(config, settings, validation)
        data = examples(tokenizer, samples, max_length, inputs_of(config), long)
        measured = examples(tokenizer, validation, max_length, inputs_of(config), long) if validation else None
        run = _Run(
            model_dir=model_dir,
            teacher_dir=teacher_dir,
            output=output,
            work=work,
            settings=settings,
            arguments=arguments,
            config=config,
            tokenizer=tokenizer,
            samples=samples,
            data=data,
            validation=measured,
            max_length=max_length,
            long=long,
            prepared=prepared,
            identity=identity(model_dir, teacher_dir, settings, data, measured, prepared and prepared.key),
            sharded=bool(arguments.fsdp) or in_environment("ACCELERATE_USE_FSDP"),
            first=first,
            console=console,
        )
        done = None if overwrite or dry_run else finished(output, run.identity)
        if done is not None:
            remove(work)  # of a process killed when it had written the output
            console.print(f"{output} is already there; nothing to do")
            return done
        if writes:
            check_free(output, overwrite)
            check_own(work)
            if overwrite:
                remove(work)
        PartialState().wait_for_everyone()
        check_teacher(settings.losses, teacher_dir)
        check_teacher_device(settings.teacher_device)
        for part in filter(None, (data, measured)):
            if part.changed():
                console.print(part.changed())
        few_kernels()
        bfloat16 = _bfloat16(run, dry_run)
        expected = _estimate(run, bfloat16)
        if dry_run and not console.quiet:
            show_examples(console, tokenizer, data)
        console.print(
            expected.sentence() if expected else "no estimate: this architecture cannot be run on empty tensors",
            soft_wrap=True,
        )
        if expected and arguments.device.type == "cpu":
            processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            if advice := memory_advice(processes * sum(expected.memory.values()), available_memory()):
                console.print(f"[yellow]{advice}[/]", soft_wrap=True)
        if dry_run:
            return {"estimate": asdict(expected) if expected else None, "data": data.counts()}
        trainer, zeros = _prepare(run, bfloat16)
        seconds = _train(run, trainer, sparse=max(zeros.values()) > 0.1)
        return _write(run, trainer, zeros, seconds, overwrite)


def _check_learns(config: Any, settings: TuneSettings, validation: Sequence[Sample]) -> None:
    """Raise CutworkError for an encoder that should learn from something else than its teacher's hidden states."""
    if not isinstance(inputs_of(config), EncoderInputs):
        return
    if settings.losses.ce > 0 or settings.losses.kl > 0 or settings.losses.squarehead <= 0:
        raise CutworkError(
            "an encoder learns from its teacher's hidden states only; set ce and kl to 0 and squarehead to 1 "
            "(--ce 0 --kl 0 --squarehead 1), and give the dense model as --teacher"
        )
    if validation:
        raise CutworkError("an encoder predicts no tokens, so there is nothing to validate; leave validation_samples 0")


def _prepare(run: _Run, bfloat16: bool) -> tuple[SparseTrainer, dict[str, float]]:
    """The trainer of the model and its teacher, and the fraction of zeros that each linear begins with."""
    settings, attention = run.settings, _attention(run.data, run.settings)
    set_seed(settings.seed)
    model = load_student(run.model_dir, settings, attention, run.arguments.world_size)
    if settings.packing:
        check_packing(model)
    zeros = sparsity(model)
    teacher = None
    if run.teacher_dir is not None and settings.losses.needs_teacher:
        teacher = load_teacher(run.teacher_dir, settings, bfloat16, attention, model, run.arguments.device)
    if settings.lora:
        add_adapters(model, settings.lora, settings.keep_zeros)
    if run.prepared:
        run.prepared.apply(model)
    if settings.gradient_checkpointing:
        checkpoint_activations(model)
    trainer = SparseTrainer(
        model=model,
        args=run.arguments,
        train_dataset=run.data,
        eval_dataset=run.validation,
        losses=settings.losses,
        teacher=teacher,
        bfloat16=bfloat16,
        keep_zeros=settings.keep_zeros,
        packing=settings.packing,
        own_optimizer=settings.optimizer,
        schedule=schedule_of(settings, model, run.tokenizer, run.samples, run.max_length, run.long, bfloat16),
    )
    if settings.patience:
        trainer.add_callback(EarlyStoppingCallback(settings.patience))
    run.work.mkdir(parents=True, exist_ok=True)
    if run.first:
        begin(run.work, run.identity, bfloat16, run.sharded)
    return trainer, zeros


def _train(run: _Run, trainer: SparseTrainer, *, sparse: bool) -> float:
    """Train, or go on training; returns the seconds it took. What is cut off before its first checkpoint is removed."""
    log = TrainingLog(run.console, run.work / LOG, "sparse fine-tuning" if sparse else "fine-tuning")
    trainer.add_callback(log)
    start = time.perf_counter()
    try:
        with kept_pages(), saved_when_interrupted(trainer, run.console):
            trainer.train(resume_from_checkpoint=resume_from(run.work, run.console))
    except KeyboardInterrupt:
        log.close()
        run.console.print(f"interrupted; the same command goes on from {last_checkpoint(run.work) or 'the start'}")
        raise
    finally:
        log.close()
        if trainer.state.global_step < trainer.state.max_steps and last_checkpoint(run.work) is None:
            remove(run.work)
    return time.perf_counter() - start


def _write(
    run: _Run, trainer: SparseTrainer, zeros: dict[str, float], seconds: float, overwrite: bool
) -> dict[str, Any]:
    """Check the trained weights and write them with the report, which all processes get."""
    settings, work = run.settings, run.work
    report: dict[str, Any] = {}
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # gathered from all processes
    if run.first:
        if settings.lora:
            state = merge(state, settings.lora, settings.keep_zeros)
        state = {name.replace(".parametrizations.weight.original", ".weight"): value for name, value in state.items()}
        if settings.weights == "bfloat16":
            state = {name: value.bfloat16() if value.is_floating_point() else value for name, value in state.items()}
        after = {name: _zeros(state[f"{name}.weight"]) for name in zeros}
        if settings.keep_zeros:
            _check_zeros(zeros, after)
        lines = read_log(work / LOG)
        report = {
            "run": run.identity,
            "seconds": round(seconds, 3),
            "steps": trainer.state.global_step,
            "data": run.data.counts(),
            "tokens_per_second": round(trainer.tokens * run.arguments.world_size / seconds, 1),
            "dtype": "bfloat16" if trainer.bfloat16 else "float32",
            "final": lines[-1] if lines else {},
            **({"validation": _validation(run.validation, trainer)} if run.validation else {}),
            "sparsity": after,
        }
        show_layers(run.console, lines)
        with output_directory(run.output, overwrite=overwrite) as partial:
            save_model(trainer.model, run.model_dir, partial, state)
            stop_at(partial, run.data.ends())
            shutil.copyfile(work / LOG, partial / LOG)
            if (work / "runs").is_dir():
                shutil.copytree(work / "runs", partial / "runs")  # for TensorBoard
            write_json(partial / REPORT, report)
        remove(work)
    shared = [report]
    broadcast_object_list(shared)  # so that no process ends, or begins the next run, before the output is there
    return shared[0]


def _validation(data: Examples, trainer: SparseTrainer) -> dict[str, Any]:
    """The losses by step, and the step and loss of the weights that are written."""
    losses = {line["step"]: line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line}
    step = trainer.state.best_global_step if trainer.args.load_best_model_at_end else max(losses)
    return {**data.counts(), "losses": [[*each] for each in losses.items()], "step": step, "loss": losses[step]}


def _bfloat16(run: _Run, dry_run: bool) -> bool:
    """Whether forward passes compute in bfloat16: as an unfinished run does, as set, or as is faster here."""
    decided = None if dry_run else begun(run.work, run.identity, run.sharded)
    if decided is None:
        whole = run.settings.weights == "float32"
        decided = wants_bfloat16(run.settings.dtype if whole else "bfloat16", run.arguments.device)
    [decided] = broadcast_object_list([decided])  # measured, so processes may differ
    assert isinstance(decided, bool)
    return decided


def _attention(data: Examples, settings: TuneSettings) -> str:
    """On CPUs, plain attention is a tenth faster than the fused one up to about 128 tokens (measured end to end)."""
    short = not data.lazy and max(data.lengths) <= 128 and not settings.packing
    return "eager" if short and not torch.cuda.is_available() else "sdpa"


def _estimate(run: _Run, bfloat16: bool) -> Estimate | None:
    """What the run will take, or None for a model that does not run without contents: no reason not to train it."""
    data, settings, arguments = run.data, run.settings, run.arguments
    accumulation = arguments.gradient_accumulation_steps
    per_epoch = math.ceil(len(data) / (arguments.per_device_train_batch_size * accumulation * arguments.world_size))
    try:
        return estimate(
            run.config,
            data,
            settings,
            bfloat16=bfloat16,
            attention=_attention(data, settings),
            device=arguments.device,
            steps=settings.max_steps if settings.max_steps > 0 else math.ceil(per_epoch * settings.epochs),
            micro_batch=arguments.per_device_train_batch_size,
            accumulation=accumulation,
            shards=arguments.world_size if run.sharded else 1,
        )
    except CutworkError:
        raise
    except Exception:
        return None


def _check_zeros(before: dict[str, float], after: dict[str, float]) -> None:
    for name, fraction in before.items():
        if after[name] < fraction:
            raise LostZerosError(
                f"{name} has {after[name]:.4%} zeros after training and had {fraction:.4%}; please report this"
            )


def _zeros(weight: Tensor) -> float:
    size = int(weight.numel())
    return (size - int(weight.count_nonzero())) / size
