"""What the stages of a run will take here: their multiplications, counted, at the speed of a matmul on this machine."""

import math
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from cutwork.errors import CutworkError
from cutwork.progress import duration
from cutwork.recipe import CompareSettings, Long, Pruner, PruneSettings, Quantizer, QuantizeSettings, TuneSettings
from cutwork.store.output import absolute
from cutwork.tasks.task import Sample, Task

# What a method does to a linear [out, in] once its inputs are known: so many times out·in² and in³ operations.
_SOLVING: dict[Pruner | Quantizer, tuple[float, float]] = {
    "alps": (50, 13),
    "gptq": (2, 2),
    "magnitude": (0, 0),
    "qat": (0, 0),  # rounds; what trains before that has an estimate of its own
    "rose": (4, 2),
    "rtn": (0, 0),
    "sparsegpt": (2, 2),
    "wanda": (0, 0),
}
_EFFICIENCY = 0.35  # of a bare matmul's speed, in what has many small steps (SmolLM2-135M on two cores)
_ENGINE_EFFICIENCY = 0.8  # of the same, in the engine
_READ_AS_MUCH_AS = 8  # tokens of a batch: what a token costs that is decoded alone
_SOME = 200  # samples
_STORED_PER_SECOND = 150e6  # bytes that pack reads, encodes and writes


@dataclass(frozen=True)
class _Size:
    """What is multiplied in a model: its linears' shapes [out, in] by name, the output head's, all weights, and a
    sample's mean tokens."""

    shapes: dict[str, tuple[int, int]]
    head: tuple[int, int]  # 0, 0 without one
    weights: int
    tokens: float


def _solving(method: Pruner | Quantizer, shapes: Iterable[tuple[int, int]]) -> float:
    """Operations of a method on linears [out, in]."""
    of_outputs, of_inputs = _SOLVING[method]
    return sum(of_outputs * out * in_**2 + of_inputs * in_**3 for out, in_ in shapes)


