"""How far a fraction of right answers may be from what it would be over all questions."""

from math import sqrt

_Z = 1.959964  # of a normal distribution's middle 95%


def wilson(right: int, samples: int) -> tuple[float, float]:
    """Wilson's 95% interval of a fraction, which it holds whatever is rounded."""
    fraction, spread = right / samples, _Z * _Z / samples
    middle = fraction + spread / 2
    half = _Z * sqrt(fraction * (1 - fraction) / samples + spread / (4 * samples))
    low, high = (middle - half) / (1 + spread), (middle + half) / (1 + spread)
    return max(0.0, min(low, fraction)), min(1.0, max(high, fraction))
