"""Linear kernels and the executor."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy
from numpy.typing import NDArray


def isa() -> str:
    """The instruction set in use: one of isas()."""

def isas() -> list[str]:
    """
    The instruction sets that this process can run, the one to prefer first; "scalar" is the last.
    """

class Weight:
    """A validated weight [rows, cols] that reads its arrays in place."""

    @staticmethod
    def dense(values: Annotated[NDArray, dict(writable=False)], scale: Annotated[NDArray, dict(writable=False)] | None = None) -> Weight:
        """
        From values [rows, cols]: float32, uint16 (bits of bfloat16) or int8 with a float32 scale [rows].
        """

    @staticmethod
    def masked(encoding: str, rows: int, cols: int, values: Annotated[NDArray, dict(writable=False)], mask: Annotated[NDArray, dict(writable=False)], offsets: Annotated[NDArray, dict(writable=False)], scale: Annotated[NDArray, dict(writable=False)] | None = None) -> Weight:
        """
        From the tensors of an encoding with a mask; `values` includes its 64 bytes of padding.

        encoding: bitmask, block1x4 (four weights along a row per bit; the mask is uint16) or block4x1 (four rows per bit).
        """

    @staticmethod
    def int4(rows: int, cols: int, values: Annotated[NDArray, dict(writable=False)], scale: Annotated[NDArray, dict(writable=False)], group: int, mask: Annotated[NDArray, dict(writable=False)] | None = None, offsets: Annotated[NDArray, dict(writable=False)] | None = None) -> Weight:
        """
        From the tensors of an int4 weight with a scale per row and `group` columns.

        With a mask and offsets it is a bitmask.
        """

    @staticmethod
    def slots(rows: int, cols: int, values: Annotated[NDArray, dict(writable=False)], scale: Annotated[NDArray, dict(writable=False)], keep: int = 0, steps: Annotated[NDArray, dict(writable=False)] | None = None, group: int = 0) -> Weight:
        """
        From the tensors of the slots encoding: int8, or int4 with a scale per row and `group` columns.

        keep: 4, 8 or 12 of every 16 columns; or steps: uint8 [ceil(rows/16), ceil(cols/16)], how many each window has.
        """

    def in_slots(self) -> Weight | None:
        """
        A copy of an int8 or int4 weight in slots; None for others. Raises MemoryError.
        """

    def in_dense(self) -> Weight | None:
        """
        A copy of an int8 or int4 bitmask with its zeros written out; None for other weights. Raises MemoryError.
        """

    @property
    def rows(self) -> int: ...

    @property
    def cols(self) -> int: ...

    @property
    def encoding(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def nonzeros(self) -> int:
        """How many values are not zero; dense weights are counted anew."""

    @property
    def stored(self) -> int:
        """
        How many values kernels go through: all of a dense weight, of slots the empty ones too.
        """

    @property
    def form(self) -> str:
        """
        Of slots what begins where its nonzeros do: all rows of `tiles`, `strips` of four, or `wide` ones of 32 columns.
        """

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""

    @property
    def reordered_bytes(self) -> int: ...

    def reorder(self) -> bool:
        """
        Works out once what the algorithm spmm_rows otherwise does in each call, for executors made afterwards.

        Keeps it in `reordered_bytes`, about 2.5 bytes per nonzero. False, and nothing kept, where the instruction set in use has
        no such kernel for this weight. Raises MemoryError.
        """

    def kernels(self, isa: str | None = None) -> list[str]:
        """
        The algorithms that can multiply this weight: gemv, gemm, spmm_tokens, spmm_rows, slots.
        """

    def matmul(self, x: Annotated[NDArray, dict(writable=False)], threads: int = 1, isa: str | None = None, kernel: str | None = None) -> Annotated[NDArray[numpy.float32], dict(shape=(None, None))]:
        """
        x [tokens, cols] float32 times the transposed weight: [tokens, rows] float32.

        isa: one of isas(); kernel: one of kernels(isa), by default the cheapest.
        """

    def time(self, tokens: int, kernel: str, isa: str | None = None, repeats: int = 3) -> float:
        """Seconds that the kernel takes on one thread: the best of `repeats`."""

    def to_dense(self) -> NDArray:
        """
        The stored values with their zeros, [rows, cols]; codes (int8) for int8 and int4.
        """

def log_sum_exp(x: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], isa: str | None = None) -> float:
    """The logarithm of the sum of e to the power of each of float32 [V]."""

def largest(values: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], count: int, isa: str | None = None) -> Annotated[NDArray[numpy.int64], dict(shape=(None,))]:
    """
    Places int64 of the `count` largest of values float32 [V], the largest first; of equal ones the first first.

    Where a value is NaN they may be others.
    """

class Costs:
    """
    What linears cost on this machine (docs/engine.md), and which kernel is cheapest.
    """

    def __init__(self, constants: Mapping[str, tuple[float, float, float, float, float]] = {}, bandwidth: tuple[float, float] | None = None, isa: str | None = None, processor: str | None = None) -> None:
        """
        The built-in costs of the instruction set, replaced where given.

        constants: by names like "gemv bitmask i8", picoseconds of one thread per (position, nonzero, product, listed, output);
        bandwidth: bytes per second of (one, all) threads. Raises ValueError for an unknown kernel or a constant that is negative
        or not finite. processor: "zen4", "intel" or "other", the one at hand where none is named.
        """

    @property
    def constants(self) -> dict[str, tuple[float, float, float, float, float]]: ...

    @property
    def bandwidth(self) -> tuple[float, float]: ...

    @property
    def isa(self) -> str: ...

    def work(self, kernel: str, encoding: str, dtype: str, rows: int, cols: int, nonzeros: int, tokens: int, form: str = 'tiles') -> tuple[float, float, float, float, float]:
        """What the kernel's constants multiply, in their order."""

    def seconds(self, kernel: str, encoding: str, dtype: str, rows: int, cols: int, nonzeros: int, tokens: int, threads: int = 1, reordered: int = 0, form: str = 'tiles') -> float:
        """
        Predicted; infinite for a kernel nobody measured. reordered: the weight's reordered_bytes; form: its form.
        """

    def choose(self, encoding: str, dtype: str, rows: int, cols: int, nonzeros: int, tokens: int, reordered: int = 0, threads: int = 1) -> str:
        """
        The cheapest kernel; threads count where the weight has been reordered.
        """

