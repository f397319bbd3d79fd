"""The search for the fastest choice that keeps a goal, where only trying tells what a choice loses."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from cutwork.compress.menu import Choice
from cutwork.compress.promise import Loss
from cutwork.compress.recipe_of import recipe_of
from cutwork.compress.workshop import Workshop
from cutwork.errors import CutworkError
from cutwork.recipe import Recipe
from cutwork.run.stages import Stage
from cutwork.store.fingerprint import digest

_CLOSE = 1.005  # speed-ups that are nearer to each other are alike
_TIMED = 5  # choices at most, to find one that is as fast as was asked for
_ENOUGH = 1.02  # faster than was asked for, and nothing is lost for more


@dataclass(frozen=True)
class Goal:
    """What is promised, one of these: points lost at most, a speed-up over the dense model in bfloat16, bytes."""

    within: float | None = None
    speedup: float | None = None
    nbytes: float | None = None
    sure: bool = False  # of `within`: the interval must keep it too, not only what was measured
    looks: int = 1  # where sure: how many choices the same samples may judge, for all of which the interval holds


@dataclass(frozen=True)
class Tried:
    """A choice that was made, in one shot or trained, and evaluated on the validation samples."""

    choice: Choice
    recipe: Recipe
    folder: str
    packed: Stage
    loss: Loss
    kept: bool
    made_nbytes: int | None = None  # where bytes are the goal: what they came to, of which `choice` holds the forecast

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        numbers = {key: getattr(self.choice, key) for key in ("speedup", "milliseconds", "nbytes", "kl", "zeros")}
        result = {"loss": asdict(self.loss), "kept": self.kept, "trained": bool(self.recipe.tune)}
        return {**numbers, **result, "directory": str(self.packed.output)}


def direct(shop: Workshop, goal: Goal) -> Choice | None:
    """The choice of a goal that needs no training to be found, timed; CutworkError if there is none."""
    if goal.speedup is not None:
        return _as_fast(shop, goal.speedup)
    if goal.nbytes is None:
        return None
    best = shop.menu.solver("nbytes")
    choice = best.within(goal.nbytes)
    if choice is None:
        raise CutworkError(
            f"the smallest choice of all takes {best.least / 1e6:.0f} MB, more than {goal.nbytes / 1e6:.0f}; allow more"
        )
    return shop.timed(choice)


def search(shop: Workshop, chosen: Choice | None, goal: Goal, attempts: int) -> list[Tried]:
    """What was tried, at most so many choices, to find the fastest that keeps the goal; `chosen`: as `direct` says."""
    return _fitted(shop, chosen, goal, attempts) if chosen else _bisect(shop, goal, attempts)


def surest(shop: Workshop, best: Tried, goal: Goal) -> list[Tried]:
    """The choice trained, if it keeps the goal in one shot but its interval does not, which so few samples may owe to
    luck; empty if there is nothing to be surer of."""
    if goal.within is None or best.recipe.tune or not shop.base.tune or best.loss.high <= goal.within:
        return []
    return [_make(shop, best.choice, recipe_of(shop.base, best.choice), goal)]


def drop_all_but(best: Tried | None, tried: Sequence[Tried], shop: Workshop, *, pruned: bool = False) -> None:
    """Free the disk of what others than the best left but packed; of what pruning left when it is not tried again."""
    for each in tried:
        if best is None or each.folder != best.folder:
            shop.drop(each.folder, pruned=pruned)


def speedup_of(tried: Tried) -> float:
    """The timed one, over the dense model in bfloat16."""
    return tried.choice.speedup


def refusal(tried: Sequence[Tried], goal: Goal, output: Path) -> str:
    """Why nothing that was tried is the result, for people."""
    if goal.within is None:
        least = min(each.made_nbytes or 0 for each in tried)
        return (
            f"the smallest of {len(tried)} choices takes {least / 1e6:.2f} MB, more than "
            f"{(goal.nbytes or 0) / 1e6:.2f}; allow more --memory or more --attempts"
        )
    slowest = min(tried, key=speedup_of)
    sure = ", as far as so many samples can tell" if goal.sure else ""
    more = "--validation-samples" if goal.sure else "--attempts"  # which widen every interval
    return (
        f"none of {len(tried)} choices loses {goal.within:g} points or less{sure}; the slowest, "
        f"{slowest.choice.speedup:.2f}×, loses {slowest.loss}. {output / 'frontier.json'} has them all; allow more "
        f"points, more {more} or more training"
    )


def _as_fast(shop: Workshop, speedup: float) -> Choice:
    """The choice of least error that is so many times as fast, near enough, by its prices and what timing says of them.

    One timing may be a tenth off for as long as it takes, so prices are put right by the median of all that were timed.
    """
    best = shop.menu.solver()
    least, right, found, ratios = speedup * (1 - 1e-9), 1.0, list[Choice](), list[float]()
    while len(found) < _TIMED:
        choice = best.within(max(right * shop.menu.dense_milliseconds / speedup, best.least))
        if choice is None or any(choice.labels == each.labels for each in found):
            break
        timed = shop.timed(choice)
        shop.console.print(f"{choice.speedup:.2f}x by prices: {timed.speedup:.2f}x timed", highlight=False)
        found.append(choice)
        ratios.append(timed.speedup / choice.speedup)
        right = median(ratios)
        if least <= right * choice.speedup <= speedup * _ENOUGH:
            break
    told = [replace(each, speedup=right * each.speedup, milliseconds=each.milliseconds / right) for each in found]
    if fast := [each for each in told if each.speedup >= least]:
        return min(fast, key=lambda each: each.kl)
    most = max(each.speedup for each in told)
    raise CutworkError(
        f"of the choices that were timed none is more than {most:.2f} times as fast, so not {speedup:g}; ask for less"
    )


def _fitted(shop: Workshop, choice: Choice, goal: Goal, attempts: int) -> list[Tried]:
    """A choice that needs no search and, as long as what is made of it takes more bytes than the goal allows, the best
    choice that is so much smaller."""
    tried = [_try(shop, choice, goal)]
    while (made := tried[-1].made_nbytes) and not tried[-1].kept and len(tried) < attempts:
        excess = made - (goal.nbytes or 0.0)  # off the forecast: in the budget less it the same choice may fit again
        smaller = shop.menu.solver("nbytes").within(tried[-1].choice.nbytes - excess)
        if smaller is None:
            break
        tried.append(_try(shop, shop.timed(smaller), goal))
    return tried


def _bisect(shop: Workshop, goal: Goal, attempts: int) -> list[Tried]:
    """Choices between the dense model's speed and the fastest, each in the middle of what is not known yet."""
    best = shop.menu.solver()
    slow, fast = 1.0, shop.menu.dense_milliseconds / best.least
    tried: list[Tried] = []
    told = 0
    while len(tried) < attempts and (not tried or fast > slow * _CLOSE):
        speedup = math.sqrt(slow * fast)
        choice = best.within(shop.menu.dense_milliseconds / speedup)
        if choice is None:
            break
        if any(choice.labels == each.choice.labels for each in tried):  # too much was lost then
            fast = speedup
            continue
        tried.append(_try(shop, shop.timed(choice), goal))
        needed = _needed(shop, tried[-1], goal)
        if needed and not told / 2 <= needed <= told * 2:  # what changes more answers needs more, and what less, fewer
            shop.console.print(_too_few(shop, tried[-1], goal, needed), highlight=False)
            told = needed
        drop_all_but(max((each for each in tried if each.kept), key=speedup_of, default=None), tried, shop)
        slow, fast = (max(speedup, choice.speedup), fast) if tried[-1].kept else (slow, speedup)
    return tried


