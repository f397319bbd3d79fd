"""One-shot pruning as one call: from a plain checkpoint to a sparse one, a block at a time."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor, nn

from cutwork.prune.activations import Activations
from cutwork.prune.calibrate import calibration_batches, calibration_examples, survey, walk
from cutwork.prune.input_statistics import Hessian, MeanSquares
from cutwork.prune.layers import Layers
from cutwork.prune.mapped import MappedModel, copy_checkpoint
from cutwork.prune.pruners import pruner
from cutwork.prune.rates import outliers, owl, patterns
from cutwork.prune.token_weights import token_weights
from cutwork.prune.wanda import wanda_costs
from cutwork.recipe import Long, PruneSettings
from cutwork.store.json_file import write_json
from cutwork.store.output import output_directory
from cutwork.tasks.task import Sample
from cutwork.torch_models.blocks import block_linears, block_lists, linears, out_in
from cutwork.torch_models.data import Examples
from cutwork.torch_models.load import load_for_surgery, load_tokenizer
from cutwork.torch_models.model_inputs import inputs_of
from cutwork.torch_models.precision import wants_bfloat16

REPORT = "prune-report.json"


def prune(
    model_dir: Path,
    output: Path,
    settings: PruneSettings,
    samples: Sequence[Sample] = (),
    *,
    max_length: int = 512,
    long: Long = "drop",
    overwrite: bool = False,
    activation_memory: int | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Prune the linears of the blocks of the model in `model_dir` and write a plain checkpoint to `output`.

    `samples` calibrate all methods but magnitude; `long` says what becomes of those of more than `max_length` tokens.
    Zeros the model has already stay zeros. Memory: one block with its Hessians (before that, with token weights, the
    whole model and a sample's activations), and `activation_memory` bytes of hidden states (default: half of what is
    free), beyond which they are kept in files beside `output`. Returns the report that is also written to `output`:
    the sparsity of all linears together and of each, error, dead inputs, damping, seconds, and whether calibration
    data went through it in bfloat16, which they do where that is quicker.

    Raises CutworkError for unusable models or samples, a pattern that does not fit, or if `output` exists.
    """
    console = console or Console(stderr=True)
    start = time.perf_counter()
    with output_directory(output, overwrite=overwrite, source=model_dir) as partial_output:
        copy_checkpoint(model_dir, partial_output)
        opened = MappedModel(partial_output, model_dir)
        data = _calibration(model_dir, opened, settings, samples, max_length, long)
        if data is not None and data.changed():
            console.print(data.changed())
        batches = [] if data is None else calibration_batches(data)
        of_tokens = (
            None if settings.token_weights == "equal" else _weights(model_dir, opened, batches, settings, console)
        )
        activations = partial(Activations, activation_memory, partial_output.parent)
        layers, spilled = _prune_blocks(opened, batches, of_tokens, settings, activations, console)
        report = {
            "model": str(model_dir),
            "settings": settings.model_dump(mode="json"),
            "sparsity": _overall(opened, layers),
            "seconds": round(time.perf_counter() - start, 3),
            "bfloat16": bool(batches) and wants_bfloat16("auto", opened.device),
            **({} if data is None else {"data": data.counts()}),
            "calibration_tokens": max(layer.get("tokens", 0) for layer in layers.report),
            "spilled_bytes": spilled,
            "layers": layers.report,
        }
        write_json(partial_output / REPORT, report)
    return report


def _overall(opened: MappedModel, layers: Layers) -> float:
    """The share of zeros in all linears of the blocks, pruned or not."""
    zeros = {layer["name"]: layer["zeros"] for layer in layers.report}
    weights = {name: out_in(linear) for name, linear in block_linears(opened.model).items()}
    for name in weights.keys() - zeros.keys():
        zeros[name] = weights[name].numel() - int(weights[name].count_nonzero())
    return float(sum(zeros.values()) / sum(weight.numel() for weight in weights.values()))


