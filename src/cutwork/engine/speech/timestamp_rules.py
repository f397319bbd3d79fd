"""What Whisper may write next: its grammar of times (arXiv 2212.04356, as transformers' logits processors have it)."""

from collections.abc import Sequence

import numpy as np

from cutwork.engine.speech.vocabulary import Vocabulary


class TimestampRules:
    """Changes the scores float32 [V] of a window's next token, in place; call it with the answer so far.

    times: whether times are written. last_first_time: the latest of them that may come first, as an index.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        suppressed: Sequence[int],
        blank: bool,
        times: bool,
        last_first_time: int | None,
    ) -> None:
        self._end, self._first_time, self._without = vocabulary.end, vocabulary.first_time, vocabulary.without_times
        self._suppressed = np.array(sorted(set(suppressed)), np.int64)
        self._first_suppressed = np.array(() if blank else vocabulary.suppressed_first, np.int64)
        self._times, self._last_first_time = times, last_first_time

    def __call__(self, scores: np.ndarray, answer: Sequence[int]) -> None:
        """Set what may not follow `answer` to -inf."""
        scores[self._suppressed] = -np.inf
        if not answer:
            scores[self._first_suppressed] = -np.inf
        if self._times:
            self._pair_times(scores, answer)
            self._prefer_times(scores)
        else:
            scores[self._first_time :] = -np.inf

    def _pair_times(self, scores: np.ndarray, answer: Sequence[int]) -> None:
        first = self._first_time
        scores[self._without] = -np.inf
        if not answer:
            scores[:first] = -np.inf
            if self._last_first_time is not None:
                scores[first + self._last_first_time + 1 :] = -np.inf
            return
        after_time = answer[-1] >= first
        opened = after_time and (len(answer) < 2 or answer[-2] >= first)
        if opened:  # text has to follow
            scores[first:] = -np.inf
        elif after_time:  # a segment has ended: the next begins or all is said
            scores[: self._end] = -np.inf
        latest = next((token for token in reversed(answer) if token >= first), None)
        if latest is not None:  # time does not run backwards, and stands still only between segments
            scores[first : latest + (not after_time or opened)] = -np.inf

    def _prefer_times(self, scores: np.ndarray) -> None:
        """A time is written where all times together are likelier than any other token."""
        text, times = scores[: self._first_time], scores[self._first_time :]
        likeliest = times.max()
        if np.isneginf(likeliest):
            return
        together = likeliest + np.log(np.exp(times - likeliest).sum(dtype=np.float64))
        if together > text.max():
            text[:] = -np.inf
