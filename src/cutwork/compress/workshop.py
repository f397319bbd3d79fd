"""The output directory of a compression: its stages, which resume, what is measured, and the menu that they give."""

import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from cutwork.architectures import architecture_of
from cutwork.compress.examine import examine
from cutwork.compress.menu import Choice, Menu, menu
from cutwork.compress.milliseconds import Purpose, Steps
from cutwork.compress.promise import Loss, Metric, check_lengths, loss, samples_to_tell, scores
from cutwork.compress.timing import Timing, prompt_tokens
from cutwork.engine.backend import native
from cutwork.engine.model import Model
from cutwork.engine.weights.costs import cache_path
from cutwork.errors import CutworkError
from cutwork.machine import cpu_name
from cutwork.measure.compare import Measurements
from cutwork.measure.context import check_comparable, room, room_for_answers
from cutwork.measure.quality import judged_anew, together
from cutwork.pack.reader import read_packed
from cutwork.recipe import PackSettings, Recipe
from cutwork.run.durations import Durations
from cutwork.run.former import discard
from cutwork.run.stages import Source, Stage, Stages, key_of, path_of, sample_digest
from cutwork.store.directory import read_config
from cutwork.store.json_file import read_json, write_json
from cutwork.store.lock import only_process
from cutwork.store.output import output_directory
from cutwork.store.resolve import resolve
from cutwork.tasks.task import Sample, Task
from cutwork.torch_models.load import load_tokenizer