def _calibration(
    model_dir: Path,
    opened: MappedModel,
    settings: PruneSettings,
    samples: Sequence[Sample],
    max_length: int,
    long: Long,
) -> Examples | None:
    """What the method and the rates are calibrated with, if they are."""
    if not settings.needs_samples:
        return None
    tokenizer, inputs = load_tokenizer(model_dir), inputs_of(opened.model.config)
    return calibration_examples(
        tokenizer, samples, settings.calibration_samples, max_length, settings.seed, inputs, long
    )


def _weights(
    model_dir: Path, opened: MappedModel, batches: list[dict[str, Tensor]], settings: PruneSettings, console: Console
) -> dict[str, Tensor]:
    """Of the batches' tokens, by linears' names; they need the model as a whole, with gradients."""
    model, _ = load_for_surgery(model_dir)
    return token_weights(model.to(opened.device), batches, console, settings.seed)


def _prune_blocks(
    opened: MappedModel,
    batches: list[dict[str, Tensor]],
    of_tokens: dict[str, Tensor] | None,
    settings: PruneSettings,
    new_activations: Callable[[], Activations],
    console: Console,
) -> tuple[Layers, int]:
    """Prune all linears; returns what was done to each, and the bytes of hidden states that went to files."""
    weights = {name: out_in(linear) for name, linear in block_linears(opened.model).items()}
    shapes = {name: (weight.shape[0], weight.shape[1]) for name, weight in weights.items()}
    chosen = patterns(shapes, settings)  # also with OWL: what cannot be done is said before any work
    spilled = 0
    if settings.rates == "owl":
        activations = new_activations()
        chosen = patterns(shapes, settings, _owl_densities(opened, batches, settings, activations, console))
        spilled = activations.spilled
    layers = Layers(chosen, console)
    if settings.method == "magnitude":
        for stack, blocks in block_lists(opened.model).items():
            for index, block in enumerate(blocks):
                with opened.resident(block):
                    layers.by_magnitude({f"{stack}.{index}.{name}": linear for name, linear in linears(block)})
        return layers, spilled
    prune_one = pruner(settings.method, settings.block_size)

    def visit(group: dict[str, nn.Module], statistics: Hessian) -> None:
        layers.by_inputs(group, statistics, prune_one)

    activations = new_activations()
    walk(
        opened.model,
        batches,
        visit,
        console,
        f"{settings.method} {settings.sparsity:.0%}",
        damping=settings.damping,
        weights=of_tokens,
        activations=activations,
        resident=opened.resident,
    )
    return layers, max(spilled, activations.spilled)


def _owl_densities(
    opened: MappedModel,
    batches: list[dict[str, Tensor]],
    settings: PruneSettings,
    activations: Activations,
    console: Console,
) -> dict[str, float]:
    """The density of every linear: OWL's for its block."""
    block_of = {
        f"{stack}.{index}.{name}": f"{stack}.{index}"
        for stack, blocks in block_lists(opened.model).items()
        for index, block in enumerate(blocks)
        for name, _ in linears(block)
    }
    sizes = dict.fromkeys(block_of.values(), 0)
    ratios = dict.fromkeys(block_of.values(), 0.0)  # of outliers
    missing = Counter(block_of.values())
    scores: dict[str, list[Tensor]] = defaultdict(list)  # of the block that is visited

    def visit(group: dict[str, nn.Module], statistics: MeanSquares) -> None:
        for name, linear in group.items():
            block = block_of[name]
            sizes[block] += out_in(linear).numel()
            missing[block] -= 1
            scores[block].append(wanda_costs(out_in(linear), statistics).sqrt())
            if not missing[block]:
                ratios[block] = outliers(scores.pop(block), settings.owl_threshold)

    survey(opened.model, batches, visit, console, "OWL rates", activations=activations, resident=opened.resident)
    densities = owl(ratios, sizes, settings.sparsity, settings.owl_spread)
    return {name: densities[block] for name, block in block_of.items()}
