"""From logits to the next token: penalties, filters and the draw, with the meaning they have in transformers."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from cutwork.engine.decoding.rules import Rules
from cutwork.errors import CutworkError, require

LIKELY = (1e-3, 1e-5, 0.0)  # of the likeliest token: for top-p only those above are sorted, if they hold the mass
BLOCK = 256  # probabilities summed at a time for the draw
GREEDY = 1e-5  # below this temperature the likeliest token is chosen: logits divided by it may not be finite
LEAST_PENALTY = 1e-2


class NotFinite(CutworkError):
    """A model's logits are not numbers: its weights are damaged, or it overflows."""


class Constraint(Protocol):
    """A grammar that a request's tokens must follow; it lives as long as the request."""

    def allowed(self) -> np.ndarray:
        """Which tokens may come next, bool [V]; at least one."""

    def accept(self, token: int) -> None:
        """Note the token that was chosen."""


@dataclass(frozen=True)
class Sampling(Rules):
    """How one request chooses its tokens, within the `Rules`. The defaults are greedy.

    temperature: below GREEDY the likeliest is chosen. top_k: keep the k likeliest tokens, 0 all. top_p: keep the
    likeliest tokens that together reach this probability. min_p: drop tokens less likely than this fraction of the
    likeliest. repetition_penalty: divides (or, if negative, multiplies) the logits of tokens already in the prompt or
    the answer (arXiv 1909.05858).
    presence_penalty, frequency_penalty: subtracted from the logits of tokens already in the answer, once or once per
    occurrence. logit_bias: added to the logits of these token ids. sequence_bias: pairs of token ids and what is added
    to the last one's logit, before any penalty, where the others have just been read or written. logits_processor:
    called with the scores float32 [V] and the answer so far, changes them in place, without a memory of earlier calls
    in a beam search. constraint: leaves only the tokens it allows.
    seed: makes the draw repeatable, alone or in a batch. logprobs: None, or how many alternatives to report per token
    besides the chosen one.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    sequence_bias: Sequence[tuple[Sequence[int], float]] = ()
    logits_processor: Callable[[np.ndarray, Sequence[int]], None] | None = None
    constraint: Constraint | None = None
    seed: int | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checks = {
            "temperature must be 0 or more": 0 <= self.temperature < float("inf"),
            "top_k must be 0 or more": self.top_k >= 0,
            "top_p must be above 0 and at most 1": 0 < self.top_p <= 1,
            "min_p must be from 0 to 1": 0 <= self.min_p <= 1,
            "repetition_penalty must be at least 0.01": LEAST_PENALTY <= self.repetition_penalty < float("inf"),
            "presence_penalty must be a finite number": abs(self.presence_penalty) < float("inf"),
            "frequency_penalty must be a finite number": abs(self.frequency_penalty) < float("inf"),
            "logit_bias must hold token ids and finite numbers": all(
                token >= 0 and abs(bias) < float("inf") for token, bias in self.logit_bias.items()
            ),
            "sequence_bias must hold token ids and numbers": all(
                len(ids) and min(ids) >= 0 and bias < float("inf") for ids, bias in self.sequence_bias
            ),
            "seed must be 0 or more": self.seed is None or self.seed >= 0,
            "logprobs must be 0 or more": self.logprobs is None or self.logprobs >= 0,
        }
        require({f"{rule}, not {getattr(self, rule.split()[0])!r}": holds for rule, holds in checks.items()})

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is chosen instead of drawing one."""
        return self.temperature < GREEDY


@dataclass(frozen=True)
class Logprob:
    """Natural log of a token's probability under the model itself (before penalties and filters), with the likeliest
    alternatives as (token, logprob) pairs."""

    token: int
    logprob: float
    top: list[tuple[int, float]]


