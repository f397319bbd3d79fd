"""Optimal brain surgery, one column at a time: what SparseGPT and GPTQ have in common.

A linear sees inputs x, so changing its weight by Δ costs tr(Δ H Δᵀ) with H = E[x xᵀ]. Fixing one column of the weight
leaves an error that the columns still free can best make up for by a step along a row of the Cholesky factor of H⁻¹.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cutwork.errors import CutworkError

Fix = Callable[[int, Tensor], Tensor]  # (column within its block, its values [out]) -> the values it is fixed to


@dataclass(frozen=True)
class Statistics:
    """What is known about a linear's inputs: H = mean of x xᵀ, float32 [in, in], over this many tokens."""

    hessian: Tensor
    tokens: int


@dataclass(frozen=True)
class Factor:
    """The upper triangular U with (H + damping·I)⁻¹ = UᵀU, float32 [in, in]."""

    upper: Tensor
    damping: float  # absolute: what was added to H's diagonal
    attempts: int  # factorisations tried; more than one if H was too close to singular
    dead: int  # inputs that were 0 for every token


def factorise(statistics: Statistics, damping: float, attempts: int = 6) -> Factor:
    """Factor the inverse of a Hessian whose diagonal is raised by `damping` times its mean.

    The damping is multiplied by ten whenever the matrix is not positive definite in float32, and the result says so;
    CutworkError if `attempts` are not enough, since any fallback would prune by a different criterion unnoticed.
    """
    hessian = statistics.hessian
    diagonal = hessian.diagonal()
    if not torch.isfinite(diagonal).all():
        raise CutworkError("calibration gave activations that are not finite; the model is damaged or overflows")
    # A linear that no token reaches has no preference among its inputs: the identity.
    added = damping * (diagonal.mean().item() or 1.0)
    dead = int((diagonal == 0).sum())
    for attempt in range(1, attempts + 1):
        damped = hessian.clone()
        damped.diagonal().add_(added)
        # H = R Rᵀ with R upper triangular is the Cholesky factor seen from the far corner; then U = R⁻¹.
        lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if not failed.item():
            eye = torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
            upper = torch.linalg.solve_triangular(lower.flip(0, 1), eye, upper=True)
            if torch.isfinite(upper).all():
                return Factor(upper, added, attempt, dead)
        added *= 10
    raise CutworkError(
        f"the Hessian is not positive definite even with a damping of {added / 10:g}; use more calibration samples"
    )


def sweep(weight: Tensor, factor: Factor, fix_block: Callable[[int, Tensor], Fix], block_size: int = 128) -> Tensor:
    """Fix all columns of a weight [out, in] from left to right, each making up for the errors of those before it.

    `fix_block(start, columns [n, out])` is called once per block of columns, when all earlier blocks are fixed, and
    returns the function that fixes one of its columns. Returns the fixed weight, float32 [out, in].
    """
    columns = weight.T.float().contiguous()  # a column is a row here: contiguous
    for start in range(0, len(columns), block_size):
        block = columns[start : start + block_size]
        end = start + len(block)
        upper = factor.upper[start:end, start:end]
        fix = fix_block(start, block)
        errors = torch.zeros_like(block)
        for j, pivot in enumerate(upper.diagonal().tolist()):
            # Errors of earlier columns are applied when a column is reached: one read of them, no writes ahead.
            current = block[j] - upper[:j, j] @ errors[:j]
            fixed = fix(j, current)
            errors[j] = (current - fixed) / pivot
            block[j] = fixed
        columns[end:] -= factor.upper[start:end, end:].T @ errors
    return columns.T.contiguous()


def output_error(change: Tensor, hessian: Tensor) -> Tensor:
    """tr(Δ H Δᵀ) per row of a change [out, in]: the mean squared error of each output, float32 [out]."""
    return ((change.float() @ hessian) * change.float()).sum(dim=1)
