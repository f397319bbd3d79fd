"""Beam search with transformers' meaning of every option, and its diverse form (arXiv 1610.02424)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cutwork.engine.decoding.blocks import BlockCache
from cutwork.engine.decoding.logits import largest, log_softmax, log_sum_exp
from cutwork.engine.decoding.sampling import Sampler, check_finite, nothing_allowed
from cutwork.errors import CutworkError, require

WORST = np.float32(-1e9)  # the score of what is not there


@dataclass(frozen=True)
class Beams:
    """How a request searches.

    num_beams: hypotheses kept at a time. length_penalty: a hypothesis' score is the sum of its tokens'
    log-probabilities divided by its length to this power, so above 0 favours long ones. early_stopping: True ends as
    soon as there are num_beams finished hypotheses, False when those still open are unlikely to become better, "never"
    when they cannot. num_return_sequences: how many of the best to return. num_beam_groups: groups that search one
    after the other, each for itself; a token's log-probability is lowered by diversity_penalty for every beam of an
    earlier group that has just chosen it. renormalize_logits: of the tokens that penalties and rules left the
    probabilities are made to add up to 1 again.
    """

    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_return_sequences: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    renormalize_logits: bool = False

    def __post_init__(self) -> None:
        n, groups = self.num_beams, self.num_beam_groups
        checks = {
            f"num_beams must be at least 1, not {n}": n >= 1,
            f"length_penalty must be from -5 to 5, not {self.length_penalty}": abs(self.length_penalty) <= 5,
            f'early_stopping must be True, False or "never", not {self.early_stopping!r}': self.early_stopping
            in (True, False, "never"),
            f"num_return_sequences must be from 1 to num_beams, not {self.num_return_sequences}": 1
            <= self.num_return_sequences
            <= n,
            f"num_beams must be a multiple of num_beam_groups, and {n} is none of {groups}": groups >= 1
            and n % groups == 0,
            f"diversity_penalty must be 0 or more, not {self.diversity_penalty}": 0 <= self.diversity_penalty < 1e6,
        }
        require(checks)

    def check(self, prompt_tokens: int, limit: int, max_batch: int, cache: BlockCache) -> None:
        """Raise CutworkError if so many beams, each of up to `limit` tokens, can never run together."""
        if self.num_beams > max_batch:
            raise CutworkError(
                f"num_beams must be at most {max_batch}, the sequences this model was loaded for, not "
                f"{self.num_beams}; load it with a larger max_batch"
            )
        shared = prompt_tokens // cache.block_size  # blocks that the prompt fills
        if shared + self.num_beams * (cache.blocks_for(limit) - shared) > cache.blocks:
            raise CutworkError(
                f"{self.num_beams} beams of {limit} tokens do not fit the KV cache together; lower max_new_tokens or "
                "load the model with larger cache_bytes"
            )


@dataclass(frozen=True)
class Hypothesis:
    """A finished answer: its tokens without the prompt, and its score."""

    tokens: list[int]
    score: float


class BeamSearch:
    """The state of one search. `tokens[i]` are prompt and answer of beam i; all begin as the prompt.

    Whoever runs it computes the logits after each beam's tokens and calls `advance`, until `done`. limit: the longest
    prompt and answer.
    """

    def __init__(
        self, beams: Beams, sampler: Sampler, prompt: Sequence[int], limit: int, stop_tokens: frozenset[int]
    ) -> None:
        self.settings = beams
        self.tokens = [list(prompt) for _ in range(beams.num_beams)]
        self._prompt_tokens = len(prompt)
        self._sampler = sampler
        width = beams.num_beams // beams.num_beam_groups
        self._groups = [_Group(beams, width, len(prompt), limit, stop_tokens) for _ in range(beams.num_beam_groups)]

    @property
    def done(self) -> bool:
        """Whether no better hypothesis is to be looked for."""
        return all(group.done for group in self._groups)

    def advance(self, logits: Sequence[np.ndarray]) -> list[int]:
        """Give every beam one more token, from logits float32 [V] after its present ones.

        Returns the beam that each beam now continues. Raises CutworkError if nothing may be chosen and none has ended.
        """
        parents, chosen = list(range(len(self.tokens))), np.empty(0, np.int64)
        tokens = list(self.tokens)
        width = len(parents) // len(self._groups)
        for number, group in enumerate(self._groups):
            if group.done:
                continue
            members = range(number * width, (number + 1) * width)
            own, before = [logits[beam] for beam in members], [self.tokens[beam] for beam in members]
            scores, candidates = self._best(own, before, chosen, group.wanted)
            if not self._found and (scores[:, 0] == -np.inf).all():
                raise nothing_allowed()
            origin, ids = group.advance(scores, candidates, before)
            for beam, parent, token in zip(members, origin, ids, strict=True):
                parents[beam] = members[int(parent)]
                tokens[beam] = [*self.tokens[parents[beam]], int(token)]
            chosen = np.concatenate([chosen, ids])
        self.tokens = tokens
        return parents

    def best(self) -> list[Hypothesis]:
        """The best hypotheses found so far, as many as were asked for if there are, best first.

        Where rules left nothing that could be chosen, what is open.
        """
        hypotheses = sorted(self._found, key=lambda hypothesis: -hypothesis.score)
        hypotheses = hypotheses or [Hypothesis(self.tokens[0], float(WORST))]
        answers = [Hypothesis(h.tokens[self._prompt_tokens :], h.score) for h in hypotheses]
        return answers[: self.settings.num_return_sequences]

    @property
    def _found(self) -> list[Hypothesis]:
        """The hypotheses that have ended."""
        return [hypothesis for group in self._groups for hypothesis in group.finished if hypothesis.tokens]

    def _best(
        self, logits: Sequence[np.ndarray], tokens: Sequence[Sequence[int]], chosen: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The `count` largest log-probabilities float32 [beams, count] after penalties and rules, and their tokens,
        from logits float32 [V] of beams with these tokens; `chosen`: what earlier groups have just chosen."""
        totals = np.array([log_sum_exp(each) for each in logits])
        check_finite(totals.sum())
        if self._sampler.plain and not self.settings.diversity_penalty:  # they can be seen before log-probabilities are
            ids = np.stack([largest(each, count) for each in logits])
            found = np.stack([each[places] for each, places in zip(logits, ids, strict=True)])
            return log_softmax(found, totals[:, None]), ids
        every = [self._penalised(*of_beam, chosen) for of_beam in zip(logits, totals, tokens, strict=True)]
        ids = np.stack([largest(scores, count) for scores in every])
        return np.stack([scores[places] for scores, places in zip(every, ids, strict=True)]), ids

    def _penalised(self, logits: np.ndarray, total: float, tokens: Sequence[int], chosen: np.ndarray) -> np.ndarray:
        """Log-probabilities float32 [V] after penalties and rules."""
        scores = log_softmax(logits, total)
        if penalty := self.settings.diversity_penalty:
            others, times = np.unique(chosen, return_counts=True)
            scores[others] -= np.float32(penalty) * times
        scores = self._sampler.scores(scores, tokens)
        if self.settings.renormalize_logits and np.isfinite(left := log_sum_exp(scores)):
            scores = log_softmax(scores, left)
        return scores


