"""The first sight of speed: what zeros bring needs no training, only the pattern in which they lie."""

import tempfile
from pathlib import Path
from typing import Any

from cutwork.recipe import CompareSettings, PackSettings, PruneSettings, QuantizeSettings, Recipe
from cutwork.run.stages import SCRATCH, Stage, Stages
from cutwork.store.json_file import write_json

_TOKENS, _REPEATS = 48, 2  # read and then decoded, so many times: enough to see the difference


def add_preview(stages: Stages, dense: Path, recipe: Recipe) -> Stage:
    """Add a stage that times the model and its sparse self, the smallest weights zeroed and all rounded, and says so.

    What the sparse one answers is nonsense; how fast it answers is what the recipe's pattern and rate will give.
    """
    prune = zeros_of(recipe)
    quantize = recipe.quantize and recipe.quantize.model_copy(
        update={"method": "rtn", "smoothing": 0.0, "sparsity": 0.0, "token_weights": "equal"}
    )
    settings = (prune, quantize, recipe.pack)

    def make(file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=file.parent) as scratch:
            zeros, speeds = _speeds(dense, Path(scratch), *settings, recipe.compare.threads)
        fast, slow = (speeds[name]["decode_tokens_per_second"] for name in ("sparse", "dense"))
        stages.console.print(
            f"speed before any training: dense {slow:.0f} tokens/s, with {zeros:.0%} zeros {fast:.0f} "
            f"({fast / slow:.2f} times)",
            highlight=False,
            soft_wrap=True,
        )
        write_json(file, speeds)

    def seconds() -> float | None:
        durations = stages.durations
        assert durations
        tokens = {"prompt_tokens": _TOKENS, "decode_tokens": _TOKENS, "repeats": _REPEATS}
        timed = CompareSettings().model_copy(update={"accuracy_samples": 0, "perplexity_tokens": 0, **tokens})
        rounded = [durations.quantize(quantize)] * 2 if quantize else []
        parts = [durations.prune(prune), *rounded, durations.pack(), durations.pack(), durations.compare(timed, 2)]
        return sum(part for part in parts if part is not None) if None not in parts else None

    depends = [*(each.as_key() if each else None for each in settings), recipe.compare.threads]
    return stages.add("preview.json", "preview", make, depends, dense, seconds=seconds)


def zeros_of(recipe: Recipe) -> PruneSettings:
    """By magnitude the zeros that a recipe ends with, whichever of its stages makes them."""
    prune = recipe.prune.model_copy(
        update={"method": "magnitude", "rates": "uniform", "levels": (), "token_weights": "equal"}
    )
    if recipe.prune.levels:
        prune = prune.model_copy(update={"sparsity": recipe.prune.levels[-1]})
    everywhere: dict[str, Any] = {"modules": {}, "patterns": {}}
    if recipe.tune and (gradual := recipe.tune.gradual):
        prune = prune.model_copy(update={"sparsity": gradual.sparsity, "pattern": gradual.pattern, **everywhere})
    if recipe.quantize and recipe.quantize.sparsity > prune.sparsity:
        update = {"sparsity": recipe.quantize.sparsity, "pattern": "unstructured", **everywhere}
        prune = prune.model_copy(update=update)
    return prune


def _speeds(
    dense: Path,
    scratch: Path,
    prune_settings: PruneSettings,
    quantize_settings: QuantizeSettings | None,
    pack_settings: PackSettings,
    threads: int,
) -> tuple[float, dict[str, Any]]:
    """The zeros of the sparse model, and its decode and prefill speed and the dense one's, made in `scratch`."""
    from cutwork.measure.speed import measure_directories
    from cutwork.pack.pack import pack
    from cutwork.prune.prune import prune
    from cutwork.quantize.quantize import quantize

    zeros: float = prune(dense, scratch / "sparse", prune_settings)["sparsity"]
    packed = {}
    for name, directory in (("dense", dense), ("sparse", scratch / "sparse")):
        if quantize_settings:
            quantize(directory, scratch / f"{name}-quantized", quantize_settings)
            directory = scratch / f"{name}-quantized"  # noqa: PLW2901
        packed[name] = scratch / f"{name}-packed"
        how: dict[str, Any] = {"head": pack_settings.head, "embedding": pack_settings.embedding}
        pack(directory, packed[name], pack_settings.dtype, **how)
    speeds = measure_directories(packed, _TOKENS, _TOKENS, _REPEATS, threads=threads)
    return zeros, {name: speed.as_json() for name, speed in speeds.items()}
