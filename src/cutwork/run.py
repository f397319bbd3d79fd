"""`cutwork run`: the stages of a recipe in order, each made once while nothing it depends on changes."""

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from cutwork import checkpoint
from cutwork.errors import CutworkError
from cutwork.files import write_atomically
from cutwork.recipe import Recipe, Settings
from cutwork.tasks.load import load_task
from cutwork.tasks.task import Sample, Task

GROUPS = ("teacher", "prune", "tune", "quantize", "pack", "compare")  # what --until may name
_STATE = "stages.json"


@dataclass(frozen=True)
class Stage:
    """One directory (or file) of a run and how to make it.

    `make` writes `output` so that it appears atomically. `key` is a hash of everything the result depends on.
    """

    name: str
    group: str
    output: Path
    key: str
    make: Callable[[], object]


@dataclass
class Run:
    """A recipe's stages in order, with the directory each of them leaves."""

    recipe: Recipe
    output: Path
    task: Task
    console: Console
    stages: list[Stage] = field(default_factory=list)

    def add(
        self, name: str, group: str, make: Callable[[Path], object], settings: object, *inputs: "Stage | Path"
    ) -> Stage:
        """Append a stage that depends on settings and on other stages or directories; returns it."""
        output = self.output / name
        parts = [name, settings, *(i.key if isinstance(i, Stage) else fingerprint(i) for i in inputs)]
        stage = Stage(name, group, output, digest(parts), partial(make, output))
        self.stages.append(stage)
        return stage


def run(recipe: Recipe, *, output: Path | None = None, until: str = "compare", console: Console | None = None) -> Path:
    """Carry out a recipe up to the stages of the group `until` and return its output directory.

    Stages that are already there are kept; one whose settings or inputs changed is made anew, and what depends on it.
    After an interruption the same call goes on where it stopped. Raises CutworkError for whatever the user can fix.
    """
    if until not in GROUPS:
        raise CutworkError(f"there is no stage '{until}'; the stages are {', '.join(GROUPS)}")
    console = console or Console(stderr=True)
    output = (output or recipe.output).expanduser()
    planned = plan(recipe, output, console)
    wanted = [stage for stage in planned.stages if GROUPS.index(stage.group) <= GROUPS.index(until)]
    with _only_process(output):
        _forget_leftovers(output)
        missing = [stage for stage in wanted if not is_done(stage, _read_state(output))]
        if len(missing) < len(wanted):
            done = "all stages are" if not missing else f"{len(wanted) - len(missing)} of {len(wanted)} stages are"
            console.print(f"{output}: {done} already there" + (f"; going on with {missing[0].name}" if missing else ""))
        for number, stage in enumerate(wanted, 1):
            if stage in missing:
                _make(stage, output, f"{number}/{len(wanted)}", console)
    return output


def plan(recipe: Recipe, output: Path, console: Console) -> Run:
    """The stages of a recipe. Gets the task's data and the model, but runs nothing."""
    task = load_task(recipe.task)
    if not task.train:
        raise CutworkError(f"task {task.name} has no training samples; give it some in task.options")
    model = checkpoint.resolve(recipe.model)
    this = Run(recipe, output, task, console)
    train = sample_digest(task.train)
    length = recipe.task.max_length

    dense: Stage | Path = model
    if recipe.teacher:
        teach = partial(_tune, this, model, recipe.teacher, None)
        dense = this.add("teacher", "teacher", teach, [_dump(recipe.teacher), train, length], model)
    dense_path = dense.output if isinstance(dense, Stage) else dense
    pruned = this.add("pruned", "prune", partial(_prune, this, dense_path), [_dump(recipe.prune), train, length], dense)
    sparse = this.add(
        "sparse",
        "tune",
        partial(_tune, this, pruned.output, recipe.tune, dense_path),
        [_dump(recipe.tune), train, length],
        pruned,
        dense,
    )
    variants: dict[str, tuple[Stage | Path, str]] = {
        "dense-f32": (dense, "f32"),
        "dense-bf16": (dense, "bf16"),
        "pruned-f32": (pruned, "f32"),
        "sparse-f32": (sparse, "f32"),
        "sparse-bf16": (sparse, "bf16"),
    }
    if recipe.quantize:
        settings = [_dump(recipe.quantize), train, length]
        for name, source in (("dense", dense), ("sparse", sparse)):
            path = source.output if isinstance(source, Stage) else source
            quantized = this.add(f"{name}-quantized", "quantize", partial(_quantize, this, path), settings, source)
            variants[f"{name}-int8"] = (quantized, recipe.pack.dtype)
    packed = {}
    for name, (source, dtype) in variants.items():
        path = source.output if isinstance(source, Stage) else source
        packed[name] = this.add(f"packed/{name}", "pack", partial(_pack, path, dtype), dtype, source)
    this.add(
        "results.json",
        "compare",
        partial(_compare, this, packed),
        [recipe.name, _dump(recipe.compare), sample_digest(task.test), recipe.prune.sparsity],
        *packed.values(),
    )
    return this


