"""What runs the plan, the native module or the reference in NumPy, and what the engine asks of either."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, Protocol, TypeVar, cast

import numpy as np

from cutwork.errors import CutworkError
from cutwork.pack.record import Encoding
from cutwork.plan.layout import Span

log = logging.getLogger("cutwork.engine")
BackendName = Literal["auto", "native", "reference"]


class Weight(Protocol):
    """A matrix [rows, cols] as the kernels read it."""

    @property
    def rows(self) -> int:
        """Outputs of the linear layer."""

    @property
    def cols(self) -> int:
        """Inputs of the linear layer."""

    @property
    def nonzeros(self) -> int:
        """Stored values that are not zero."""

    @property
    def nbytes(self) -> int:
        """Bytes that are read to use all of it."""

    @property
    def encoding(self) -> str:
        """As in `pack.record`."""

    @property
    def dtype(self) -> str:
        """As in `pack.record`."""

    @property
    def reordered_bytes(self) -> int:
        """Bytes of the second order for many tokens; 0 without one."""

    def reorder(self) -> bool:
        """Lay it out for many tokens too; whether that is of use. Raises MemoryError."""


class TimedWeight(Weight, Protocol):
    """A weight of the native module, which tells what its kernels take."""

    @property
    def stored(self) -> int:
        """How many values kernels go through."""

    @property
    def form(self) -> str:
        """Of slots: in tiles, strips or wide strips."""

    def kernels(self) -> Sequence[str]:
        """Names of the kernels that can multiply it."""

    def in_slots(self) -> "TimedWeight | None":
        """A copy of an int8 or int4 weight in slots."""

    def in_dense(self) -> "TimedWeight | None":
        """A copy of an int8 or int4 bitmask with its zeros written out."""

    def time(self, tokens: int, kernel: str, *, repeats: int = ...) -> float:
        """Seconds of the quickest of so many runs."""


Weight_co = TypeVar("Weight_co", covariant=True)


class WeightType(Protocol[Weight_co]):
    """Makes weights over the packed format's arrays; ValueError for what a kernel must not trust."""

    def dense(self, values: np.ndarray, scale: np.ndarray | None = None) -> Weight_co:
        """From float32, bfloat16 bits (uint16) or int8 [rows, cols]."""

    def masked(
        self,
        encoding: Encoding,
        rows: int,
        cols: int,
        values: np.ndarray,
        mask: np.ndarray,
        offsets: np.ndarray,
        scale: np.ndarray | None = None,
    ) -> Weight_co:
        """In an encoding that has a mask."""

    def int4(
        self,
        rows: int,
        cols: int,
        values: np.ndarray,
        scale: np.ndarray,
        group: int,
        mask: np.ndarray | None = None,
        offsets: np.ndarray | None = None,
    ) -> Weight_co:
        """Dense, or with a mask and offsets as a bitmask."""

    def slots(
        self,
        rows: int,
        cols: int,
        values: np.ndarray,
        scale: np.ndarray,
        keep: int = 0,
        steps: np.ndarray | None = None,
        group: int = 0,
    ) -> Weight_co:
        """Int8, or with a group int4, in slots."""


class Executor(Protocol):
    """A plan bound to weights, with its arena and KV cache."""

    @property
    def arena_bytes(self) -> int:
        """Bytes of the activations' arena."""

    @property
    def cache_bytes(self) -> int:
        """Bytes of the KV cache."""

    @property
    def profile(self) -> Sequence[float]:
        """Seconds that each op of the last step with `profile` took."""

    @property
    def attention_weights(self) -> np.ndarray:
        """Attention weights float32 [P, T, longest memory] of the last step's `attention_of`."""

    def step(
        self,
        tokens: np.ndarray,
        positions: np.ndarray,
        sequences: np.ndarray,
        block_tables: np.ndarray,
        logits_rows: np.ndarray,
        profile: bool = ...,
        memory_tables: np.ndarray | None = ...,
        memory_lengths: np.ndarray | None = ...,
        features: np.ndarray | None = ...,
        attention_of: np.ndarray | None = ...,
        adapters: np.ndarray | None = ...,
    ) -> np.ndarray:
        """Run the plan on one ragged batch (docs/engine.md); logits float32 [R, vocabulary]."""

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy cache blocks, all layers: (from, to)."""


class ExecutorType(Protocol):
    """Makes executors; ValueError for a plan that would leave its buffers, weights or cache."""

    def __call__(
        self,
        ops: Sequence[Mapping[str, Any]],
        buffers: Sequence[Span],
        weights: Sequence[Any],
        vectors: Sequence[np.ndarray],
        *,
        threads: int,
        max_tokens: int,
        max_logits: int,
        cache: dict[str, Any],
        costs: Any = ...,
        memory: Any = ...,
    ) -> Executor:
        """cache: layers, kv_heads, head_dim, block_size, blocks, dtype. memory: the encoder's executor."""


