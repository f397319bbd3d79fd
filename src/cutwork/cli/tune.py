"""`cutwork tune`: fine-tuning, dense or sparse."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cutwork.cli.console import print_json
from cutwork.cli.options import Json, Overwrite
from cutwork.cli.training import (
    CheckpointArgument,
    LongOption,
    MaxLength,
    OutputArgument,
    RecipeOption,
    TaskOption,
    TaskOptionsOption,
    lengths,
    settings_of,
    training_task,
)
from cutwork.errors import CutworkError
from cutwork.recipe import LoraSettings, Losses, Schedule, TorchDType, TuneSettings, WeightsDType

_DEFAULT = TuneSettings()


def tune(
    model: CheckpointArgument,
    output: OutputArgument,
    task: TaskOption = None,
    task_option: TaskOptionsOption = None,
    recipe: RecipeOption = None,
    teacher: Annotated[
        str | None, typer.Option(help="The dense model, for the kl and squarehead losses; a directory or a Hub name.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Training samples. Default: the recipe's, or 2000.")
    ] = None,
    validation_samples: Annotated[
        int, typer.Option(min=0, help="More samples, not trained on, whose loss is measured at every checkpoint.")
    ] = 0,
    max_length: MaxLength = None,
    long: LongOption = None,
    epochs: Annotated[float, typer.Option(help="Passes over the samples.")] = _DEFAULT.epochs,
    max_steps: Annotated[int, typer.Option(help="Optimiser steps; overrides --epochs.")] = _DEFAULT.max_steps,
    learning_rate: Annotated[float, typer.Option("--learning-rate", "--lr", help="Peak.")] = _DEFAULT.learning_rate,
    weight_decay: Annotated[float, typer.Option()] = _DEFAULT.weight_decay,
    warmup_steps: Annotated[int, typer.Option(help="Optimiser steps, at most half of all.")] = _DEFAULT.warmup_steps,
    schedule: Annotated[Schedule, typer.Option()] = _DEFAULT.schedule,
    batch_size: Annotated[int, typer.Option(help="Samples per optimiser step.")] = _DEFAULT.batch_size,
    micro_batch_size: Annotated[int, typer.Option(help="Samples per forward pass.")] = _DEFAULT.micro_batch_size,
    packing: Annotated[
        bool, typer.Option("--packing", help="Put those of a forward pass into one row, without padding.")
    ] = False,
    max_grad_norm: Annotated[
        float | None,
        typer.Option(
            help=f"Clip gradients to this; 0: never. If not given {_DEFAULT.max_grad_norm:g}, with SquareHead 0."
        ),
    ] = None,
    optimizer: Annotated[
        str,
        typer.Option(help="adam, muon, or any that transformers knows by name; adamw_torch_4bit needs least memory."),
    ] = _DEFAULT.optimizer,
    dtype: Annotated[TorchDType, typer.Option(help="Of the forward pass.")] = _DEFAULT.dtype,
    weights: Annotated[
        WeightsDType, typer.Option(help="bfloat16: half the memory, with --lora-rank or --optimizer adamw_torch_8bit.")
    ] = _DEFAULT.weights,
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing", help="Less memory, slower.")] = (
        False
    ),
    ce: Annotated[float, typer.Option(help="Weight of the cross entropy.")] = _DEFAULT.losses.ce,
    kl: Annotated[float, typer.Option(help="Weight of the KL divergence from the teacher.")] = _DEFAULT.losses.kl,
    squarehead: Annotated[float, typer.Option(help="Weight of SquareHead.")] = _DEFAULT.losses.squarehead,
    temperature: Annotated[float, typer.Option(help="Of the KL term.")] = _DEFAULT.losses.temperature,
    teacher_dtype: Annotated[TorchDType, typer.Option(help="auto: that of the forward pass.")] = "auto",
    teacher_device: Annotated[str, typer.Option(help="cpu, cuda:1, …; auto: beside the model.")] = "auto",
    lora_rank: Annotated[int, typer.Option(min=0, help="Train masked adapters of this rank only; 0: all weights.")] = 0,
    lora_alpha: Annotated[
        float | None,
        typer.Option(help=f"The adapters are scaled by alpha / rank.  \\[default: {LoraSettings().alpha:g}]"),
    ] = None,
    lora_targets: Annotated[
        str | None,
        typer.Option(help="Linears of the blocks that get adapters: names or patterns, with commas.  \\[default: all]"),
    ] = None,
    keep_zeros: Annotated[bool, typer.Option(help="Zeros of the blocks' linears stay zero.")] = _DEFAULT.keep_zeros,
    save_every: Annotated[int, typer.Option(help="Optimiser steps between checkpoints.")] = _DEFAULT.save_every,
    keep_best: Annotated[
        bool, typer.Option("--keep-best", help="End with the checkpoint of the lowest validation loss, not the last.")
    ] = False,
    patience: Annotated[
        int, typer.Option(min=0, help="End after so many validations without a lower loss, with the best; 0: never.")
    ] = 0,
    report_to: Annotated[
        str,
        typer.Option(
            help="Trackers, with commas: tensorboard, trackio, wandb, …; none. Default: tensorboard if there."
        ),
    ] = "",
    seed: Annotated[int, typer.Option()] = _DEFAULT.seed,
    fsdp: Annotated[bool, typer.Option("--fsdp", help="Share the model among GPUs (FSDP2).")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show two examples and what it would take; train nothing.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model on a task; what a pruned model has lost comes back, and its zeros stay.

    After an interruption the same command goes on where it stopped; --overwrite starts anew. Launch it with `accelerate
    launch` or `torchrun` to use several GPUs: data-parallel, or with the model shared among them (--fsdp).

    Example: [bold]cutwork tune smollm2-135m-instruct out/dense --task gsm8k[/bold]

    Example: [bold]cutwork tune out/pruned out/sparse --teacher out/dense --squarehead 1
    --task gsm8k[/bold]

    Example: [bold]torchrun --nproc-per-node 8 --no-python cutwork tune big/pruned out --fsdp --task gsm8k[/bold]
    """
    from torch import distributed

    from cutwork.store.resolve import resolve
    from cutwork.tune.tune import tune as carry_out

    settings = settings_of(
        TuneSettings,
        epochs=epochs,
        max_steps=max_steps,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup_steps=warmup_steps,
        schedule=schedule,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        packing=packing,
        **({} if max_grad_norm is None else {"max_grad_norm": max_grad_norm}),
        optimizer=optimizer,
        dtype=dtype,
        gradient_checkpointing=gradient_checkpointing,
        weights=weights,
        losses=settings_of(Losses, ce=ce, kl=kl, squarehead=squarehead, temperature=temperature),
        lora=_adapters(lora_rank, lora_alpha, lora_targets),
        teacher_dtype=teacher_dtype,
        teacher_device=teacher_device,
        keep_zeros=keep_zeros,
        save_every=save_every,
        keep_best=keep_best,
        patience=patience,
        report_to=tuple(filter(None, report_to.split(","))),
        seed=seed,
    )
    if teacher and not settings.losses.needs_teacher:
        raise CutworkError("--teacher is for --kl and --squarehead alone; set one of them, or leave it out")
    most, long = lengths(recipe, max_length, long)
    path = resolve(model)
    data = training_task(task, recipe, samples, seed, validation_samples, options=task_option)
    report = carry_out(
        path,
        output,
        settings,
        data.train,
        validation=data.validation,
        teacher_dir=Path(resolve(teacher)) if teacher else None,
        max_length=most,
        long=long,
        fsdp=fsdp,
        dry_run=dry_run,
        overwrite=overwrite,
        console=Console(stderr=True),
    )
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()  # its threads may abort a process that ends without them
    if int(os.environ.get("RANK", "0")) > 0:
        return
    if dry_run:
        if as_json:
            print_json(report)
        return
    if as_json:
        print_json({"output": str(output), **report})
        return
    zeros = report["sparsity"].values()
    validation = report.get("validation")
    measured = f", validation loss {validation['loss']:.4g} (step {validation['step']})" if validation else ""
    print(
        f"{output}: {report['steps']} steps in {report['seconds']:.0f} s ({report['tokens_per_second']:.0f} tokens/s, "
        f"{report['dtype']}), loss {report['final'].get('loss', float('nan')):.4g}{measured}, "
        f"zeros per layer {min(zeros):.2%} to {max(zeros):.2%}"
    )


def _adapters(rank: int, alpha: float | None, targets: str | None) -> LoraSettings | None:
    if not rank:
        if alpha is not None or targets is not None:
            raise CutworkError(
                "--lora-alpha and --lora-targets are for --lora-rank alone; give that too, or leave them out"
            )
        return None
    if alpha is not None and alpha <= 0:
        raise CutworkError(f"--lora-alpha: input should be greater than 0 (got {alpha})")
    given = {"alpha": alpha, "targets": None if targets is None else tuple(targets.split(","))}
    return settings_of(LoraSettings, rank=rank, **{key: value for key, value in given.items() if value is not None})
