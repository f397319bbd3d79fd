"""All that a model's linears and head may become, with milliseconds, bytes and error, and choices of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cutwork.compress.candidates import DENSE, SCHEMES, Candidate, parse
from cutwork.compress.milliseconds import Steps
from cutwork.compress.solve import Option, Solver

HEAD = "head"  # the part that is no linear of a block
HEADS = tuple(replace(DENSE, scheme=scheme) for scheme in SCHEMES)


@dataclass(frozen=True)
class Offer:
    """A candidate of one part: milliseconds per step, bytes, and the KL divergence it adds, in nats per token."""

    label: str
    milliseconds: float
    nbytes: float
    kl: float


@dataclass(frozen=True)
class Choice:
    """A candidate's label for each part, and what they come to with all that is not chosen."""

    labels: dict[str, str]
    milliseconds: float
    nbytes: float
    kl: float
    zeros: float  # of the linears
    speedup: float  # over the dense model in bfloat16

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class Menu:
    """The offers of every part, and what is paid in any case."""

    parts: Mapping[str, list[Offer]]
    shapes: Mapping[str, tuple[int, int]]
    other_milliseconds: float
    other_nbytes: float

    def choice(self, labels: Mapping[str, str]) -> Choice:
        """What a label for each part comes to."""
        chosen = {name: _of(self.parts[name], label) for name, label in labels.items()}
        milliseconds = self.other_milliseconds + sum(offer.milliseconds for offer in chosen.values())
        sizes = {name: rows * columns for name, (rows, columns) in self.shapes.items() if name != HEAD}
        zeros = sum(size * parse(labels[name]).sparsity for name, size in sizes.items()) / sum(sizes.values())
        return Choice(
            dict(labels),
            milliseconds,
            self.other_nbytes + sum(offer.nbytes for offer in chosen.values()),
            sum(offer.kl for offer in chosen.values()),
            zeros,
            self.dense_milliseconds / milliseconds,
        )

    def uniform(self, label: str, head: str = DENSE.label) -> Choice:
        """The same candidate for every linear that can have it; the others stay dense."""
        labels = {
            name: label if any(offer.label == label for offer in offers) else DENSE.label
            for name, offers in self.parts.items()
        }
        return self.choice(labels | ({HEAD: head} if HEAD in labels else {}))

    @property
    def dense_milliseconds(self) -> float:
        """Of a step of the model in bfloat16."""
        return self.other_milliseconds + sum(_of(offers, DENSE.label).milliseconds for offers in self.parts.values())

    def solver(self, of: str = "milliseconds", allowed: Callable[[Candidate], bool] = lambda _: True) -> "BestChoices":
        """The best choices by what is paid, "milliseconds" or "nbytes", among the candidates that are allowed."""
        parts = {name: [o for o in offers if allowed(parse(o.label))] for name, offers in self.parts.items()}
        return BestChoices(self, parts, of)


class BestChoices:
    """The choice of least error for every budget."""

    def __init__(self, menu: Menu, parts: Mapping[str, list[Offer]], of: str) -> None:
        self._menu, self._parts = menu, parts
        self._others = getattr(menu, f"other_{of}")
        self._solver = Solver([[Option(getattr(offer, of), offer.kl) for offer in offers] for offers in parts.values()])

    @property
    def least(self) -> float:
        """The smallest budget that can be kept."""
        return float(self._others + self._solver.cheapest)

    def within(self, budget: float) -> Choice | None:
        """The best for a budget; None if there is none."""
        found = self._solver.within(budget - self._others)
        if found is None:
            return None
        labels = {name: offers[i].label for (name, offers), i in zip(self._parts.items(), found, strict=True)}
        return self._menu.choice(labels)


def menu(errors: Mapping[str, Any], steps: Steps, plan_name: Callable[[str], str]) -> Menu:
    """From what the stage errors.json holds (see `compress.py`) and what steps take, which knows names of plans."""
    parts: dict[str, list[Offer]] = {}
    shapes: dict[str, tuple[int, int]] = {}
    for name, linear in errors["linears"].items():
        shapes[name] = linear["rows"], linear["columns"]
        prices = steps.head if name == HEAD else steps.linears[plan_name(f"{name}.weight")]
        parts[name] = [
            Offer(label, prices[label].milliseconds, prices[label].nbytes, kl) for label, kl in linear["kl"].items()
        ]
    return Menu(parts, shapes, steps.other.milliseconds, steps.other.nbytes)


def _of(offers: list[Offer], label: str) -> Offer:
    return next(offer for offer in offers if offer.label == label)