class _Group:
    """One beam search of `width` beams, as transformers' `_beam_search` does it for one prompt."""

    def __init__(self, beams: Beams, width: int, prompt_tokens: int, limit: int, stop_tokens: frozenset[int]) -> None:
        self._beams, self._prompt_tokens, self._limit = beams, prompt_tokens, limit
        self._stop = np.array(sorted(stop_tokens), np.int64)
        self._scores = np.full(width, WORST, np.float32)  # of the beams; at first all are the prompt, so one counts
        self._scores[0] = 0
        self.finished = [Hypothesis([], float(WORST))] * width  # best first
        self._improvable = self._open = True

    @property
    def done(self) -> bool:
        full = self._beams.early_stopping is True and all(h.tokens for h in self.finished)
        return full or not (self._improvable and self._open)

    @property
    def wanted(self) -> int:
        """How many continuations of each beam have to be looked at."""
        return max(2, 1 + len(self._stop)) * len(self._scores)

    def advance(
        self, scores: np.ndarray, candidates: np.ndarray, tokens: Sequence[list[int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(beam continued, token added), each int [width], from each beam's best log-probabilities float32 [width, n]
        and their tokens."""
        width = len(scores)
        length = len(tokens[0]) + 1
        totals = (scores + self._scores[:, None]).ravel()
        places = largest(totals, self.wanted)
        totals, origin, ids = totals[places], places // scores.shape[1], candidates.ravel()[places]
        stopped = (ids[:, None] == self._stop).any(axis=1)
        ended = stopped | (length >= self._limit)
        answer = length - self._prompt_tokens
        counted = ended[:width] & (totals[:width] > WORST / 2)  # those further down are only there to go on with
        for rank in np.flatnonzero(counted):
            score = float(totals[rank] / np.float32(answer**self._beams.length_penalty))
            self._finish(Hypothesis([*tokens[origin[rank]], int(ids[rank])], score))
        running = totals + stopped * WORST
        beams = largest(running, width)
        self._scores = running[beams]
        self._open = not ended.all()
        self._improvable = self._may_improve(answer)
        return origin[beams], ids[beams]

    def _finish(self, hypothesis: Hypothesis) -> None:
        """Keep it if it is among the best; one that came earlier stays before an equal one."""
        ranked = sorted([*self.finished, hypothesis], key=lambda h: -h.score)
        self.finished = ranked[: len(self.finished)]

    def _may_improve(self, answer: int) -> bool:
        """Whether the best open beam could still become better than the worst finished hypothesis."""
        penalty = self._beams.length_penalty
        if self._beams.early_stopping == "never" and penalty > 0:
            answer = self._limit - self._prompt_tokens
        return bool(self._scores[0] / np.float32(answer**penalty) > np.float32(self.finished[-1].score))