class Workshop:
    """Where choices of a base recipe's model are made and measured.

    Making it carries out what says what can be had: the model's teacher if the recipe trains one, which then is the
    `source` of all choices, errors.json, milliseconds.json and dense/packed.
    """

    def __init__(self, base: Recipe, task: Task, purpose: Purpose, metric: Metric, console: Console) -> None:
        self.base, self.task, self.purpose, self.metric, self.console = base, task, purpose, metric, console
        self.kept = Measurements(base.output / "measurements")
        self._group_size = base.quantize.group_size if base.quantize else 128
        threads = base.compare.threads or native().default_threads()
        self.machine = {"cpu": cpu_name(), "isa": native().isa(), "threads": threads}
        self._engine = cache_path().stem  # prices and speeds belong to a build, as costs do
        self._check_lengths()
        self._check_training()
        stages, prune = self._stages(), base.prune
        self.source = self._dense(stages)
        settings: list[object] = [prune.method, prune.block_size, prune.calibration_samples, prune.seed, prune.damping]
        settings += [prune.token_weights, self._group_size]
        settings.append("gradients of answers, three models made whole, int4 heads by GPTQ")  # how errors are judged
        data: list[object] = [sample_digest(samples) for samples in (task.train, task.validation)]
        data += [base.task.max_length, base.task.long]
        errors = stages.add("errors.json", "prune", self._write_errors, [*settings, *data], self.source)
        about = [purpose, self.machine, self._engine, self._group_size, "usual steps, int4 heads apart"]
        steps = stages.add("milliseconds.json", "prune", self._write_steps, about, self.source)
        self.dense = stages.pack("dense/packed", self.source, PackSettings(dtype="bf16"))
        stages.carry_out()
        plan_name = architecture_of(read_config(path_of(self.source))).plan_name
        self.menu: Menu = menu(read_json(errors.output), Steps.of_json(read_json(steps.output)), plan_name)

    def make(self, recipe: Recipe, folder: str) -> Stage:
        """The packed model of a recipe for this model, made in a folder of the output.

        Recipes that differ in `tune` alone may share one: what is pruned is the same.
        """
        stages = self._stages()
        source = self._dense(stages)
        final: Source = stages.prune(f"{folder}/pruned", source, recipe.prune)
        if recipe.tune:
            final = stages.tune(f"{folder}/sparse", "tune", final, recipe.tune, teacher=source)
        else:
            folder = f"{folder}/one-shot"
        if recipe.quantize:
            final = stages.quantize(f"{folder}/quantized", final, recipe.quantize)
        packed = stages.pack(f"{folder}/packed", final, recipe.pack)
        if packed in stages.missing():  # or what it was made from may have been dropped
            stages.carry_out()
        return packed

    def drop(self, folder: str, *, pruned: bool) -> None:
        """Remove the weights of a folder but packed ones; what pruning left only if `pruned`.

        Nothing while another process makes stages, which may be of them: they only take up disk.
        """
        output = self.base.output
        with suppress(CutworkError), only_process(output / ".lock", f"another process is working in {output}"):
            for name in ("sparse", "quantized", "one-shot/quantized", *(["pruned"] if pruned else [])):
                discard(output / folder / name)

    def inputs(self) -> list[object]:
        """What all that is made of a choice depends on, and how it is judged: the model, the data and the recipe's
        settings."""
        data = [sample_digest(samples) for samples in (self.task.train, self.task.validation)]
        settings, compare = (self.base.prune, self.base.tune, self.base.quantize), self.base.compare
        judged = [compare.max_new_tokens, compare.num_beams]
        return [key_of(self.source), *data, *(each.as_key() if each else None for each in settings), *judged]

    def take(self, packed: Stage) -> Stage:
        """A packed model, copied as the result."""

        def make(output: Path) -> None:
            with output_directory(output) as fresh:
                shutil.copytree(packed.output, fresh, dirs_exist_ok=True)

        stages = self._stages()
        taken = stages.add("packed", "pack", make, "taken", packed)
        stages.carry_out()
        stages.renew_examples(taken)
        return taken

    def check_metric(self, within: float | None) -> None:
        """Raise CutworkError if the dense model does so little right on validation that no more points than `within`,
        or none at all, could be lost."""
        right = self.scores(self.dense, self.task.validation)
        most, least = 100 * sum(right) / len(right), within or 0.0
        if most > least:
            return
        none = f"answers none of {len(right)} validation questions right, so points of that say nothing"
        few = f"has {most:.1f} points on validation, so that --within {least:g} cannot be broken"
        other = "--metric tokens, or " if self.metric == "answers" else ""
        raise CutworkError(f"the dense model {few if most else none}; give {other}a model that has learned the task")

    def loss(self, packed: Stage, samples: Sequence[Sample], looks: int = 1, sure: bool = False) -> Loss:
        """What a packed model lost against the dense one on some samples; looks and sure: as of `promise.loss`."""
        return loss(self.scores(self.dense, samples), self.scores(packed, samples), looks, sure=sure)

    def samples_to_tell(self, packed: Stage, within: float) -> int:
        """About how many validation samples would tell what a packed model lost to within so many points."""
        samples = self.task.validation
        return samples_to_tell(self.scores(self.dense, samples), self.scores(packed, samples), within)

    def scores(self, stage: Stage, samples: Sequence[Sample]) -> list[float]:
        """How well a packed model does at each sample, from 0 to 1; kept once measured."""
        settings, samples = self.base.compare, tuple(samples)
        key = [stage.key, self.metric, sample_digest(samples), settings.max_new_tokens, settings.num_beams]
        if self.metric == "tokens":
            key.append(self._most)  # where samples are cut
        else:
            key += judged_anew(samples)

        def measure_it() -> dict[str, Any]:
            context = room(read_config(stage.output), self._most)
            if self.metric == "answers":
                context = room_for_answers(stage.output, samples, settings.max_new_tokens)
            batch = together(settings.num_beams)
            with Model.load(stage.output, threads=settings.threads, max_context=context, max_batch=batch) as model:
                return {"scores": scores(model, self.task.name, samples, self.metric, settings, self.console)}

        found: list[float] = self.kept.get(key, measure_it)["scores"]
        return found

    def speeds(self, packed: Stage) -> dict[str, Any]:
        """Speed and memory of a packed model beside the dense one's (`Timing`); kept once measured."""
        return self.kept.get([packed.key, *self._timed_how()], lambda: self._timing.speeds(read_packed(packed.output)))

    def timed(self, choice: Choice) -> Choice:
        """A choice with the speed-up of random numbers that are stored so, instead of the one that prices add up to;
        kept once measured."""
        key = [choice.labels, self._group_size, *self._timed_how()]
        found = self.kept.get(key, lambda: self._timing.of_random_numbers(choice, self._group_size))
        return replace(choice, speedup=found["speedup"], milliseconds=found["milliseconds"])

    def nbytes(self, packed: Stage) -> int:
        """Bytes of a packed model's weights as they lie in memory for the purpose; kept once measured."""

        def measure_it() -> dict[str, Any]:
            with self._timing.load(read_packed(packed.output)) as model:
                return {"nbytes": model.memory_bytes["weights"]}

        key = [packed.key, self.purpose, self.machine, self._engine, "nbytes"]  # layouts depend on the threads, too
        found: int = self.kept.get(key, measure_it)["nbytes"]
        return found

    @property
    def _timing(self) -> Timing:
        return Timing(self.dense.output, self.purpose, self.base.compare, self.console)

    def _timed_how(self) -> list[object]:
        """What speeds depend on but the model beside the dense one."""
        how = "all sequences go on" if self.purpose == "batch16" else ""
        amounts = self._timing.amounts
        return [self.dense.key, self.purpose, self.machine, self._engine, amounts, "for a while", "milliseconds", how]

    @property
    def _most(self) -> int:
        """Tokens of a sample that are read, question and answer."""
        return self.base.task.max_length + self.base.compare.max_new_tokens

    def _check_lengths(self) -> None:
        """Raise CutworkError for what could not be judged or timed, which would else end the command after all work."""
        directory = resolve(self.base.model)
        config = read_config(directory)
        timed = prompt_tokens(config, self.purpose, self.base.compare)
        check_comparable(config, self.base.compare.model_copy(update={"prompt_tokens": timed, "lm_eval": ()}))
        context = room(config, self._most if self.metric == "tokens" else sys.maxsize)
        tokenizer = load_tokenizer(directory)
        for split, samples in (("validation", self.task.validation), ("test", self.task.test)):
            check_lengths(tokenizer, split, samples, self.metric, context)

    def _check_training(self) -> None:
        """Raise CutworkError for fine-tuning that would be refused, which would else end the command after all work."""
        task, base = self.base.task, self.base
        durations = Durations(resolve(base.model), self.task, task.max_length, task.long)
        rounding = base.quantize.qat if base.quantize and base.quantize.method == "qat" else None
        for settings in (base.teacher, base.tune, rounding):
            if settings:
                durations.tune(settings)

    def _stages(self) -> Stages:
        return Stages(self.base.output, self.task, self.base.task.max_length, self.console, self.base.task.long)

    def _dense(self, stages: Stages) -> Source:
        dense = resolve(self.base.model)
        return stages.tune("teacher", "teacher", dense, self.base.teacher) if self.base.teacher else dense

    def _write_errors(self, file: Path) -> None:
        task = self.base.task
        found = examine(
            path_of(self.source),
            self.task.train,
            self.base.prune,
            judges=self.task.validation,
            group_size=self._group_size,
            max_length=task.max_length,
            long=task.long,
            console=self.console,
        )
        write_json(file, found)

    def _write_steps(self, file: Path) -> None:
        threads = self.base.compare.threads
        found = Steps.measured(path_of(self.source), self.purpose, threads, self._group_size, self.console)
        write_json(file, found.as_json())
