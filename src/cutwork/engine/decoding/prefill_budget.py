"""How many prompt tokens a step may take in while others' answers are streaming, and whose."""

from collections.abc import Sequence

from cutwork.engine.decoding.running import Running

LEAST = 32  # prompt tokens in a step: long prompts always make progress
FIRST = 128  # before anything was timed
SMOOTHING = 0.2


class PrefillBudget:
    """Keeps steps near `target` seconds while sequences decode, from how long steps took so far.

    A step that only decodes tells what decoding costs; what prompt tokens add to it is told by the others. Without
    decoding sequences nobody waits, and a step may be as long as it likes; so it may with a target of 0.
    """

    def __init__(self, target: float) -> None:
        self.target = target
        self._decode: float | None = None  # seconds of a step without prompts
        self._token: float | None = None  # seconds that one prompt token adds

    def tokens(self, decoding: int, limit: int) -> int:
        """Prompt tokens for a step in which `decoding` sequences decode, at most `limit`."""
        if not decoding or not self.target:
            return limit
        if self._token is None:
            return min(limit, FIRST)
        room = max(self.target - (self._decode or 0.0), 0.0)
        return max(min(limit, LEAST), min(limit, int(room / max(self._token, 1e-9))))

    def note(self, decoding: int, prompt: int, seconds: float) -> None:
        """A step of `decoding` decoded and `prompt` prompt tokens took so long."""
        if not prompt:
            self._decode = _smooth(self._decode, seconds)
        elif prompt >= LEAST or self._token is None:
            rest = seconds - (self._decode or 0.0) * bool(decoding)
            self._token = _smooth(self._token, max(rest, 0.0) / prompt)


def share(running: Sequence[Running], budget: int) -> list[tuple[Running, int]]:
    """(sequence, how many of its pending tokens) for a step that takes in so many of prompts; `running`: oldest first.

    By priority; among equals half goes to the oldest, so that it comes to its end, and the rest to whoever needs least,
    so that a short prompt does not wait for a long one.
    """
    prompts = sorted((s for s in running if s.pending > 1), key=lambda s: s.priority)  # stable: by age among equals
    if not prompts or budget < 1:
        return []
    oldest = prompts[0]
    kept = min(oldest.pending, (budget + 1) // 2)
    budget -= kept
    counts = dict.fromkeys(prompts, 0) | {oldest: kept}
    for sequence in sorted(prompts, key=lambda s: (s.priority, s.pending)):
        more = min(sequence.pending - counts[sequence], budget)
        counts[sequence] += more
        budget -= more
    return [(sequence, count) for sequence, count in counts.items() if count]


def passes(sequence: Running, other: Running) -> bool:
    """Whether `share` gives tokens to one that comes before it does to another that runs."""
    return (sequence.priority, sequence.pending) < (other.priority, other.pending)


def _smooth(before: float | None, now: float) -> float:
    return now if before is None else before + SMOOTHING * (now - before)
