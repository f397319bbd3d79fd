"""Where a model's repeated blocks and their linears are: read off the module tree, never off a list of names."""

from collections.abc import Iterator

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from cutwork.errors import CutworkError


def block_lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    """The stacks of blocks by name: one for a decoder, two for an encoder and a decoder.

    A stack is an outermost ModuleList of which every member holds a linear. Raises CutworkError if there is none.
    """
    stacks = dict(_outermost_stacks(model, ""))
    if not stacks:
        raise CutworkError(f"{type(model).__name__} has no stack of blocks with linear layers, so nothing to prune")
    return stacks


def block_linears(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear inside a block, by its name in the model, in the order of the module tree."""
    return {
        f"{stack}.{index}.{name}": linear
        for stack, blocks in block_lists(model).items()
        for index, block in enumerate(blocks)
        for name, linear in linears(block)
    }


def check_linear(model: nn.Module) -> None:
    """Raise CutworkError for a model of which a large part is in no linear, as the experts of a mixture, which are one
    tensor of three dimensions: the rest would be pruned or quantised alone, and be reported as the model."""
    for stack, blocks in block_lists(model).items():
        for place, module in blocks.named_modules(prefix=stack):
            if isinstance(module, nn.Linear | Conv1D | nn.Conv1d | nn.Conv2d):
                continue
            for name, weight in module.named_parameters(recurse=False):
                if weight.is_floating_point() and sum(size > 1 for size in weight.shape) > 2:
                    raise CutworkError(
                        f"{type(model).__name__} keeps {place}.{name} {list(weight.shape)} in no linear layer, as "
                        "mixtures of experts do, so that most of it would stay as it is; this step needs one without"
                    )


def linears(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The linears below a module with their names, GPT-2's transposed `Conv1D` included."""
    return ((name, child) for name, child in module.named_modules() if isinstance(child, nn.Linear | Conv1D))


def out_in(linear: nn.Module) -> Tensor:
    """A linear's weight as a [out, in] view that shares its memory."""
    weight = linear.weight.data
    assert isinstance(weight, Tensor)
    return weight.T if isinstance(linear, Conv1D) else weight


def _outermost_stacks(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.ModuleList]]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, nn.ModuleList) and len(child) and all(any(linears(block)) for block in child):
            yield path, child
        else:
            yield from _outermost_stacks(child, f"{path}.")
