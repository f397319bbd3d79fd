"""Prices that are the same in every call: a tiny model's steps are over before its weights matter."""

from collections.abc import Callable, Mapping
from typing import Any

from cutwork.compress import milliseconds, timing
from cutwork.compress.milliseconds import Price, Steps
from cutwork.compress.workshop import Workshop


def measure_once(put: Callable[[Any, str, Any], None]) -> None:
    """Measure as briefly as can be; `put` is setattr, or a monkeypatch's."""
    put(milliseconds, "_ROUNDS", (1, 1))
    put(milliseconds, "_LEAST_SECONDS", 0.0)
    put(timing, "_LEAST_SECONDS", 0.0)


def price_by_bytes(put: Callable[[Any, str, Any], None]) -> None:
    """Take what is smaller for quicker, and choices as they are priced."""
    measured = Steps.measured.__func__  # type: ignore[attr-defined]

    def of_bytes(cls: type[Steps], *arguments: Any, **options: Any) -> Steps:
        steps = measured(cls, *arguments, **options)

        def each(prices: Mapping[str, Price]) -> dict[str, Price]:
            return {label: Price(1e-6 * price.nbytes, price.nbytes) for label, price in prices.items()}

        linears = {name: each(prices) for name, prices in steps.linears.items()}
        return cls(linears, each(steps.head), Price(1e-3, steps.other.nbytes))

    put(Steps, "measured", classmethod(of_bytes))
    put(Workshop, "timed", lambda shop, choice: choice)
