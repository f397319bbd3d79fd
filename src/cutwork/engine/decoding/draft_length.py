"""How many tokens a draft model should guess so that most tokens are said per second: found by trying."""

from collections import defaultdict, deque
from dataclasses import dataclass, field
from statistics import median

EXPECTED = 0.8  # acceptance before anything was guessed
SMOOTHING = 0.05  # of the acceptance, per judged guess
# Another length becomes the best once each of its last TRIALS timed steps gained more than MARGIN over the present one.
TRIALS = 2
MARGIN = 1.03
# Steps from trial to trial: more while nothing better is found, fewer with more sequences.
SOONEST, LATEST = 16, 64
SELDOM = 512  # steps, while nothing is guessed: before a trial the draft model has to read all that was said meanwhile


@dataclass
class _Known:
    """What is known about decoding about so many sequences together. Places are indices in `DraftLength.lengths`."""

    best: int
    pause: int  # steps from trial to trial
    usual: deque[float] = field(default_factory=lambda: deque(maxlen=3))  # seconds of the last steps at `best`
    ratios: defaultdict[int, deque[float]] = field(  # of other places, by how much longer a step took there
        default_factory=lambda: defaultdict(lambda: deque(maxlen=TRIALS))
    )
    tried: int = -1  # place of the last trial
    again: bool = False  # whether that trial goes on
    wait: int = field(init=False)  # steps until the next

    def __post_init__(self) -> None:
        self.wait = self.pause


class DraftLength:
    """Chooses a number of guesses per sequence, from `longest` down by halves to none, for each step.

    With many sequences at once the target computes guesses no longer for free, and the draft model costs a step of its
    own for each: what pays depends on the machine, both models, how many sequences there are and how often guesses are
    right. Of k guesses, each right with probability a if those before it are, a + a² + … + a^k are expected to be. Now
    and then a step tries another length, the shortest first; how long it took is compared with the steps just before,
    since machines are not equally fast at all times.
    """

    def __init__(self, longest: int) -> None:
        self.lengths = sorted({longest >> halvings for halvings in range(longest.bit_length() + 1)})
        self.acceptance = EXPECTED
        self._known: dict[int, _Known] = {}  # by the logarithm of the number of sequences
        self._size = self._place = 0  # of the last step
        self._timed = False

    def choose(self, sequences: int) -> int:
        """Guesses for each of so many sequences in the step that comes."""
        size = (sequences - 1).bit_length()
        if size not in self._known:  # what does not pay with fewer does not with more
            useless = any(known.best == 0 for smaller, known in self._known.items() if smaller < size)
            self._settle(size, 0 if useless else len(self.lengths) - 1)
        now = self._known[size]
        self._size, self._place, self._timed = size, now.best, True
        now.wait -= 1
        if now.again:
            self._place, now.again = now.tried, False
        elif now.wait <= 0 and now.usual:
            now.wait = now.pause
            others = self._others(now)
            self._place = now.tried = next((place for place in others if place > now.tried), others[0])
            now.again = now.best == 0
            self._timed = not now.again
        return self.lengths[self._place]

    def note(self, guessed: int, accepted: int) -> None:
        """Of so many guesses for a sequence so many were right, until one was wrong."""
        for right in [1.0] * accepted + [0.0] * (accepted < guessed):
            self.acceptance += SMOOTHING * (right - self.acceptance)

    def took(self, seconds: float) -> None:
        """How long the step took for which a length was chosen, guesses included; ignored if none was."""
        timed, self._timed = self._timed, False
        if not timed:
            return
        now, place = self._known[self._size], self._place
        if place == now.best:
            now.usual.append(seconds)
            return
        now.ratios[place].append(seconds / median(now.usual))
        if now.best and place < max(self._others(now)):
            return  # the others have their turn first
        gains = {
            other: self._expected(other) / self._expected(now.best) / max(ratios)
            for other, ratios in now.ratios.items()
            if len(ratios) == TRIALS
        }
        if gains and max(gains.values()) > MARGIN:
            self._settle(self._size, max(gains, key=lambda other: gains[other]))
        elif gains:
            now.pause = max(now.pause, min(2 * now.pause, LATEST))

    def _settle(self, size: int, place: int) -> None:
        """Take a length for the best, and look for a better one again: soon where many sequences make guesses dear."""
        self._known[size] = _Known(place, max(2, SOONEST >> size) if place else SELDOM)

    def _others(self, now: _Known) -> list[int]:
        return [place for place in range(len(self.lengths)) if place != now.best]

    def _expected(self, place: int) -> float:
        """Tokens of a sequence per step."""
        return sum(self.acceptance**right for right in range(self.lengths[place] + 1))
