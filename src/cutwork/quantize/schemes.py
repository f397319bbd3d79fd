"""Which linear is quantised how."""

import fnmatch
import math
from typing import Any

import torch
from torch import nn

from cutwork.errors import CutworkError
from cutwork.quantize.grid import Grid
from cutwork.quantize.head import output_head
from cutwork.recipe import DEFAULT_IGNORED, QuantizeSettings, Scheme, SchemeOrSkip
from cutwork.torch_models.blocks import block_linears

_GROUPS = 32  # columns, or multiples of it, that kernels read; smaller groups would cost more than they save in codes


def choose(model: Any, settings: QuantizeSettings) -> dict[str, tuple[nn.Module, Scheme]]:
    """The linears of the blocks to quantise, and the head if `settings.head` says so, with their schemes, by name.

    The first of `settings.overrides` that matches a name decides; then `settings.ignore`; then what is kept in higher
    precision by default (`kept`); `settings.scheme` is for the rest. Raises CutworkError for a pattern without a match
    or if nothing is left.
    """
    linears = block_linears(model)
    head = dict([output_head(model)]) if settings.head != "skip" else {}
    for pattern in settings.overrides:
        if not fnmatch.filter(linears, pattern):
            raise CutworkError(f"overrides: no linear of the blocks matches '{pattern}'; one is {next(iter(linears))}")
    modules = [name for name, _ in model.named_modules()]
    for pattern in set(settings.ignore) - set(DEFAULT_IGNORED):
        if not fnmatch.filter(modules, pattern):
            raise CutworkError(f"ignore: no module matches '{pattern}'; a linear is called {next(iter(linears))}")
    chosen: dict[str, tuple[nn.Module, Scheme]] = {}
    for name, linear in linears.items():
        scheme = _scheme(name, model, settings)
        if scheme == "skip":
            continue
        chosen[name] = (linear, scheme)
    if not chosen and not head:
        raise CutworkError(f"nothing is left to quantise: ignore = {', '.join(settings.ignore)}")
    if settings.head != "skip":
        chosen |= {name: (module, settings.head) for name, module in head.items()}
    return chosen


def kept(name: str, model: Any) -> bool:
    """Whether a module stays in higher precision unless an override says otherwise.

    Routers of mixtures of experts, whose errors send tokens to other experts (Switch Transformers, arXiv 2101.03961,
    §2.4, keeps them in float32), and what transformers keeps in float32 whatever the model's dtype: T5's `wo`, whose
    inputs exceed half precision.
    """
    last_part = name.rsplit(".", 1)[-1]
    return last_part in ("gate", "router", "shared_expert_gate") or last_part in (
        getattr(model, "_keep_in_fp32_modules", None) or ()
    )


def grid_of(scheme: Scheme, columns: int, group_size: int, scale_dtype: torch.dtype) -> Grid:
    """The grid of a weight with so many columns.

    A group that does not divide them shrinks to their greatest common divisor; one scale per row if that is no multiple
    of 32.
    """
    if scheme == "w8a8":
        return Grid(8, None, scale_dtype)
    group = math.gcd(columns, group_size)
    return Grid(4, None if group % _GROUPS else group, scale_dtype)


def _scheme(name: str, model: Any, settings: QuantizeSettings) -> SchemeOrSkip:
    for pattern, scheme in settings.overrides.items():
        if fnmatch.fnmatchcase(name, pattern):
            return scheme
    ignored = any(fnmatch.fnmatchcase(name, pattern) for pattern in settings.ignore)
    return "skip" if ignored or kept(name, model) else settings.scheme
