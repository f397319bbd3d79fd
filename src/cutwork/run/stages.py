"""Stages in a directory: each made once while nothing it depends on changes, whatever interrupts the work."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rich.console import Console

from cutwork.errors import CutworkError
from cutwork.recipe import Long, PackSettings, Pruner, PruneSettings, QuantizeSettings, Settings, TuneSettings
from cutwork.run.durations import Durations, sentence
from cutwork.run.former import discard, forget, forget_discarded, is_aside, put_back, set_aside
from cutwork.store.examples import read_examples, write_examples
from cutwork.store.fingerprint import digest, fingerprint
from cutwork.store.json_file import read_json, write_json
from cutwork.store.lock import only_process
from cutwork.store.output import lock_of, work_of
from cutwork.tasks.task import Sample, Task

GROUPS = ("preview", "teacher", "prune", "tune", "quantize", "pack", "compare")  # what --until may name
_STATE = "stages.json"
_SECONDS = "seconds.json"
SCRATCH = ".scratch."  # begins the names of directories for what a stage makes on its way
_FORMER_PRUNER: Pruner = "sparsegpt"  # PruneSettings.method where a recipe said nothing, until ALPS was


@dataclass(frozen=True)
class Stage:
    """One directory or file of a run and how to make it.

    `make` writes `output` so that it appears atomically; `key` is a hash of everything the result depends on.
    """

    name: str
    group: str
    output: Path
    key: str
    make: Callable[[], object]
    seconds: Callable[[], float | None] = lambda: None  # that it will take


Source = Stage | Path  # where a stage takes a model from: another stage, or a directory that is not ours


def path_of(source: Source) -> Path:
    """The directory of a model."""
    return source.output if isinstance(source, Stage) else source


def key_of(source: Source) -> str:
    """What tells whether a model is still the same: a stage's key, or the contents of a directory's files."""
    return source.key if isinstance(source, Stage) else fingerprint(source)


@dataclass
class Stages:
    """The stages of one output directory, in the order they are made; all train and calibrate on `task`."""

    output: Path
    task: Task
    max_length: int
    console: Console
    long: Long = "drop"
    durations: Durations | None = None  # said before the work begins
    stages: list[Stage] = field(default_factory=list)

    def tune(
        self, name: str, group: str, model: Source, settings: TuneSettings, teacher: Source | None = None
    ) -> Stage:
        """Add a fine-tuning, dense or sparse."""

        def make(output: Path) -> None:
            from cutwork.tune.tune import tune

            path = path_of(teacher) if teacher else None
            data: dict[str, Any] = {"validation": self.task.validation, "teacher_dir": path}
            tune(path_of(model), output, settings, self.task.train, **data, **self._common())

        taught = [teacher] if teacher and settings.losses.needs_teacher else []
        depends: list[object] = [settings.as_key(), self._data]
        if self.task.validation:
            depends.append(sample_digest(self.task.validation))
        return self.add(name, group, make, depends, model, *taught, seconds=self._seconds("tune", settings))

    def prune(self, name: str, model: Source, settings: PruneSettings) -> Stage:
        """Add a one-shot pruning; one that was begun when another method was the default goes on with that."""
        former = settings.model_copy(update={"method": _FORMER_PRUNER})
        if "method" not in settings.model_fields_set and self._begun_as(name, [former.as_key(), self._data], model):
            self.console.print(
                f"{name} was begun when {_FORMER_PRUNER} was the default, and goes on with it; "
                f"set prune.method to {settings.method} to make it anew"
            )
            settings = former

        def make(output: Path) -> None:
            from cutwork.prune.prune import prune

            prune(path_of(model), output, settings, self.task.train, **self._common())

        seconds = self._seconds("prune", settings)
        return self.add(name, "prune", make, [settings.as_key(), self._data], model, seconds=seconds)

    def quantize(self, name: str, model: Source, settings: QuantizeSettings) -> Stage:
        """Add a quantisation."""

        def make(output: Path) -> None:
            from cutwork.quantize.quantize import quantize

            quantize(path_of(model), output, settings, self.task.train, **self._common())

        seconds = self._seconds("quantize", settings)
        return self.add(name, "quantize", make, [settings.as_key(), self._data], model, seconds=seconds)

    def pack(self, name: str, model: Source, settings: PackSettings) -> Stage:
        """Add a packed model."""

        def make(output: Path) -> None:
            from cutwork.pack.pack import pack

            how: dict[str, Any] = {"head": settings.head, "embedding": settings.embedding}
            pack(path_of(model), output, settings.dtype, **how, examples=self._examples)

        return self.add(name, "pack", make, settings.model_dump(mode="json"), model, seconds=self._seconds("pack"))

    def renew_examples(self, packed: Stage) -> None:
        """Keep the task's questions beside a packed model instead of those of former data, for which nothing is packed
        anew."""
        if self._examples and not set(read_examples(packed.output)) <= set(self._examples):
            write_examples(packed.output, self._examples)

    def add(
        self,
        name: str,
        group: str,
        make: Callable[[Path], object],
        settings: object,
        *inputs: Source,
        seconds: Callable[[], float | None] = lambda: None,
    ) -> Stage:
        """Add a stage that depends on `settings` (anything JSON can hold) and on models; returns it."""
        output = self.output / name
        stage = Stage(name, group, output, _key(name, settings, *inputs), partial(make, output), seconds)
        self.stages.append(stage)
        return stage

    def _begun_as(self, name: str, settings: object, *inputs: Source) -> bool:
        return read_state(self.output).get(name) == _key(name, settings, *inputs)

    def missing(self) -> list[Stage]:
        """The stages that are not there, or were made for other settings or inputs."""
        state = read_state(self.output)
        return [stage for stage in self.stages if state.get(stage.name) != stage.key or not stage.output.exists()]

    def carry_out(self, until: str = GROUPS[-1]) -> None:
        """Make what is missing of the stages up to the group `until`; whatever a stage raises ends it."""
        wanted = [stage for stage in self.stages if GROUPS.index(stage.group) <= GROUPS.index(until)]
        refusal = f"another cutwork run is working in {self.output}; wait for it, or choose another output directory"
        with only_process(self.output / ".lock", refusal):
            every = self.missing()
            _forget_leftovers(self.output, [stage.output for stage in self.stages if stage not in every])
            missing = [stage for stage in every if stage in wanted]
            if len(missing) < len(wanted):
                there = "all stages are" if not missing else f"{len(wanted) - len(missing)} of {len(wanted)} stages are"
                following = f"; going on with {missing[0].name}" if missing else ""
                self.console.print(f"{self.output}: {there} already there{following}", highlight=False)
            if missing and self.durations:
                self._say_how_long(missing)
            for stage in missing:
                self._make(stage, f"{wanted.index(stage) + 1}/{len(wanted)}")

    def _say_how_long(self, missing: list[Stage]) -> None:
        """What each group of stages will take, those that were begun as if they were not."""
        groups: dict[str, float | None] = {}
        for stage in missing:
            seconds, before = stage.seconds(), groups.get(stage.group, 0.0)
            groups[stage.group] = None if seconds is None or before is None else before + seconds
        self.console.print(sentence(groups), highlight=False, soft_wrap=True)

    def _seconds(self, kind: str, *settings: Settings) -> Callable[[], float | None]:
        return partial(getattr(self.durations, kind), *settings) if self.durations else lambda: None

    def _make(self, stage: Stage, count: str) -> None:
        before = _before(stage)
        if read_state(self.output).get(before) == stage.key and is_aside(stage.output) and not stage.output.exists():
            self._put_back(stage, stage.key)
            if stage.output.exists():
                return
        begun = read_state(self.output).get(stage.name)
        if begun != stage.key:
            if begun:
                self.console.print(f"{stage.name} was begun with other settings or inputs; it is made anew")
                if not is_aside(stage.output):
                    self._note(_STATE, before, begun)
                    self._note(_SECONDS, before, self.seconds().get(stage.name))
                set_aside(stage.output)
            elif stage.output.exists():
                raise CutworkError(
                    f"{stage.output} is not from this command; move it away, or choose another output directory"
                )
            # Recorded before the work starts: what an interrupted stage leaves belongs to this key.
            self._note(_STATE, stage.name, stage.key)
            self._note(_SECONDS, stage.name, None)
        self.console.print(f"[bold]\\[{count}] {stage.name}[/bold]", highlight=False)
        start, spent = time.monotonic(), self.seconds().get(stage.name, 0.0)
        try:
            stage.make()
        except BaseException as error:
            if isinstance(error, CutworkError) and self._is_refused(stage):
                self._put_back(stage, read_state(self.output)[before])
            else:  # what an interrupted stage took counts, too
                self._note(_SECONDS, stage.name, round(spent + time.monotonic() - start, 1))
            raise
        spent += time.monotonic() - start
        self._note(_SECONDS, stage.name, round(spent, 1))
        self._forget_former(stage)
        self.console.print(f"[dim]{stage.name} took {spent:.0f} s[/dim]", highlight=False)

    def _is_refused(self, stage: Stage) -> bool:
        """Whether nothing was begun in the place of what is aside."""
        begun = stage.output.exists() or work_of(stage.output).exists()
        return not begun and is_aside(stage.output) and _before(stage) in read_state(self.output)

    def _put_back(self, stage: Stage, key: str) -> None:
        """Have again what a stage had left for other settings, which have this key."""
        # In this order, so that whatever interrupts it, no key is told of what belongs to another.
        self._note(_STATE, stage.name, key)
        self._note(_SECONDS, stage.name, self.seconds().get(_before(stage)))
        put_back(stage.output)
        self._forget_former(stage)
        self.console.print(f"{stage.name} is as it was before it was begun with other settings", highlight=False)

    def _forget_former(self, stage: Stage) -> None:
        for name in (_STATE, _SECONDS):
            self._note(name, _before(stage), None)
        forget(stage.output)

    def _note(self, name: str, key: str, value: object) -> None:
        """Have a value, or none, under a key of a JSON file of the output directory."""
        file = self.output / name
        found = read_json(file) if file.is_file() else {}
        wanted = {**found, key: value} if value is not None else {k: v for k, v in found.items() if k != key}
        if wanted != found:
            write_json(file, wanted)

    def seconds(self) -> dict[str, float]:
        """What each stage took that was made or begun."""
        file = self.output / _SECONDS
        return read_json(file) if file.is_file() else {}

    @property
    def _examples(self) -> list[str]:
        exact = self.task.metric == "exact"
        return [sample.prompt for sample in self.task.test if not sample.turns] if exact else []

    def _common(self) -> dict[str, Any]:
        return {"max_length": self.max_length, "long": self.long, "console": self.console}

    @cached_property
    def _data(self) -> list[object]:
        return [sample_digest(self.task.train), self.max_length, *([self.long] if self.long != "drop" else [])]


def sample_digest(samples: tuple[Sample, ...]) -> str:
    """A short hash of samples in their order."""
    return digest([sample.contents() for sample in samples])


def _key(name: str, settings: object, *inputs: Source) -> str:
    return digest([name, settings, *map(key_of, inputs)])


def read_state(output: Path) -> Mapping[str, str]:
    """Keys of the stages begun or finished in an output directory."""
    file = output / _STATE
    return read_json(file) if file.is_file() else {}


def _before(stage: Stage) -> str:
    """Where a state has the key of what is aside of a stage."""
    return f"{stage.name}, before"


def _forget_leftovers(output: Path, finished: Sequence[Path]) -> None:
    """Remove what a process killed while discarding left, or one killed when a stage was finished and nothing else."""
    for name in read_state(output):
        forget_discarded(output / name)
    for scratch in output.glob(f"{SCRATCH}*"):
        discard(scratch)
    for stage in finished:
        forget(stage)
        work, lock = work_of(stage), lock_of(stage)
        if work.exists() or lock.exists():
            with suppress(CutworkError), only_process(lock, f"{stage} is being made"):
                discard(work)
