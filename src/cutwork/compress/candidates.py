"""What a linear may become: a pattern, a fraction of zeros, and a number format."""

from dataclasses import dataclass

from cutwork.errors import CutworkError
from cutwork.prune.pattern import Pattern
from cutwork.prune.rates import pattern_of
from cutwork.recipe import Scheme


@dataclass(frozen=True)
class Candidate:
    """One way to store a linear. `scheme` None is bfloat16; a `sparsity` of 0 leaves every weight."""

    pattern: str = "unstructured"
    sparsity: float = 0.0
    scheme: Scheme | None = None

    @property
    def label(self) -> str:
        """Its name in reports, which `parse` reads: "4:16 w4a16", "adaptive-75 w8a8", "60 bf16", "dense w8a8"."""
        rate = f"{100 * self.sparsity:g}"
        zeros = {"unstructured": rate, "adaptive": f"adaptive-{rate}"}.get(self.pattern, self.pattern)
        return f"{zeros if self.sparsity else 'dense'} {self.scheme or 'bf16'}"

    def fits(self, rows: int, columns: int) -> bool:
        """Whether a weight [rows, columns] can have the pattern."""
        try:
            self.as_pattern().check(rows, columns)
        except CutworkError:
            return False
        return True

    def as_pattern(self) -> Pattern:
        """The pattern that a pruner takes."""
        return pattern_of(self.pattern, self.sparsity)


ZEROS = (
    *(("unstructured", rate) for rate in (0.0, 0.5, 0.6, 0.7, 0.8)),
    ("8:16", 0.5),
    ("4:16", 0.75),
    *(("adaptive", rate) for rate in (0.5, 0.625, 0.75)),
)
SCHEMES: tuple[Scheme | None, ...] = (None, "w8a8", "w4a16")
CANDIDATES = tuple(Candidate(pattern, rate, scheme) for pattern, rate in ZEROS for scheme in SCHEMES)
DENSE = CANDIDATES[0]
_BY_LABEL = {candidate.label: candidate for candidate in CANDIDATES}


def parse(label: str) -> Candidate:
    """The candidate of a label."""
    return _BY_LABEL[label]
