"""`cutwork run`: the stages of a recipe, from a pretrained model to the comparison of everything made of it."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import date
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console

from cutwork.architectures import check_runnable
from cutwork.errors import CutworkError
from cutwork.measure.context import check_comparable
from cutwork.measure.quality import check_measurable
from cutwork.pack.rounding import rounding
from cutwork.pack.source import SourceCheckpoint
from cutwork.recipe import PackSettings, Recipe
from cutwork.run.durations import Durations
from cutwork.run.preview import add_preview
from cutwork.run.stages import GROUPS, Source, Stage, Stages, sample_digest
from cutwork.store.directory import check_plain, read_config
from cutwork.store.fingerprint import digest
from cutwork.store.json_file import write_json
from cutwork.store.output import check_apart
from cutwork.store.resolve import resolve
from cutwork.tasks.load import load_task
from cutwork.tasks.perplexity import read_text
from cutwork.tasks.task import Task

# What is packed and compared: of which model of the run, and in which dtype; None: as the recipe's `pack` says.
VARIANTS: dict[str, tuple[str, Literal["f32", "bf16"] | None]] = {
    "dense-f32": ("dense", "f32"),
    "dense-bf16": ("dense", "bf16"),
    "pruned-f32": ("pruned", "f32"),
    "pruned-bf16": ("pruned", "bf16"),
    "sparse-f32": ("sparse", "f32"),
    "sparse-bf16": ("sparse", "bf16"),
    "dense-int8": ("dense-quantized", None),
    "sparse-int8": ("sparse-quantized", None),
}


def run(recipe: Recipe, *, output: Path | None = None, until: str = "compare", console: Console | None = None) -> Path:
    """Carry out a recipe up to the stages of the group `until` and return its output directory.

    Stages that are already there are kept; one whose settings or inputs changed is made anew, and what depends on it.
    After an interruption the same call goes on where it stopped. Raises CutworkError for whatever the user can fix.
    """
    if until not in GROUPS:  # before anything is downloaded
        raise CutworkError(f"there is no stage '{until}'; the stages are {', '.join(GROUPS)}")
    output = (output or recipe.output).expanduser()
    stages = stages_of(recipe, output, console or Console(stderr=True))
    check_plain(resolve(recipe.model))
    config = read_config(resolve(recipe.model))
    if recipe.preview or GROUPS.index(until) >= GROUPS.index("pack"):
        check_runnable(config)
        _check_rounding(recipe)
    if until == GROUPS[-1]:
        check_measurable(stages.task)
        check_comparable(config, recipe.compare)
    stages.carry_out(until)
    return output


def stages_of(recipe: Recipe, output: Path, console: Console) -> Stages:
    """The stages of a recipe. Gets the task's data and the model, but carries nothing out."""
    wanted = recipe.compare.models or tuple(VARIANTS)
    if unknown := [name for name in wanted if name not in VARIANTS]:
        raise CutworkError(f"compare.models: there is no '{unknown[0]}'; they are {', '.join(VARIANTS)}")
    if recipe.compare.lm_eval:  # a task that does not exist would else be told after all work is done
        from cutwork.measure.harness import check_tasks

        check_tasks(recipe.compare.lm_eval)
    task = load_task(recipe.task)
    if not task.train or not task.test:
        raise CutworkError(
            f"task {task.name} has {len(task.train)} samples to train on and {len(task.test)} to test with; give it "
            "both in task.options, or more rows, or fewer in task.test_samples"
        )
    start = resolve(recipe.model)
    check_apart(output, start)
    durations = Durations(start, task, recipe.task.max_length, recipe.task.long)
    stages = Stages(output, task, recipe.task.max_length, console, recipe.task.long, durations)
    if recipe.preview:
        add_preview(stages, start, recipe)
    dense: Source = start
    if recipe.teacher:
        dense = stages.tune("teacher", "teacher", dense, recipe.teacher)
    pruned, sparse = _prune_and_tune(recipe, stages, dense)
    models: dict[str, Source] = {"dense": dense, "pruned": pruned, "sparse": sparse}
    if recipe.quantize:
        unpruned = recipe.quantize.model_copy(update={"sparsity": 0.0})
        for name, settings in (("dense", unpruned), ("sparse", recipe.quantize)):
            if f"{name}-int8" in wanted:
                models[f"{name}-quantized"] = stages.quantize(f"{name}-quantized", models[name], settings)
    if lacking := [name for name in recipe.compare.models if VARIANTS[name][0] not in models]:
        raise CutworkError(f"compare.models: without quantize there is no {' or '.join(lacking)}")
    packed = {
        name: stages.pack(f"packed/{name}", models[model], _pack_settings(recipe, model, dtype))
        for name, (model, dtype) in VARIANTS.items()
        if model in models and name in wanted
    }

    def make(file: Path) -> None:
        _compare(recipe, task, packed, stages, file)

    depends = [recipe.name, recipe.compare.model_dump(mode="json"), recipe.task.max_length, sample_digest(task.test)]
    if task.metric != "exact":  # without which runs that are judged so go on
        depends.append(task.metric)
    if recipe.compare.perplexity_text:
        depends.append(digest(read_text(recipe.compare.perplexity_text)))
    if recipe.compare.lm_eval:
        from cutwork.measure.task_files import contents_of_tasks

        depends.append(contents_of_tasks(recipe.compare.lm_eval))
    seconds = partial(durations.compare, recipe.compare, len(packed))
    stages.add("results.json", "compare", make, depends, *packed.values(), seconds=seconds)
    return stages