def _try(shop: Workshop, choice: Choice, goal: Goal) -> Tried:
    """Make a choice that was timed and see what it loses on validation: in one shot and, unless that keeps the goal,
    trained.

    Of the two the one that loses less: a model that has converged may lose more by being trained again than by what few
    zeros and bits it lost.
    """
    facts = f"{choice.milliseconds:.2f} ms, {choice.nbytes / 1e6:.0f} MB, {choice.zeros:.0%} zeros"
    shop.console.print(f"[bold]{choice.speedup:.2f}x[/bold]: {facts}", highlight=False)
    trained = recipe_of(shop.base, choice)
    one_shot = _make(shop, choice, trained.model_copy(update={"tune": None}), goal)
    if one_shot.kept and goal.within is not None:
        return one_shot
    smaller = one_shot.kept or goal.nbytes is None  # it would not be for being trained
    if not trained.tune or not smaller:
        return one_shot
    return min(one_shot, _make(shop, choice, trained, goal), key=lambda each: (not each.kept, each.loss.points))


def _make(shop: Workshop, choice: Choice, recipe: Recipe, goal: Goal) -> Tried:
    name = f"{choice.speedup:.2f}x"
    folder = f"zeros-{100 * choice.zeros:.0f}-{digest(choice.labels, digits=6)}"
    packed = shop.make(recipe, folder)
    lost = shop.loss(packed, shop.task.validation, goal.looks, goal.sure)
    kept, verdict, nbytes = True, "", None
    if goal.nbytes is not None:
        nbytes = shop.nbytes(packed)
        kept = nbytes <= goal.nbytes
        verdict = f", {nbytes / 1e6:.1f} MB"
    if goal.within is not None:
        kept = (lost.high if goal.sure else lost.points) <= goal.within
        verdict = f", {'within' if kept else 'not within'} {goal.within:g}"
    how = "trained" if recipe.tune else "in one shot"
    shop.console.print(f"{name}: loses {lost} on validation {how}{verdict}", highlight=False)
    return Tried(choice, recipe, folder, packed, lost, kept, nbytes)


def _needed(shop: Workshop, tried: Tried, goal: Goal) -> int:
    """About how many validation samples would tell its loss from the budget; 0 if those at hand do, or are all that is
    promised of."""
    if not goal.within or goal.sure or not tried.loss.low <= goal.within <= tried.loss.high:
        return 0
    needed = shop.samples_to_tell(tried.packed, goal.within)
    return needed if needed > len(shop.task.validation) else 0


def _too_few(shop: Workshop, tried: Tried, goal: Goal, needed: int) -> str:
    """That the validation samples cannot tell a loss from the budget, and what to do."""
    half, digits = (tried.loss.high - tried.loss.low) / 2, len(str(needed)) - 2
    return (
        f"{len(shop.task.validation)} validation samples tell such a loss to ±{half:.1f} points, so that what keeps "
        f"{goal.within:g} points by them may lose more; about {round(needed, -digits):,} would tell "
        "(--validation-samples), and --sure promises only what those at hand can"
    )
