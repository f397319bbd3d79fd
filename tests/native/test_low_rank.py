"""Low-rank branches: for the rows of the sequences that have the adapter, and for no others."""

import numpy as np
import pytest

from .executor_plans import ISAS, Plan, multiply

COUNT, WIDTH, OUT = 40, 48, 1100  # more than a thread adds at a time, and no whole block


def close(actual, expected, tolerance=1e-5):
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


def adapted(rng, ranks, dtype="f32"):
    """A table of rows, y = W x, and a branch for each adapter; (plan, x, y, what each branch adds)."""
    plan = Plan()
    x = rng.standard_normal((COUNT, WIDTH)).astype(np.float32)
    source = plan.table(x)
    y = plan.buffer(OUT)
    weight = plan.random_weight(rng, OUT, WIDTH)
    plan.add("linear", x=source, outs=[y], weights=[weight], biases=[-1], residual=-1, activation="none")
    added = []
    for adapter, rank in enumerate(ranks):
        down = plan.random_weight(rng, rank, WIDTH, dtype)
        up = rng.standard_normal((rank, OUT)).astype(np.float32)
        low = plan.buffer(rank)
        plan.add("low_rank", x=source, y=y, low=low, down=down, up=plan.vector(up.reshape(-1)), adapter=adapter)
        added.append(multiply(x, plan.matrices[down]) @ up)
    plan.show(y)
    return plan, multiply(x, plan.matrices[weight]), added


def step(executor, sequences, adapters):
    """All rows; row t is token t of its sequence's table, whatever its position."""
    tokens = np.arange(COUNT, dtype=np.int32)
    starts = np.flatnonzero(np.diff(sequences, prepend=-1))
    positions = tokens - np.repeat(starts, np.diff([*starts, COUNT])).astype(np.int32)
    tables = np.full((sequences.max() + 1, 1), -1, np.int32)
    return executor.step(tokens, positions, sequences, tables, tokens, adapters=adapters)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("lengths", [[40], [1] * 40, [3, 1, 1, 20, 5, 10]])
def test_rows_get_their_own_adapter(isa, threads, lengths):
    rng = np.random.default_rng(len(lengths))
    plan, y, added = adapted(rng, [1, 4, 64])
    executor = plan.executor(isa=isa, threads=threads)
    sequences = np.repeat(np.arange(len(lengths)), lengths).astype(np.int32)
    for _ in range(4):
        adapters = rng.integers(-1, 3, len(lengths)).astype(np.int32)
        rows = adapters[sequences]
        expected = y + sum((rows == number)[:, None] * each for number, each in enumerate(added))
        close(step(executor, sequences, adapters), expected)
    nothing = np.full(len(lengths), -1, np.int32)
    assert np.array_equal(step(executor, sequences, None), step(executor, sequences, nothing))
    close(step(executor, sequences, None), y)


def refused(executor, adapters, message):
    with pytest.raises(ValueError, match=message):
        step(executor, np.zeros(COUNT, np.int32), adapters)


def test_adapters_of_a_step_are_checked():
    executor = adapted(np.random.default_rng(0), [4, 4])[0].executor()
    refused(executor, np.array([2], np.int32), r"adapters\[0\] is 2, which is not -1 or below 2")
    refused(executor, np.array([-2], np.int32), r"adapters\[0\] is -2")
    refused(executor, np.array([0, 0], np.int32), "an entry per row of block_tables")
    with pytest.raises(TypeError):
        step(executor, np.zeros(COUNT, np.int32), np.array([0], np.int64))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("x", 4, "names buffer 4 of 4"),
        ("y", 0, "x and y overlap"),
        ("y", 2, "names buffer 2 before"),
        ("low", 0, "overlaps an input|taken over"),
        ("low", 1, "overlaps an input"),
        ("down", 1, r"weight 1 is \[1100, 48\]"),
        ("down", 0, r"weight 0 is \[40, 48\]"),
        ("up", 99, "up names vector 99"),
        ("up", 1, "up names vector 1 of 5 entries instead of 4400"),
        ("down", 99, "names weight 99"),
        ("adapter", -1, "adapter is -1"),
        ("adapter", 1024, "adapter is 1024"),
        ("adapter", 2**40, "adapter is"),
    ],
)
def test_what_leaves_its_buffers_is_refused(field, value, message):
    plan = adapted(np.random.default_rng(0), [4])[0]
    plan.vector(np.ones(5))
    next(op for op in plan.ops if op["kind"] == "low_rank")[field] = value
    with pytest.raises(ValueError, match=rf"\(low_rank\): .*({message})"):
        plan.executor()


def test_what_a_branch_leaves_between_its_matrices_is_not_read():
    """It is there in rows with the adapter alone."""
    plan = adapted(np.random.default_rng(0), [4])[0]
    place = next(i for i, op in enumerate(plan.ops) if op["kind"] == "low_rank")
    plan.emit("add", 4, x=plan.ops[place]["low"], y=plan.ops[place]["low"])
    plan.ops.insert(place + 1, plan.ops.pop())
    with pytest.raises(ValueError, match=r"\(add\): x names buffer \d+ before anything is written to it"):
        plan.executor()
