"""Features, positions and unfolding, as speech's encoders read them: every instruction set and number of threads."""

import numpy as np
import pytest

from .executor_plans import ISAS, Plan, batch


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "i8"])
def test_features_positions_and_unfold(rng, isa, threads, dtype):
    lengths = [7, 1, 300]
    count = sum(lengths)
    features = rng.standard_normal((count, 21)).astype(np.float32)
    plan = Plan()
    x = plan.emit("input", 21)
    table = plan.random_weight(rng, 310, 21, dtype)
    moved = plan.emit("add_positions", 21, x=x, weight=table)
    plan.show(plan.emit("unfold", 84, xs=[moved, x, x, moved], shifts=[-1, 0, 2, -2]))
    executor = plan.executor(isa=isa, threads=threads, max_tokens=count, max_logits=count)
    tokens, positions, sequences = batch(lengths)
    tables = np.zeros((3, 0), np.int32)
    actual = executor.step(tokens, positions, sequences, tables, tokens, features=features)
    expected = features + plan.matrices[table][0].astype(np.float32)[positions]
    for start, length in zip(np.cumsum(lengths) - lengths, lengths, strict=True):
        rows = slice(start, start + length)
        parts = []
        for source, shift in [(expected, -1), (features, 0), (features, 2), (expected, -2)]:
            padded = np.pad(source[rows], ((2, 2), (0, 0)))
            parts.append(padded[2 + shift : 2 + shift + length])
        np.testing.assert_allclose(actual[rows], np.concatenate(parts, 1), rtol=1e-6, atol=1e-6)
    for given, message in [
        ({}, "must have 21 columns, not 0"),
        ({"features": features[:, :20].copy()}, "must have 21 columns, not 20"),
        ({"features": features[:5]}, "a row per token"),
        ({"features": features, "attention_of": np.zeros((1, 2), np.int32)}, "attention_of"),
    ]:
        with pytest.raises(ValueError, match=message):
            executor.step(tokens, positions, sequences, tables, tokens, **given)
    with pytest.raises(ValueError, match=r"positions\[307\] is 310"):
        executor.step(tokens, positions + np.int32(11), sequences, tables, tokens, features=features)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("input", {"out": 9}, "buffer 9"),
        ("add_positions", {"weight": 5}, "weight 5"),
        ("add_positions", {"out": 0}, "overlaps x"),
        ("add_positions", {"out": 2}, "differs in width"),
        ("unfold", {"xs": [0]}, "lists of one length"),
        ("unfold", {"xs": [], "shifts": []}, "not empty"),
        ("unfold", {"xs": [0, 9]}, "buffer 9"),
        ("unfold", {"xs": [0, 2]}, "before anything is written"),
        ("unfold", {"shifts": [2**40, 0]}, "too large"),
        ("unfold", {"out": 1}, "instead of 16"),
    ],
)
def test_plans_of_features_that_are_refused(rng, kind, change, message):
    plan = Plan()
    x = plan.emit("input", 8)
    moved = plan.emit("add_positions", 8, x=x, weight=plan.random_weight(rng, 5, 8))
    plan.show(plan.emit("unfold", 16, xs=[x, moved], shifts=[0, 1]))
    op = next(op for op in plan.ops if op["kind"] == kind)
    op.update(change)
    with pytest.raises(ValueError, match=rf"\({kind}\): .*{message}"):
        plan.executor()