def _pack_settings(recipe: Recipe, model: str, dtype: Literal["f32", "bf16"] | None) -> PackSettings:
    """Floats are compared as they are; what was made of a recipe that quantises nothing keeps the head it asks for."""
    if dtype is None:
        return recipe.pack
    if model == "sparse" and not recipe.quantize:
        return recipe.pack.model_copy(update={"dtype": dtype})
    return PackSettings(dtype=dtype)


def _check_rounding(recipe: Recipe) -> None:
    """Raise CutworkError for a head or an embedding to round that will not be there when all work is done."""
    own_head = recipe.quantize is not None and recipe.quantize.head != "skip"
    rounding(
        SourceCheckpoint(resolve(recipe.model)), "auto", recipe.pack.head, "auto" if own_head else recipe.pack.embedding
    )


def _prune_and_tune(recipe: Recipe, stages: Stages, dense: Source) -> tuple[Stage, Stage]:
    """The pruned model and the fine-tuned one, which are the same if nothing is tuned.

    Of an iterative recipe the last of each, every level made from the one before.
    """
    if not recipe.prune.levels or not recipe.tune:
        pruned = stages.prune("pruned", dense, recipe.prune)
        return pruned, stages.tune("sparse", "tune", pruned, recipe.tune, teacher=dense) if recipe.tune else pruned
    tuned: Stage | None = None
    for number, level in enumerate(recipe.prune.levels, 1):
        pruned = stages.prune(f"pruned-{number}", tuned or dense, recipe.prune.at(level))
        # A fine-tuning that is pruned again belongs to the pruning: `--until prune` ends with a pruned model.
        group = "tune" if level == recipe.prune.levels[-1] else "prune"
        tuned = stages.tune(f"sparse-{number}", group, pruned, recipe.tune, teacher=dense)
    assert tuned
    return pruned, tuned


def _compare(recipe: Recipe, task: Task, packed: Mapping[str, Stage], stages: Stages, file: Path) -> None:
    from cutwork.measure.compare import Variant, compare
    from cutwork.measure.report.write import write_report

    for stage in packed.values():
        stages.renew_examples(stage)
    variants = {name: Variant(stage.output, stage.key) for name, stage in packed.items()}
    results = compare(recipe, variants, task, file.parent / "measurements", console=stages.console)
    results["seconds"] = stages.seconds()
    results["date"] = date.today().isoformat()
    results["settings"] = recipe.model_dump(mode="json", exclude={"output"})
    results["made"] = {name: stage.key for name, stage in packed.items()}  # tells these models from later ones
    results["from"] = {stage.name: stage.key for stage in stages.stages if stage.group == "tune"}
    plot = file.parent / "results.png"
    if plot not in write_report([results], file.parent):
        with suppress(OSError):
            plot.unlink()  # of earlier results
    write_json(file, results)
