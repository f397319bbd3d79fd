"""How many zeros each linear gets: the same everywhere, more where there are fewer outliers, or what the user says."""

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from cutwork.errors import CutworkError
from cutwork.prune.adaptive import AdaptiveTiles
from cutwork.prune.pattern import KeepNOfM, Pattern, Unstructured
from cutwork.recipe import PruneSettings

Shape = tuple[int, int]
Setting = TypeVar("Setting")


def patterns(
    shapes: Mapping[str, Shape], settings: PruneSettings, densities: Mapping[str, float] | None = None
) -> dict[str, Pattern]:
    """The pattern of every linear that is pruned, by name; `shapes` are [out, in] of all in the blocks.

    `settings.modules` (globs; the first that matches wins) comes before OWL's `densities` and those before
    `settings.sparsity`; `settings.patterns` likewise before `settings.pattern`. Raises CutworkError for a glob that
    matches nothing or a shape that cannot have the pattern.
    """
    _check_globs(shapes, "modules", settings.modules)
    _check_globs(shapes, "patterns", settings.patterns)
    chosen: dict[str, Pattern] = {}
    for name, (rows, columns) in shapes.items():
        asked, text = _first(settings.modules, name), _first(settings.patterns, name) or settings.pattern
        if asked == 0:
            continue
        usual = 1 - densities[name] if densities else settings.sparsity
        pattern = pattern_of(text, usual if asked is None else asked)
        if asked is not None and isinstance(pattern, KeepNOfM) and abs(asked - pattern.sparsity) > 1e-9:
            raise CutworkError(f"{name}: pattern {text} fixes the rate, and modules asks for {asked:g}; leave one out")
        try:
            pattern.check(rows, columns)
        except CutworkError as error:
            raise CutworkError(f"{name}: {error}") from None
        chosen[name] = pattern
    if not chosen:
        raise CutworkError("nothing is left to prune: every linear has a rate of 0 in modules")
    return chosen


def pattern_of(text: str, sparsity: float) -> Pattern:
    """The pattern that a setting names; keep-n-of-m has its own sparsity."""
    if text == "unstructured":
        return Unstructured(sparsity)
    if text == "adaptive":
        return AdaptiveTiles(sparsity)
    if "x" in text:
        rows, columns = map(int, text.split("x"))
        return Unstructured(sparsity, rows, columns)
    n, m = map(int, text.split(":"))
    return KeepNOfM(n, m)


def _first(by_glob: Mapping[str, Setting], name: str) -> Setting | None:
    return next((setting for glob, setting in by_glob.items() if fnmatch.fnmatchcase(name, glob)), None)


def _check_globs(shapes: Mapping[str, Shape], setting: str, globs: Mapping[str, object]) -> None:
    for glob in globs:
        if not fnmatch.filter(shapes, glob):
            endings = sorted({name.rpartition(".")[2] for name in shapes})
            near = difflib.get_close_matches(glob.rpartition(".")[2].strip("*"), endings, n=1)
            hint = f"did you mean '*.{near[0]}'?" if near else f"the linears end in {', '.join(endings)}"
            raise CutworkError(f"{setting}: '{glob}' matches no linear of the blocks; {hint}")


def outliers(scores: Sequence[Tensor], threshold: float) -> float:
    """The share of the Wanda scores |w| · ‖x‖ of a block's weights that exceed `threshold` times their common mean."""
    count = sum(each.numel() for each in scores)
    mean = sum(float(each.sum(dtype=torch.double)) for each in scores) / count
    above = sum(int((each > threshold * mean).sum()) for each in scores)
    return float(above / count)


def owl(ratios: Mapping[str, float], sizes: Mapping[str, int], sparsity: float, spread: float) -> dict[str, float]:
    """OWL (Yin et al., arXiv 2310.05175): the density of each block, higher where its ratio of outliers is.

    Densities span 2·`spread`, and average to 1 - sparsity over all weights; `sizes` are the blocks' weights. Raises
    CutworkError where that leaves [0, 1].
    """
    values = torch.tensor([ratios[block] for block in ratios], dtype=torch.double)
    weights = torch.tensor([sizes[block] for block in ratios], dtype=torch.double)
    span = values.max() - values.min()
    scaled = (values - values.min()) / span * 2 * spread if span > 0 else torch.zeros_like(values)
    densities = scaled - (scaled * weights).sum() / weights.sum() + 1 - sparsity
    if densities.min() <= 0 or densities.max() > 1:
        raise CutworkError(
            f"OWL asks for densities from {densities.min():.2f} to {densities.max():.2f}; lower owl_spread "
            f"({spread:g}) or change the sparsity ({sparsity:g})"
        )
    return dict(zip(ratios, densities.tolist(), strict=True))