@dataclass
class Durations:
    """Seconds that stages will take which start from the model in `model_dir` or what is made of it, on `task`.

    None where the model cannot be built without its weights: no reason not to carry out a run. Settings that a stage
    would refuse raise CutworkError here, before any work.
    """

    model_dir: Path
    task: Task
    max_length: int
    long: Long

    def tune(self, settings: TuneSettings) -> float | None:
        """A fine-tuning, by its own estimate."""
        from cutwork.tune.tune import tune

        quiet: dict[str, Any] = {"long": self.long, "console": Console(quiet=True), "dry_run": True}
        teacher = self.model_dir if settings.losses.needs_teacher else None
        steps = math.ceil(math.ceil(len(self.task.train) / settings.batch_size) * settings.epochs)
        if settings.max_steps <= 0:
            settings = settings.model_copy(update={"max_steps": steps})
        found = tune(
            self.model_dir,
            absolute(self.model_dir).with_name(f"nothing-{secrets.token_hex(8)}"),  # is written
            settings,
            self._some(self.task.train),
            teacher_dir=teacher,
            validation=self._some(self.task.validation),
            max_length=self.max_length,
            **quiet,
        )
        return found["estimate"]["seconds"] if found["estimate"] else None

    def prune(self, settings: PruneSettings) -> float | None:
        """A pruning: two forward passes over the calibration samples, and the method."""
        from cutwork.prune.rates import patterns

        if self._size:
            patterns(self._size.shapes, settings)  # raises CutworkError
        samples = settings.calibration_samples if settings.needs_samples else 0
        return self._by_layers(settings, samples)

    def quantize(self, settings: QuantizeSettings) -> float | None:
        """A quantisation, with the fine-tuning that it may begin with."""
        from cutwork.quantize.schemes import choose

        if self._model is not None:
            choose(self._model, settings)  # raises CutworkError
        solved = self._by_layers(settings, settings.calibration_samples if settings.calibrates else 0)
        tuned = self.tune(settings.training) if settings.method == "qat" else 0.0
        return None if solved is None or tuned is None else solved + tuned

    def pack(self) -> float | None:
        """Packing one model."""
        return self._of_size(lambda size: 4 * size.weights / _STORED_PER_SECOND)

    def compare(self, settings: CompareSettings, models: int) -> float | None:
        """Asking and timing so many models; None with tasks of lm-eval, whose size only their data say."""
        if settings.lm_eval:
            return None

        def seconds(size: _Size) -> float:
            asked = settings.accuracy_samples * size.tokens * settings.num_beams + settings.perplexity_tokens
            timed = settings.prompt_tokens + _READ_AS_MUCH_AS * settings.decode_tokens
            tokens = models * (asked + (settings.repeats + 1) * timed)
            return 2 * size.weights * tokens * self._second_per_operation / _ENGINE_EFFICIENCY

        return self._of_size(seconds)

    def _by_layers(self, settings: PruneSettings | QuantizeSettings, samples: int) -> float | None:
        from cutwork.prune.token_weights import check_weighable
        from cutwork.quantize.head import output_head
        from cutwork.torch_models.blocks import check_linear

        head = isinstance(settings, QuantizeSettings) and settings.head != "skip"
        if self._model is not None:
            check_linear(self._model)  # raises CutworkError
            if settings.token_weights != "equal":
                check_weighable(self._model.config.to_dict())  # raises CutworkError
            if head:
                output_head(self._model)  # raises CutworkError

        def seconds(size: _Size) -> float:
            solving = _solving(settings.method, size.shapes.values())
            if head:
                solving += _solving("rtn" if settings.method == "rtn" else "gptq", [size.head])
            seen = sum(4 * out * in_ + 2 * in_**2 for out, in_ in size.shapes.values()) * samples * size.tokens
            reading = 8 * size.weights / _STORED_PER_SECOND
            return reading + (seen + solving) * self._second_per_operation / _EFFICIENCY

        return self._of_size(seconds)

    def _of_size(self, seconds: Callable[[_Size], float]) -> float | None:
        return None if self._size is None else seconds(self._size)

    @cached_property
    def _second_per_operation(self) -> float:
        import torch

        from cutwork.torch_models.machine_speed import matmul_seconds

        return matmul_seconds(torch.float32, torch.device("cpu"))

    @cached_property
    def _model(self) -> Any:
        """The model without its weights, or None."""
        import torch

        from cutwork.torch_models.load import empty_model, load_config

        try:
            with torch.device("meta"):
                return empty_model(load_config(self.model_dir))
        except Exception:
            return None

    @cached_property
    def _size(self) -> _Size | None:
        from cutwork.torch_models.blocks import block_linears, out_in

        if self._model is None:
            return None
        try:
            found = {name: out_in(linear).shape for name, linear in block_linears(self._model).items()}
            lengths = self._examples(self._some(self.task.train)).lengths
        except Exception:
            return None
        shapes = {name: (shape[0], shape[1]) for name, shape in found.items()}
        head = self._model.get_output_embeddings()
        rows, columns = (0, 0) if head is None else out_in(head).shape
        weights = sum(parameter.numel() for parameter in self._model.parameters())
        return _Size(shapes, (rows, columns), weights, sum(lengths) / len(lengths))

    def _some(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """Samples whose length stands for all; all of them if none of those is short enough, or none may be longer."""
        some = samples[:: max(1, len(samples) // _SOME)][:_SOME]
        if not some or self.long == "error":
            return samples
        try:
            self._examples(some)
        except CutworkError:
            return samples
        return some

    def _examples(self, samples: Sequence[Sample]) -> Any:
        from cutwork.torch_models.data import examples
        from cutwork.torch_models.load import load_config, load_tokenizer
        from cutwork.torch_models.model_inputs import inputs_of

        inputs = inputs_of(load_config(self.model_dir))
        return examples(load_tokenizer(self.model_dir), samples, self.max_length, inputs, self.long)


def sentence(seconds: dict[str, float | None]) -> str:
    """One line for people about what the groups of a run's stages will take."""
    parts = ", ".join(f"{name} {'?' if each is None else duration(each)}" for name, each in seconds.items())
    known = [each for each in seconds.values() if each is not None]
    return f"about {duration(sum(known))} on this machine: {parts}" if known else "no estimate for this architecture"
