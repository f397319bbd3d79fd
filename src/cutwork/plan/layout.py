"""Where buffers live in the arena: two buffers may share memory if no op needs both."""

from collections.abc import Iterator, Sequence

from cutwork.plan.ops import Op

ALIGNMENT = 16  # floats: every buffer starts on a cache line
Span = tuple[int, int, str]  # offset and width in floats per token, rows "T" or "R"


def lifetimes(count: int, ops: Sequence[Op]) -> list[tuple[int, int]]:
    """For each of `count` buffers the first and the last op that touch it, both included: an op's outputs therefore
    never overlap its inputs. (-1, -1) if no op does."""
    first, last = [-1] * count, [-1] * count
    for index, op in enumerate(ops):
        for buffer in (*op.reads, *op.writes):
            first[buffer] = index if first[buffer] < 0 else first[buffer]
            last[buffer] = index
    return list(zip(first, last, strict=True))


def lay_out(buffers: Sequence[tuple[int, str]], ops: Sequence[Op]) -> list[Span]:
    """First fit in order of birth: each buffer takes the lowest gap among those alive at the same time.

    buffers: (width, rows) of each; returns their (offset, width, rows).
    """
    alive = lifetimes(len(buffers), ops)
    offsets = [0] * len(buffers)
    placed: list[int] = []
    for index in sorted(range(len(buffers)), key=lambda i: alive[i]):
        placed = [other for other in placed if alive[other][1] >= alive[index][0]]
        taken = sorted((offsets[other], offsets[other] + buffers[other][0]) for other in placed)
        offsets[index] = next(gap for gap in _starts(taken) if _fits(gap, buffers[index][0], taken))
        placed.append(index)
    return [(offset, width, rows) for offset, (width, rows) in zip(offsets, buffers, strict=True)]


def _starts(taken: list[tuple[int, int]]) -> Iterator[int]:
    """Candidate offsets from low to high; the last one always fits."""
    yield 0
    for end in sorted(end for _, end in taken):
        yield -(-end // ALIGNMENT) * ALIGNMENT


def _fits(start: int, width: int, taken: list[tuple[int, int]]) -> bool:
    return all(start + width <= low or high <= start for low, high in taken)
