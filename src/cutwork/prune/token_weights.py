"""How much each calibration token counts in a Hessian: as much as the model's answers owe to it.

To second order an error of a token's outputs costs what its gradient's square says (Fisher information; GuidedQuant,
arXiv 2505.07004, weighs by the training loss'). What pruning leaves is no small error: by the square a few tokens would
count for all, and the model breaks where the others matter after all; by the gradient's length it does not.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from cutwork.architectures import kind_of
from cutwork.errors import CutworkError
from cutwork.prune.answer_gradients import answer_gradients


def check_weighable(config: Mapping[str, Any]) -> None:
    """Raise CutworkError for a model whose tokens have no weights: one that is not decoder-only."""
    if kind_of(config) != "text":
        raise CutworkError(
            f"token weights need a decoder-only language model, not {config['model_type']}; leave out token_weights"
        )


def token_weights(
    model: Any, batches: Sequence[dict[str, Tensor]], console: Console, seed: int = 0
) -> dict[str, Tensor]:
    """The weight of every real token of the batches, in their order, float32 [T], 1 on average, by linears' names.

    Linears that share their input share their weights, as they do their Hessian. Left out, so that all tokens count
    alike, are linears that see some of the tokens only (experts), and those that answers owe nothing to. Memory: the
    model, and the activations and logits of a sample. CutworkError for models that are not decoder-only.
    """
    check_weighable(model.config.to_dict())
    lengths: dict[str, list[Tensor]] = defaultdict(list)

    def learn(name: str, _: Tensor, __: Tensor, gradients: Tensor) -> None:
        lengths[name].append(gradients.square().mean(1).sqrt())

    _, leaders = answer_gradients(model, _one_by_one(batches), learn, console, "weights of tokens", seed)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    of_groups: dict[str, list[Tensor]] = defaultdict(list)
    for name, found in lengths.items():
        own = torch.cat(found)
        if len(own) == tokens and own.sum() > 0:
            of_groups[leaders[name]].append(own / own.mean())
    means = {leader: torch.stack(group).mean(0) for leader, group in of_groups.items()}
    return {name: means[leader] for name, leader in leaders.items() if leader in means}


def _one_by_one(batches: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The samples of batches [B, T], without what they are padded with on the right."""
    return [
        {key: value[i : i + 1, :length] for key, value in batch.items()}
        for batch in batches
        for i, length in enumerate(batch["attention_mask"].sum(1).tolist())
    ]
