"""What a dense model says about its candidates, as errors.json holds it."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from cutwork.compress.corrections import corrected
from cutwork.compress.linear_errors import linear_errors
from cutwork.compress.menu import HEAD, HEADS
from cutwork.compress.sensitivity import influences, of_rounded_head
from cutwork.prune.calibrate import calibration_batches, calibration_examples
from cutwork.prune.pruners import pruner
from cutwork.prune.sparsegpt import sparsegpt
from cutwork.prune.token_weights import token_weights
from cutwork.recipe import Long, PruneSettings
from cutwork.tasks.task import Sample
from cutwork.torch_models.load import load_for_surgery, load_tokenizer
from cutwork.torch_models.model_inputs import Example

_JUDGES, _JUDGED_TOKENS = 128, 1 << 15  # samples that tell what errors cost, at most
_WITH_GRADIENTS, _WITHOUT = 512, 1024  # tokens that a model reads at a time, whose activations and logits are in memory


def examine(
    model_dir: Path,
    samples: Sequence[Sample],
    settings: PruneSettings,
    *,
    judges: Sequence[Sample] = (),
    group_size: int,
    max_length: int,
    long: Long,
    console: Console,
) -> dict[str, Any]:
    """Of every linear and the head: shape, and the KL divergence in answers that each candidate costs, by label.

    `settings` say what prunes, how many samples candidates are made with, and how Hessians are damped. `judges` are
    samples that the model was not tuned on, to judge candidates: on those that it was it is surer of itself. Without
    them others of `samples` judge, where there are as many. Raises CutworkError for unusable models or samples.
    """
    model, _ = load_for_surgery(model_dir)
    tokenizer, count = load_tokenizer(model_dir), settings.calibration_samples
    draw = partial(calibration_examples, tokenizer, max_length=max_length, seed=settings.seed, long=long)
    if judges:
        made_with, others = list(draw(samples, count)), list(draw(judges, _JUDGES))
    else:
        both = list(draw(samples, count + _JUDGES))
        half = len(both) - len(both) // 2
        made_with, others = both[: min(count, half)], both[min(count, half) :] or both
    batches = calibration_batches(made_with)
    prune = sparsegpt if settings.method == "sparsegpt" else pruner(settings.method, settings.block_size)
    judged = _within(others, _JUDGED_TOKENS)
    judging, asked = (calibration_batches(judged, tokens) for tokens in (_WITH_GRADIENTS, _WITHOUT))
    weights = None if settings.token_weights == "equal" else token_weights(model, batches, console, settings.seed)
    how: Any = {"prune": prune, "group_size": group_size, "damping": settings.damping, "weights": weights}
    linears = linear_errors(model, batches, judging, influences(model, judging, console, settings.seed), console, **how)
    kl = corrected(model, linears, batches, asked, console, **how)
    of_head = of_rounded_head(model, batches, asked, console, group_size=group_size, damping=settings.damping)
    found: dict[str, Any] = {
        name: {"rows": linear.rows, "columns": linear.columns, "kl": kl[name]} for name, linear in linears.items()
    }
    if of_head:
        rows, columns = model.get_output_embeddings().weight.shape
        kls = {each.label: of_head[each.scheme] if each.scheme else 0.0 for each in HEADS}
        found[HEAD] = {"rows": rows, "columns": columns, "kl": kls}
    return {"linears": found}


def _within(data: Sequence[Example], tokens: int) -> Sequence[Example]:
    """The first of them, as many as have so many tokens together, but one at least."""
    ends = np.cumsum([len(example["input_ids"]) for example in data])
    return data[: max(1, int((ends <= tokens).sum()))]
