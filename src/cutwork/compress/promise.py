"""What a model lost against another on held-out samples: points, and the interval that so many samples leave."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from cutwork.engine.tokenizer import encode
from cutwork.errors import CutworkError
from cutwork.measure.quality import replies
from cutwork.progress import progress_bar
from cutwork.recipe import CompareSettings
from cutwork.tasks.rendering import IGNORED, render, render_prompt
from cutwork.tasks.task import Sample, is_right

if TYPE_CHECKING:
    from cutwork.engine.model import Model

Metric = Literal["answers", "tokens"]
Verdict = Literal["kept", "not told", "broken"]
_BEYOND = 0.025  # on either side of a 95% interval
_UNSEEN = 0.25  # of a score, that others of a task's samples may lose or gain where none of these differs as much


@dataclass(frozen=True)
class Loss:
    """Points (of 100) lost, and the ends of the interval; negative where something was gained."""

    points: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.points:.1f} points ({self.low:.1f} to {self.high:.1f})"

    def against(self, budget: float) -> Verdict:
        """Whether so many points are kept: broken where more was lost by all of the interval, not told where by a part
        of it alone."""
        if self.points <= budget:
            return "kept"
        return "not told" if self.low <= budget else "broken"


def loss(
    before: Sequence[float], after: Sequence[float], looks: int = 1, count: int | None = None, *, sure: bool = False
) -> Loss:
    """What was lost from one list of scores from 0 to 1 to another, sample by sample.

    looks: how many such intervals are to hold together (Bonferroni). count: the interval that so many samples would
    leave, of which as large a part differed. Of answers that are right or wrong it is Tango's score interval for pairs
    (1998), which holds where hardly any differ; of others Agresti and Min's (2005): as if half a sample more had got
    better, half a one worse and one stayed as it is, so that few samples never look certain. Better and worse is by as
    much as any differs: shares of tokens differ by little, and by whole samples they would hide it. Where few samples
    lose much, none of those at hand may, and it ends too early; where it must not (sure) it is a score interval, too,
    as if what is lost beyond what was seen were of samples that lose all.
    """
    differences = [b - a for b, a in zip(before, after, strict=True)]
    z = NormalDist().inv_cdf(1 - _BEYOND / looks)
    points = 100 * sum(differences) / len(differences)  # in this order: 14 of 200 are 7, not a little more
    count = count or len(differences)
    times = count / len(differences)
    if {*before, *after} <= {0.0, 1.0}:
        worse, better = times * differences.count(1.0), times * differences.count(-1.0)
        high = _tango(worse, better, count, z)
        return Loss(points, -100 * _tango(better, worse, count, z), 100 * high)
    if sure:
        mean, square = points / 100, sum(d * d for d in differences) / len(differences)
        high = _as_if_all_were_lost(mean, square, count, z)
        return Loss(points, -100 * _as_if_all_were_lost(-mean, square, count, z), 100 * high)
    most = max(_UNSEEN, *map(abs, differences))
    middle = times * sum(differences) / (count + 2)
    spread = (times * sum(d * d for d in differences) + most**2) / (count + 2) - middle**2
    half = z * math.sqrt(max(spread, 0) / (count + 2))
    return Loss(points, 100 * (middle - half), 100 * (middle + half))


def _as_if_all_were_lost(mean: float, square: float, count: int, z: float) -> float:
    """The largest mean that a score test does not reject if a part of all samples differs by 1 and the others as those
    at hand do, whose mean and mean square these are; of samples that differ by 1 or not at all it is Wilson's."""
    # With a part q of 1 the mean becomes m = mean + q (1 - mean), the variance square + q (1 - square) - m².
    half = z * z * ((1 - square) / (1 - mean) - 2 * mean) / 2
    spread = max(square - mean * mean, 0)
    return mean + (half + math.sqrt(half * half + (count + z * z) * z * z * spread)) / (count + z * z)


def samples_to_tell(before: Sequence[float], after: Sequence[float], budget: float, looks: int = 1) -> int:
    """About how many samples would leave so many points to either side, if as large a part of them differed."""

    def half(count: int) -> float:
        lost = loss(before, after, looks, count)
        return (lost.high - lost.low) / 2

    counts = range(1, 10**12)
    return counts[bisect_left(counts, -budget, key=lambda count: -half(count))]


def _tango(worse: float, better: float, count: int, z: float) -> float:
    """The largest share lost that a score test of that many standard errors does not reject."""

    def rejected(lost: float) -> bool:
        a, b, c = 2 * count, (2 * count - worse + better) * lost - worse - better, -better * lost * (1 - lost)
        gained = (math.sqrt(max(b * b - 4 * a * c, 0)) - b) / (2 * a)  # the likeliest share, if so much is lost
        error = math.sqrt(max(count * (2 * gained + lost * (1 - lost)), 0))
        return count * lost - (worse - better) > z * error

    low, high = (worse - better) / count, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rejected(middle) else (middle, high)
    return high


def scores(
    model: "Model", name: str, samples: Sequence[Sample], metric: Metric, settings: CompareSettings, console: Console
) -> list[float]:
    """How well a decoder-only model does at each sample of the task called `name`, from 0 to 1.

    answers: whether its own answer is right, as the task judges it. tokens: of the reference answer's tokens, how many
    it finds likeliest after those before them.
    """
    if metric == "answers":
        texts = replies(
            model,
            name,
            samples,
            max_new_tokens=settings.max_new_tokens,
            num_beams=settings.num_beams,
            console=console,
        )
        return [float(is_right(text, sample.answer)) for text, sample in zip(texts, samples, strict=True)]
    with progress_bar(console, transient=True) as progress:
        return [_likeliest(model, sample) for sample in progress.track(samples, description=f"{name}: reading")]


def check_lengths(tokenizer: Any, split: str, samples: Sequence[Sample], metric: Metric, context: int) -> None:
    """Raise CutworkError for a sample that `scores` could not judge within so many tokens."""
    for row, sample in enumerate(samples, 1):
        if metric == "tokens":
            fits, problem = bool(_answer_places(tokenizer, sample, context)[1]), "has no answer within"
        else:
            fits = len(encode(tokenizer, render_prompt(tokenizer, sample))) < context
            problem = "leaves no room for an answer within"
        if not fits:
            begin = " ".join(sample.prompt.split())[:40]
            raise CutworkError(f"{split} sample {row}, '{begin}…', {problem} {context} tokens; leave it out")


def _answer_places(tokenizer: Any, sample: Sample, context: int) -> tuple[list[int], list[int]]:
    """The first tokens of a sample, as many as a context holds, and the places of those that an answer has."""
    ids, labels = render(tokenizer, sample)
    places = [i for i, label in enumerate(labels[:context]) if label != IGNORED and i > 0]
    return ids[:context], places


def _likeliest(model: "Model", sample: Sample) -> float:
    ids, places = _answer_places(model.tokenizer, sample, model.max_context)
    first, right = places[0], 0
    entries = (entry for part in model.token_logprobs(ids, 1, first=first) for entry in part)
    wanted = set(places)
    for place, entry in enumerate(entries, first):
        right += place in wanted and entry is not None and entry.top[0][0] == entry.token
    return right / len(places)
