"""Which cells there are. A run is one prefill of `batch` prompts and `decode` steps after it: two cells, one each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.common.shapes import SHAPES
from benchmarks.peers.engines import ENGINES, Engine

BANDWIDTH = "read bandwidth"
BATCH_CONTEXT = 64  # tokens of a sequence of a batch


@dataclass(frozen=True)
class Condition:
    """What all engines in `engines` do in turn."""

    shape: str
    threads: int
    prompt: int
    batch: int
    decode: int
    engines: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{self.shape}, {self.threads} threads, batch {self.batch}, prompt {self.prompt}"

    def seconds(self, engine: Engine) -> float:
        """About how long one run takes."""
        size = SHAPES[self.shape].weights / SHAPES["1.1b"].weights / (1 if self.threads == 1 else 1.7)
        prefill = self.batch * self.prompt / engine.prefill
        return size * (max(prefill, 1 / engine.decode) + self.decode / engine.decode * self.batch**0.6)


SINGLES = ((16, 32), (512, 16), (2048, 16))  # prompts, and the tokens decoded after them
BATCHES = (4, 16)
LONGEST = 2176  # tokens of a sequence


def conditions(shapes: Sequence[str], threads: Sequence[int], quick: bool) -> Iterator[Condition]:
    """In the order in which they are measured: what matters most first within a shape."""
    for shape in shapes:
        small = shape not in ("2.7b", "7b")
        for count in threads:
            yield from _of_shape(shape, count, small, quick)


def _of_shape(shape: str, threads: int, small: bool, quick: bool) -> Iterator[Condition]:
    peers = _named("llama.cpp", "OpenVINO", "CTranslate2", "onnxruntime-genai", "torch")
    strongest = tuple(n for n in _named("llama.cpp", "OpenVINO", "CTranslate2") if "BF16" not in n)
    if quick:
        for prompt, decode in SINGLES[:2]:
            yield Condition(shape, threads, prompt, 1, decode, (*_ours(8, 0, 0.75), *strongest))
        return
    if shape == "7b":
        for prompt, decode in SINGLES[:2]:
            yield Condition(shape, threads, prompt, 1, decode, (*_ours(8, 0.75), *_ours(4, 0.75), "llama.cpp Q4_0"))
        return
    # Where memory does not hold all at once, the first ones share it.
    fewest = (*_ours(8, 0.75, 0), "cutwork int8 75% ahead", *strongest, *_ours(4, 0.75))
    ahead = ("cutwork int8 50% ahead", "cutwork int8 90% ahead")
    few = (*fewest, *_ours(8, 0.5, 0.9), *ahead, *_ours(4, 0.5))
    everyone = tuple(dict.fromkeys((*few, *_ours(4, 0, 0.6), *_ours(8, 0.6, 0.7, 0.8), *peers)))
    (short, steps), (long, long_steps), (longest, longest_steps) = SINGLES
    yield Condition(shape, threads, short, 1, steps, everyone if small else few)
    yield Condition(shape, threads, long, 1, long_steps, everyone if small else few)
    if small:
        for batch in BATCHES:
            yield Condition(shape, threads, short, batch, 12, (*fewest, *ahead, "onnxruntime-genai int4"))
        lower = tuple(n for n, e in ENGINES.items() if e.isa == "avx2")
        yield Condition(shape, threads, short, 1, 24, lower)
        yield Condition(shape, threads, long, 1, 16, tuple(n for n in lower if "90%" not in n and "50%" not in n))
        if threads == 1:
            yield Condition(shape, threads, 4, 1, 3, tuple(n for n, e in ENGINES.items() if e.isa == "scalar"))
    if small or threads > 1:  # half a minute a run for the slowest, of which the prompt of 512 says enough
        slow = () if small and threads > 1 else ("llama.cpp Q8_0",) if small else ("llama.cpp Q8_0", "OpenVINO int4")
        yield Condition(shape, threads, longest, 1, longest_steps, tuple(n for n in fewest if n not in slow))


def _named(*families: str) -> tuple[str, ...]:
    return tuple(n for n, e in ENGINES.items() if e.family in families and e.isa == "native")


def _ours(bits: int, *sparsities: float) -> tuple[str, ...]:
    return tuple(f"cutwork int{bits} {sparsity:.0%}" for sparsity in sparsities)