class Costs(Protocol):
    """What kernels cost on this machine, by which they are chosen."""

    @property
    def isa(self) -> str:
        """The instruction set that these are the costs of."""

    def choose(
        self,
        encoding: str,
        dtype: str,
        rows: int,
        cols: int,
        nonzeros: int,
        tokens: int,
        reordered: int = ...,
        threads: int = ...,
    ) -> str:
        """The quickest kernel's name."""

    def seconds(
        self,
        kernel: str,
        encoding: str,
        dtype: str,
        rows: int,
        cols: int,
        nonzeros: int,
        tokens: int,
        threads: int,
        reordered: int = ...,
        form: str = ...,
    ) -> float:
        """How long a kernel should take."""

    def work(
        self, kernel: str, encoding: str, dtype: str, rows: int, cols: int, nonzeros: int, tokens: int, form: str = ...
    ) -> Sequence[float]:
        """What the constants are multiplied with."""


class Backend(Protocol):
    """A module that runs plans."""

    @property
    def Weight(self) -> WeightType[Weight]:
        """The class of its weights."""

    @property
    def Executor(self) -> ExecutorType:
        """The class of its executors."""

    def isa(self) -> str:
        """The instruction set in use."""

    def default_threads(self) -> int:
        """CPUs that this process may use."""

    def cache_bytes(self, cache: dict[str, Any], /) -> int:
        """Bytes of an executor's cache of keys and values, given as for `Executor`."""

    def log_sum_exp(self, logits: np.ndarray, /) -> float:
        """See `decoding.logits`."""

    def largest(self, values: np.ndarray, count: int, /) -> np.ndarray:
        """See `decoding.logits`."""


def choose(name: BackendName) -> Backend:
    """The backend of a name.

    "auto" is native, unless the environment variable CUTWORK_REFERENCE is set to something else than 0. Raises
    CutworkError if the native module was not built for this installation.
    """
    if name not in ("auto", "native", "reference"):
        raise CutworkError(f"backend must be auto, native or reference, not {name!r}")
    if name == "reference" or (name == "auto" and os.environ.get("CUTWORK_REFERENCE", "0") not in ("", "0")):
        from cutwork.engine.reference import executor as reference

        return reference
    return native()


def threads_for(backend: Backend, wanted: int) -> int:
    """So many threads, or for 0 one for each CPU that this process may use; that more are slower is said once."""
    cpus = int(backend.default_threads())
    if wanted > cpus and hasattr(backend, "Costs"):  # the reference has nothing to do with them
        _warn(wanted, cpus)
    return wanted or cpus


@cache
def _warn(threads: int, cpus: int) -> None:
    log.warning(
        "%d threads are slower than %d, as this process may use no more CPUs than that; threads 0 takes them all",
        threads,
        cpus,
    )


class NativeBackend(Backend, Protocol):
    """What the native module has beyond what runs plans."""

    __file__: str | None

    @property
    def Weight(self) -> WeightType[TimedWeight]:
        """Of weights that can be timed."""

    @property
    def Costs(self) -> Callable[..., Costs]:
        """Makes costs: the built-in ones, or (constants, bandwidth, isa)."""

    def read_bandwidth(self, threads: int, megabytes: int = ..., repeats: int = ...) -> float:
        """Bytes per second that so many threads read."""


def native() -> NativeBackend:
    """The native module. Raises CutworkError if it was not built for this installation."""
    try:
        from cutwork import _native
    except ImportError as error:
        raise CutworkError(
            f"the native module cannot be loaded ({error}); reinstall cutwork, or run slowly with CUTWORK_REFERENCE=1"
        ) from None
    return cast(NativeBackend, _native)  # whose stub says less than the protocols here of what arrays hold


@cache
def quickest() -> Backend:
    """The native module where there is one: for what is alike whichever runs the plan."""
    try:
        return native()
    except CutworkError:
        return choose("reference")