def default_threads(root: str = '/') -> int:
    """
    CPUs this process may use: its affinity mask, less if a control group grants it less time; at least 1.

    root: where /proc and /sys are looked for.
    """

def cache_bytes(cache: dict) -> int:
    """What an executor's cache takes, given as for Executor."""

def op_fields() -> dict[str, list[tuple[str, str]]]:
    """
    The fields (name, role) of every kind of op that an executor runs, by kind, in their order.

    Roles: "buffer_in", "buffer_out", "weight" and "vector" name one by its index, "buffers_in", "buffers_out" and "weights"
    several; those that begin with "optional_" may be -1, for none ("optional_buffer_in", "optional_vector", each of
    "optional_vectors"), or "none" ("optional_activation"). "integer" and "integers", "number" and "activation" ("silu",
    "gelu", "gelu_tanh", "relu") hold what they say.
    """

class Executor:
    """
    Runs a plan on ragged batches.

    Owns its activations, KV cache and threads; executors share nothing but weights. Raises ValueError, naming the op, for a
    plan that could leave its buffers, and MemoryError.
    """

    def __init__(self, ops: Sequence, buffers: Sequence, weights: Sequence, vectors: Sequence, *, threads: int, max_tokens: int, max_logits: int, cache: dict | None, isa: str | None = None, costs: Costs | None = None, memory: Executor | None = None) -> None:
        """
        ops: list of dict (op_fields and "kind"); buffers: list of (offset, width, "T" | "R"); weights: list of Weight.

        vectors: list of float32 [n] arrays (copied); threads: includes the caller's; max_tokens, max_logits: bounds of one step;
        cache: dict(layers, kv_heads, head_dim, block_size, blocks, dtype "f32" | "bf16" | "i8") or None, block_size a multiple of
        16, no layers: only the dtype matters, to self_attention; isa: one of isas(); costs: choose the kernels, by default the built-in ones; memory: the executor whose cache
        cross_attention attends to, which must not step or copy blocks meanwhile.
        """

    def step(self, tokens: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], positions: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], sequences: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], block_tables: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu', writable=False)], logits_rows: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], profile: bool = False, memory_tables: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None = None, memory_lengths: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, features: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None = None, attention_of: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None = None, adapters: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None) -> Annotated[NDArray[numpy.float32], dict(shape=(None, None))]:
        """
        One forward pass; returns logits float32 [R, vocabulary], or the rows of an output.

        tokens, positions, sequences: int32 [T]; block_tables: int32 [S, B]; logits_rows: int32 [R]. For a plan with
        cross_attention memory_tables: int32 [S, M], blocks of the memory, and memory_lengths: int32 [S]. features: float32
        [T, width] for a plan with an input. attention_of: int32 [P, 2], layers and heads of cross attention for
        attention_weights. adapters: int32 [S], the adapter of each sequence's low_rank ops, -1 for none. Releases the GIL.
        Raises ValueError before computing anything if an index is out of range, RuntimeError if another thread is in a step of
        this executor or the process was forked.
        """

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copies blocks of the cache in every layer: (from, to), in order."""

    @property
    def threads(self) -> int: ...

    @property
    def arena_bytes(self) -> int:
        """Bytes of activations and scratch."""

    @property
    def cache_bytes(self) -> int: ...

    @property
    def attention_weights(self) -> object:
        """
        float32 [P, T, keys]: what the heads of the last step's attention_of gave to each entry of the memory.
        """

    @property
    def profile(self) -> list[float]:
        """Seconds per op of the last step with profile=True."""

def read_bandwidth(threads: int = 1, megabytes: int = 512, repeats: int = 6) -> float:
    """
    Bytes per second at which `threads` threads together read a buffer of so many megabytes, in huge pages where there are any, again and again; the best of `repeats` passes. What fits into a cache is read from there.
    """
