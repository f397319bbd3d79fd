"""The end of a run: how accurate, how large and how fast each variant of the model is."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cutwork.architectures import kind_of
from cutwork.engine.backend import native
from cutwork.engine.model import Model
from cutwork.engine.weights.costs import cache_path
from cutwork.machine import cpu_name
from cutwork.measure.context import room, room_for_answers, room_for_inputs
from cutwork.measure.quality import accuracy, judged_anew, together
from cutwork.measure.speed import measure
from cutwork.measure.task_files import contents_of_tasks
from cutwork.recipe import Recipe
from cutwork.store.directory import read_config
from cutwork.store.fingerprint import digest
from cutwork.store.json_file import read_json, write_json
from cutwork.tasks.perplexity import read_text, task_text
from cutwork.tasks.task import LABELS, Task

BASELINES = {"f32": "dense-f32", "bf16": "dense-bf16", "int8": "dense-int8"}  # what speed-ups are given against
_WINDOW = 512  # tokens of a perplexity window


@dataclass(frozen=True)
class Variant:
    """A packed model and a hash of what made it."""

    path: Path
    key: str


def compare(
    recipe: Recipe, variants: Mapping[str, Variant], task: Task, work: Path, *, console: Console
) -> dict[str, Any]:
    """Measure every variant and return the results, a JSON object.

    What was measured is kept in the directory `work`: an interrupted comparison goes on where it stopped, and one in
    which some models changed measures only those. Accuracy is exact match of the answers (of translations BLEU and
    chrF as well), perplexity that of the task's held-out text unless the recipe names a file (None for models with an
    encoder), speed that of `cutwork bench`: all variants interleaved in one process, medians. Raises CutworkError for
    models or texts that cannot be read.
    """
    kept = Measurements(work)
    rows = []
    for name, variant in variants.items():
        measured = quality(kept, name, variant, task, recipe, console)
        rows.append({"name": name, **measured, "disk_bytes": _directory_bytes(variant.path)})
    made = [[name, variant.key] for name, variant in variants.items()]
    threads = recipe.compare.threads or native().default_threads()
    engine = [cpu_name(), threads, cache_path().stem]  # speeds belong to a processor and a build, as costs do
    speed_key = [made, recipe.compare.model_dump(mode="json"), engine]
    speeds = kept.get(speed_key, lambda: _speeds(variants, recipe, console))
    rows = [{**row, **speeds["variants"][row["name"]]} for row in rows]
    _add_speedups(rows)
    machine = {"cpu": cpu_name(), "isa": speeds["isa"], "threads": speeds["threads"]}
    return {"recipe": recipe.name, "task": task.name, "machine": machine, "variants": rows}


def quality(
    kept: "Measurements", name: str, variant: Variant, task: Task, recipe: Recipe, console: Console
) -> dict[str, Any]:
    """Accuracy and perplexity of a model of any kind, by `recipe.compare`, measured unless `kept` has it."""
    settings = recipe.compare
    text = read_text(settings.perplexity_text) if settings.perplexity_text else None
    batch = together(settings.num_beams)

    def measure_it() -> dict[str, Any]:
        context = _context(variant.path, task, recipe)
        longest = room_for_inputs(variant.path, task.test[: settings.accuracy_samples])
        with Model.load(
            variant.path, threads=settings.threads, max_context=context, max_input=longest, max_batch=batch
        ) as model:
            score = accuracy(
                model,
                task,
                max_new_tokens=settings.max_new_tokens,
                num_beams=settings.num_beams,
                samples=settings.accuracy_samples,
                console=console,
            )
            perplexity = None
            if model.architecture.kind == "text":  # which has no text of its own
                content = text or task_text(model.tokenizer, task.test)
                measured = model.perplexity(content, window=_WINDOW, max_tokens=settings.perplexity_tokens)
                perplexity = measured.perplexity
            return {
                "sparsity": model.sparsity,
                "accuracy": score.accuracy,
                "right": score.right,
                "samples": score.samples,
                **score.quality,
                "perplexity": perplexity,
                "memory_bytes": model.memory_bytes["weights"],
            }

    def ask() -> dict[str, Any]:
        from cutwork.measure.harness import lm_eval

        with Model.load(variant.path, threads=settings.threads, max_batch=batch) as model:  # as long as it can
            return {"lm_eval": lm_eval(model, settings.lm_eval, limit=settings.lm_eval_limit, console=console)}

    questions = [sample.contents() for sample in task.test]
    amounts: list[Any] = [settings.accuracy_samples, settings.max_new_tokens, settings.perplexity_tokens]
    if settings.num_beams > 1:
        amounts.append(settings.num_beams)
    if task.metric != "exact":
        amounts.append(task.metric)
    amounts += judged_anew(task.test)
    result = kept.get([variant.key, questions, text, amounts], measure_it)
    facts = [f"{result['accuracy']:.1%} right"]
    facts += [f"{LABELS[key]} {result[key]:.1f}" for key in LABELS if key in result]
    if result["perplexity"] is not None:
        facts.append(f"perplexity {result['perplexity']:.3f}")
    console.print(f"{name}: {', '.join(facts)}", highlight=False)
    if settings.lm_eval:
        asked = ["whole context", *contents_of_tasks(settings.lm_eval), settings.lm_eval_limit]
        result |= kept.get([variant.key, asked], ask)
    return result


def _speeds(variants: Mapping[str, Variant], recipe: Recipe, console: Console) -> dict[str, Any]:
    """Prefill and decode speed of all variants, and what they ran on."""
    settings = recipe.compare
    with ExitStack() as stack:
        models = {
            name: stack.enter_context(
                Model.load(
                    variant.path,
                    threads=settings.threads,
                    max_context=room(read_config(variant.path), settings.prompt_tokens + settings.decode_tokens + 1),
                    max_batch=1,
                )
            )
            for name, variant in variants.items()
        }
        speeds = measure(models, settings.prompt_tokens, settings.decode_tokens, settings.repeats, console=console)
        any_model = next(iter(models.values()))
        return {
            "isa": any_model.isa,
            "threads": any_model.threads,
            "variants": {
                name: {
                    "memory_bytes": models[name].memory_bytes["weights"],  # as they lie where they are timed
                    "prefill_tokens_per_second": speed.prefill,
                    "decode_tokens_per_second": speed.decode,
                }
                for name, speed in speeds.items()
            },
        }


def _add_speedups(rows: list[dict[str, Any]]) -> None:
    """Add to each row its speed-up against the dense baselines that were measured."""
    by_name = {row["name"]: row for row in rows}
    for label, baseline in BASELINES.items():
        if baseline not in by_name:
            continue
        for phase in ("prefill", "decode"):
            reference = by_name[baseline][f"{phase}_tokens_per_second"]
            for row in rows:
                row[f"{phase}_speedup_over_dense_{label}"] = row[f"{phase}_tokens_per_second"] / reference


def _context(path: Path, task: Task, recipe: Recipe) -> int:
    """Of the longest answer to the task's questions, and of a window of perplexity."""
    settings = recipe.compare
    config = read_config(path)
    if kind_of(config) != "text":
        return room(config, recipe.task.max_length + settings.max_new_tokens)
    return max(
        room(config, _WINDOW),
        room_for_answers(path, task.test[: settings.accuracy_samples], settings.max_new_tokens),
    )


def _directory_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


class Measurements:
    """Results of measurements in a directory, each in a file named by a hash of what it depends on."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def get(self, key: object, measure_it: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The kept result for a key, or a new one."""
        file = self._file(key)
        if not file.is_file():
            write_json(file, measure_it())
        return read_json(file)

    def has(self, key: object) -> bool:
        """Whether there is a result for a key."""
        return self._file(key).is_file()

    def _file(self, key: object) -> Path:
        return self.directory / f"{digest(key, digits=24)}.json"
