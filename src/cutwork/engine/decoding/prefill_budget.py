"""How many prompt tokens a step may take in while others' answers are streaming."""

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


def _smooth(before: float | None, now: float) -> float:
    return now if before is None else before + SMOOTHING * (now - before)
