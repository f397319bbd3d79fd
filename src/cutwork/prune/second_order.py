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
_ATTEMPTS = 6  # to factorise a Hessian


@dataclass(frozen=True)
class Damping:
    """What it took to make a Hessian positive definite in float32."""

    added: float  # to its diagonal
    attempts: int  # factorisations tried; more than one if the Hessian was too close to singular


def damp(hessian: Tensor, damping: float) -> tuple[Tensor, Damping]:
    """Raise the diagonal of a Hessian [in, in] by `damping` times its mean until it is positive definite.

    The damping is multiplied by ten whenever it is not, and the result says so; CutworkError if so many attempts are
    not enough, since any fallback would prune by a different criterion unnoticed.
    """
    _, applied = _cholesky(hessian, damping)
    damped = hessian.clone()
    damped.diagonal().add_(applied.added)
    return damped, applied


def factorise(hessian: Tensor, damping: float) -> tuple[Tensor, Damping]:
    """The upper triangular U with H⁻¹ = UᵀU, float32 [in, in], of a Hessian damped as `damp` does it.

    Needs the memory of three Hessians.
    """
    lower, applied = _cholesky(hessian, damping)
    # H = R Rᵀ with R upper triangular is the Cholesky factor seen from the far corner; U = R⁻¹.
    _invert_lower(lower)
    return lower.flip(0, 1), applied


def check_finite(squares: Tensor) -> None:
    """Raise CutworkError unless the mean squares of a linear's inputs, float32 [in], are finite."""
    if not torch.isfinite(squares).all():
        raise CutworkError("calibration gave activations that are not finite; the model is damaged or overflows")


def _cholesky(hessian: Tensor, damping: float) -> tuple[Tensor, Damping]:
    """The Cholesky factor of the damped Hessian, both reversed."""
    diagonal = hessian.diagonal()
    check_finite(diagonal)
    # A linear that no token reaches has no preference among its inputs: the identity.
    added = damping * (diagonal.mean().item() or 1.0)
    for attempt in range(1, _ATTEMPTS + 1):
        reversed_ = hessian.flip(0, 1)
        reversed_.diagonal().add_(added)
        lower, failed = torch.linalg.cholesky_ex(reversed_)
        del reversed_
        if not failed.item() and torch.isfinite(lower.diagonal().reciprocal()).all():
            return lower, Damping(added, attempt)
        added *= 10
    raise CutworkError(
        f"the Hessian is not positive definite even with a damping of {added / 10:g}; use more calibration samples"
    )


def _invert_lower(lower: Tensor) -> None:
    """Invert a lower triangular matrix in place, by halves: nearly all of it is matrix products."""
    size = len(lower)
    if size <= 256:
        eye = torch.eye(size, dtype=lower.dtype, device=lower.device)
        lower.copy_(torch.linalg.solve_triangular(lower, eye, upper=False))
        return
    half = size // 2
    first, second, below = lower[:half, :half], lower[half:, half:], lower[half:, :half]
    _invert_lower(first)
    _invert_lower(second)
    below.copy_(second @ below @ first).neg_()


_LEAF = 32  # columns that are fixed one by one before their errors are passed on in one product


def sweep(weight: Tensor, upper: Tensor, fix_block: Callable[[int, Tensor], Fix], block_size: int = 128) -> Tensor:
    """Fix all columns of a weight [out, in] from left to right, each making up for the errors of those before it.

    `upper` [in, in] is the factor U of the inverse Hessian that `factorise` gives.
    `fix_block(start, columns [n, out])` is called once per block of columns, when all earlier blocks are fixed, and
    returns the function that fixes one of its columns. Returns the fixed weight, float32 [out, in].

    Errors travel by halves: what the left half of a range lost reaches its right half in one matrix product.
    """
    # A column is a row here: contiguous.
    columns = weight.T.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    errors = torch.empty_like(columns)
    pivots = upper.diagonal().tolist()

    def pass_on(start: int, middle: int, end: int) -> None:
        columns[middle:end].addmm_(upper[start:middle, middle:end].T, errors[start:middle], alpha=-1)

    def fix_blocks(first: int, last: int) -> None:
        start, end = first * block_size, min(last * block_size, len(columns))
        if last - first == 1:
            fix_columns(start, start, end, fix_block(start, columns[start:end]))
            return
        half = (first + last) // 2
        fix_blocks(first, half)
        pass_on(start, half * block_size, end)
        fix_blocks(half, last)

    def fix_columns(block: int, start: int, end: int, fix: Fix) -> None:
        if end - start > _LEAF:
            middle = (start + end) // 2
            fix_columns(block, start, middle, fix)
            pass_on(start, middle, end)
            fix_columns(block, middle, end, fix)
            return
        for j in range(start, end):
            # Errors of the leaf's earlier columns are applied when a column is reached: one read, no writes ahead.
            current = columns[j] - upper[start:j, j] @ errors[start:j]
            fixed = fix(j - block, current)
            torch.sub(current, fixed, out=errors[j]).div_(pivots[j])
            columns[j] = fixed

    if len(columns):
        fix_blocks(0, -(-len(columns) // block_size))
    return columns.T.contiguous()


def output_error(change: Tensor, hessian: Tensor) -> Tensor:
    """tr(Δ H Δᵀ) per row of a change [out, in]: the mean squared error of each output, float32 [out]."""
    return ((change.float() @ hessian) * change.float()).sum(dim=1)