def is_done(stage: Stage, state: Mapping[str, str]) -> bool:
    """Whether a stage's output is there and was made for the present settings and inputs."""
    return state.get(stage.name) == stage.key and stage.output.exists()


def digest(value: object) -> str:
    """A short hash of anything JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def sample_digest(samples: tuple[Sample, ...]) -> str:
    """A short hash of samples in their order."""
    return digest([[sample.prompt, sample.answer] for sample in samples])


def fingerprint(model: Path) -> str:
    """A short hash that changes when a model directory that is not ours does: its files' names, sizes and times."""
    files = sorted(path for path in model.iterdir() if path.is_file())
    return digest([[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files])


def _dump(settings: Settings) -> dict[str, Any]:
    return settings.model_dump(mode="json")


def _make(stage: Stage, output: Path, count: str, console: Console) -> None:
    state = _read_state(output)
    if state.get(stage.name) != stage.key:
        if stage.name in state:
            _discard(stage.output)
            _discard(_work(stage.output))
        elif stage.output.exists():
            raise CutworkError(f"{stage.output} is not from this command; move it away or choose another --output")
        # Recorded before the work starts: what an interrupted stage leaves belongs to this key.
        _write_state(output, {**state, stage.name: stage.key})
    console.print(f"[bold]\\[{count}] {stage.name}[/bold]", highlight=False)
    start = time.monotonic()
    stage.make()
    console.print(f"[dim]{stage.name} took {time.monotonic() - start:.0f} s[/dim]", highlight=False)


def _tune(this: Run, model: Path, settings: Any, teacher: Path | None, output: Path) -> None:
    from cutwork.train.tune import tune

    tune(
        model,
        output,
        settings,
        this.task.train,
        teacher_dir=teacher,
        max_length=this.recipe.task.max_length,
        console=this.console,
    )


def _prune(this: Run, model: Path, output: Path) -> None:
    from cutwork.train.oneshot import prune

    prune(
        model,
        output,
        this.recipe.prune,
        this.task.train,
        max_length=this.recipe.task.max_length,
        console=this.console,
    )


def _quantize(this: Run, model: Path, output: Path) -> None:
    from cutwork.quantize.quantize import quantize

    assert this.recipe.quantize
    quantize(
        model,
        output,
        this.recipe.quantize,
        this.task.train,
        max_length=this.recipe.task.max_length,
        console=this.console,
    )


def _pack(model: Path, dtype: str, output: Path) -> None:
    from cutwork.pack.writer import pack

    pack(model, output, dtype=dtype)


def _compare(this: Run, packed: Mapping[str, Stage], output: Path) -> None:
    from cutwork.compare import Variant, compare
    from cutwork.report.write import write_report

    variants = {name: Variant(stage.output, stage.key) for name, stage in packed.items()}
    results = compare(this.recipe, variants, this.task, output.parent / "measurements", console=this.console)
    write_report([results], output.parent)
    write_atomically(output, json.dumps(results, indent=1) + "\n")


def _work(output: Path) -> Path:
    """Where a stage keeps what it resumes from."""
    return output.with_name(f"{output.name}.work")


def _read_state(output: Path) -> dict[str, str]:
    """Keys of the stages begun or finished in an output directory."""
    file = output / _STATE
    return checkpoint.read_json(file) if file.is_file() else {}


def _write_state(output: Path, state: Mapping[str, str]) -> None:
    write_atomically(output / _STATE, json.dumps(state, indent=1) + "\n")


def _discard(path: Path) -> None:
    """Remove an output so that a half-removed one is never taken for a whole."""
    if not path.exists():
        return
    stale = path.with_name(f".{path.name}.stale")
    shutil.rmtree(stale, ignore_errors=True)
    path.rename(stale)
    stale.unlink() if stale.is_file() else shutil.rmtree(stale, ignore_errors=True)


def _forget_leftovers(output: Path) -> None:
    """Remove what a process killed while discarding left."""
    for stale in [*output.glob(".*.stale"), *output.glob("*/.*.stale")]:
        stale.unlink() if stale.is_file() else shutil.rmtree(stale, ignore_errors=True)


@contextmanager
def _only_process(output: Path) -> Iterator[None]:
    """Keep other processes out of an output directory while the block runs; the lock dies with its process."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = (output / ".lock").open("a")
    except OSError as error:
        raise CutworkError(f"cannot write to {output}: {(error.strerror or str(error)).lower()}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CutworkError(f"another cutwork run is working in {output}; wait for it or choose --output") from None
        yield
