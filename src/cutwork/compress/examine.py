"""What a dense model says about its candidates, as errors.json holds it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cutwork.compress.corrections import corrected
from cutwork.compress.linear_errors import linear_errors
from cutwork.compress.menu import HEAD, HEAD_LABELS
from cutwork.compress.sensitivity import influences, of_rounded_head
from cutwork.prune.calibrate import calibration_batches, calibration_examples
from cutwork.prune.pruners import pruner
from cutwork.prune.sparsegpt import sparsegpt
from cutwork.prune.token_weights import token_weights
from cutwork.recipe import Long, PruneSettings
from cutwork.tasks.task import Sample
from cutwork.torch_models.data import collate
from cutwork.torch_models.load import load_for_surgery, load_tokenizer

_PROBES = 32  # samples, held out, that tell what the head costs, and kinds of linears


def examine(
    model_dir: Path,
    samples: Sequence[Sample],
    settings: PruneSettings,
    *,
    group_size: int,
    max_length: int,
    long: Long,
    console: Console,
) -> dict[str, Any]:
    """Of every linear and the head: shape, and the KL divergence in answers that each candidate costs, by label.

    `settings` say what prunes, how many samples candidates are made with, as many others that judge them, where there
    are as many, and how Hessians are damped. Raises CutworkError for unusable models or samples.
    """
    model, _ = load_for_surgery(model_dir)
    tokenizer, count = load_tokenizer(model_dir), settings.calibration_samples
    data = list(calibration_examples(tokenizer, samples, 2 * count, max_length, settings.seed, long=long))
    seen = len(data) - len(data) // 2
    batches, others = calibration_batches(data[:seen]), data[seen:] or data
    prune = sparsegpt if settings.method == "sparsegpt" else pruner(settings.method, settings.block_size)
    judging = [collate([example]) for example in others]
    weights = None if settings.token_weights == "equal" else token_weights(model, batches, console, settings.seed)
    linears = linear_errors(
        model, batches, judging, influences(model, judging, console, settings.seed), console, prune=prune,
        group_size=group_size, damping=settings.damping, weights=weights,
    )  # fmt: skip
    kl = corrected(model, linears, judging[:_PROBES], console)
    of_head = of_rounded_head(model, judging[:_PROBES], console)
    found: dict[str, Any] = {
        name: {"rows": linear.rows, "columns": linear.columns, "kl": kl[name]} for name, linear in linears.items()
    }
    if of_head:
        rows, columns = model.get_output_embeddings().weight.shape
        kls = {label: of_head.get(stored, 0.0) for label, stored in HEAD_LABELS.items()}  # 0 as it is
        found[HEAD] = {"rows": rows, "columns": columns, "kl": kls}
    return {"linears": found}