class Sampler:
    """The choices of one request; owns its random generator, so that others in a batch do not disturb it.

    prompt_tokens: where the answer begins. limit: the longest prompt and answer. stop_tokens: what ends the answer.
    """

    def __init__(
        self,
        settings: Sampling,
        prompt_tokens: int = 0,
        limit: int = 1 << 30,
        stop_tokens: frozenset[int] = frozenset(),
    ) -> None:
        self.settings = settings
        self._random = np.random.default_rng(secrets.randbits(63) if settings.seed is None else settings.seed)
        self._prompt_tokens, self._limit, self._stop_tokens = prompt_tokens, limit, stop_tokens
        self._biased = np.fromiter(settings.logit_bias.keys(), np.int64, len(settings.logit_bias))
        self._bias = np.fromiter(settings.logit_bias.values(), np.float32, len(settings.logit_bias))
        self._rules = settings.rules
        self._sequences: dict[tuple[int, ...], dict[int, float]] = {}  # what is added to the tokens after others
        for (*before, token), bias in settings.sequence_bias:
            self._sequences.setdefault(tuple(before), {})[token] = bias
        self._lengths = {len(before) for before in self._sequences}
        self._counted = settings.presence_penalty != 0 or settings.frequency_penalty != 0
        self._plain = not (self._rules or len(self._biased) or settings.logits_processor or settings.constraint)

    @property
    def plain(self) -> bool:
        """Whether `scores` are the model's own logits."""
        return self._plain and not self._counted and not self._lengths and self.settings.repetition_penalty == 1

    def choose(self, logits: np.ndarray, tokens: Sequence[int]) -> tuple[int, Logprob | None]:
        """The token after `tokens` (prompt and answer), given its logits float32 [V], and its log-probability if the
        settings ask for it. Raises CutworkError if nothing may be chosen, NotFinite for logits that are no numbers."""
        s = self.settings
        scores = self.scores(logits, tokens)
        token = _likeliest(scores)
        if not s.greedy:
            ids, scores = candidates(scores, s)
            token = int(ids[self._draw(scores)])
        if s.constraint is not None:
            s.constraint.accept(token)
        return token, None if s.logprobs is None else log_probability(logits, token, s.logprobs)

    def guess(self, logits: np.ndarray, tokens: Sequence[int]) -> tuple[int, np.ndarray | None]:
        """What a draft model says comes after `tokens`, and the distribution float64 [V] it was drawn from; the best,
        and None, for a greedy request and for one with a seed, whose draws are to be the target's alone."""
        if self.settings.greedy or self.settings.seed is not None:
            return _likeliest(self.scores(logits, tokens)), None
        distribution = self._distribution(logits, tokens)
        return self._pick(distribution), distribution

    def judge(
        self, logits: np.ndarray, tokens: Sequence[int], guess: int, distribution: np.ndarray | None
    ) -> tuple[int, Logprob | None]:
        """As `choose`, with exactly its distribution, but the guessed token as often as that allows (arXiv 2211.17192).

        logits: of the target model. guess, distribution: as `guess` gave them.
        """
        s = self.settings
        if distribution is None:
            return self.choose(logits, tokens)
        target = self._distribution(logits, tokens)
        token = guess
        if self._random.random() * distribution[guess] >= target[guess]:
            token = self._pick(np.maximum(target - distribution, 0))
        return token, None if s.logprobs is None else log_probability(logits, token, s.logprobs)

    def scores(self, logits: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
        """Logits float32 [V] of the token after `tokens`, after penalties, biases, rules and the constraint; the
        model's own if there are none."""
        s = self.settings
        scores = self._with_sequences(logits, tokens) if self._lengths else logits
        if s.repetition_penalty != 1:
            scores = penalise(scores, np.asarray(tokens), s.repetition_penalty)
        if self._plain and not self._counted:
            return scores
        scores = scores.copy()
        if self._counted:
            used, times = np.unique(np.asarray(tokens[self._prompt_tokens :], np.int64), return_counts=True)
            scores[used] -= np.float32(s.presence_penalty) + np.float32(s.frequency_penalty) * times
        scores[self._biased] += self._bias
        allowed = None if s.constraint is None else s.constraint.allowed()
        if self._rules:
            ends = self._stop_tokens
            if allowed is not None and allowed.sum() == allowed[list(ends)].sum():
                ends = frozenset()  # an answer of a given form ends with it, however short it is
            s.apply(scores, tokens, prompt_tokens=self._prompt_tokens, limit=self._limit, stop_tokens=ends)
        if s.logits_processor is not None:
            s.logits_processor(scores, tokens[self._prompt_tokens :])
        if allowed is not None:
            scores[~allowed] = -np.inf
        return scores

    def _with_sequences(self, logits: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
        """The logits with what is added to the last tokens of sequences that the next one would complete."""
        scores = logits.copy()
        for length in self._lengths:
            if length > len(tokens):
                continue
            biases = self._sequences.get(tuple(tokens[len(tokens) - length :]), {})
            scores[list(biases)] += np.fromiter(biases.values(), np.float32, len(biases))
        return scores

    def _distribution(self, logits: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
        """Probabilities float64 [V] of the token after `tokens`, after penalties, rules and filters."""
        scores = self.scores(logits, tokens)
        _likeliest(scores)
        ids, scores = candidates(scores, self.settings)
        probabilities = np.zeros(len(logits))
        probabilities[ids] = np.exp(scores - scores.max())
        probabilities /= probabilities.sum()
        return probabilities

    def _draw(self, scores: np.ndarray) -> int:
        """An index with probability softmax(scores)."""
        return self._pick(np.exp(scores - scores.max()))

    def _pick(self, weights: np.ndarray) -> int:
        """An index with a probability in proportion to its weight: the block first, then the place in it."""
        sums = np.cumsum(np.add.reduceat(weights, np.arange(0, len(weights), BLOCK), dtype=np.float64))
        wanted = self._random.random() * sums[-1]
        block = min(int(np.searchsorted(sums, wanted, side="right")), len(sums) - 1)
        inside = np.cumsum(weights[block * BLOCK : (block + 1) * BLOCK], dtype=np.float64)
        before = sums[block - 1] if block else 0.0
        place = int(np.searchsorted(inside, wanted - before, side="right"))
        return block * BLOCK + min(place, len(inside) - 1)


def _likeliest(scores: np.ndarray) -> int:
    """The token with the largest of the scores float32 [V], which must be finite."""
    token = int(scores.argmax())  # the place of a NaN, if there is one
    if scores[token] == -np.inf:
        raise nothing_allowed()
    check_finite(scores[token])
    return token


def nothing_allowed() -> CutworkError:
    """What is raised where every token is forbidden."""
    return CutworkError("no token may come next: the request's own rules forbid all of them")


def check_finite(largest: float) -> None:
    """Raise NotFinite if the largest of some logits, or a sum over them, is no finite number."""
    if not np.isfinite(largest):
        raise NotFinite("the model's logits are not finite numbers: its weights are damaged, or they overflow")


def penalise(logits: np.ndarray, seen: np.ndarray, penalty: float) -> np.ndarray:
    """Logits with those of the `seen` tokens, which may repeat, made less attractive."""
    result = logits.copy()
    before = logits[seen]
    result[seen] = np.where(before < 0, before * penalty, before / penalty)
    return result


def candidates(logits: np.ndarray, settings: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """(token ids ascending, their scores = logits / temperature) that survive top-k, then top-p, then min-p."""
    scores = logits / np.float32(settings.temperature)
    ids = np.arange(len(scores))
    if 0 < settings.top_k < len(scores):
        ids = np.flatnonzero(scores >= np.partition(scores, -settings.top_k)[-settings.top_k])
        scores = scores[ids]
    if settings.top_p < 1:
        survivors = _nucleus(scores, settings.top_p)
        ids, scores = ids[survivors], scores[survivors]
    if settings.min_p > 0:
        survivors = np.flatnonzero(scores >= scores.max() + np.log(settings.min_p))
        ids, scores = ids[survivors], scores[survivors]
    return ids, scores


def log_probability(logits: np.ndarray, token: int, alternatives: int) -> Logprob:
    """Log-softmax of the raw logits at `token`, and of the likeliest `alternatives` tokens in descending order.

    Raises NotFinite for logits that are no numbers.
    """
    highest = logits.max()
    check_finite(highest)
    total = float(highest) + float(np.log(np.exp(logits - highest).sum(dtype=np.float64)))
    count = min(alternatives, len(logits))
    top = np.argpartition(logits, -count)[-count:] if count else np.empty(0, np.int64)
    top = top[np.argsort(-logits[top], kind="stable")]
    return Logprob(token, float(logits[token]) - total, [(int(i), float(logits[i]) - total) for i in top])


def _nucleus(scores: np.ndarray, mass: float) -> np.ndarray:
    """Indices, ascending, of the likeliest scores that together reach `mass` (arXiv 1904.09751): those for which the
    likelier ones alone do not reach it."""
    probabilities = np.exp(scores - scores.max())
    wanted = mass * probabilities.sum(dtype=np.float64)
    for least in LIKELY:
        top = np.flatnonzero(probabilities >= least)
        if least == 0 or probabilities[top].sum(dtype=np.float64) >= wanted:
            break
    top = top[np.argsort(-probabilities[top], kind="stable")]
    before = np.cumsum(probabilities[top], dtype=np.float64) - probabilities[top]
    inside = before < wanted
    inside[0] = True
    return np.sort(top[inside])
