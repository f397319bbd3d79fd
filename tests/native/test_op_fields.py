"""Each op is declared once in C++: what it is read by, checked by and described by are the same fields."""

import numpy as np
import pytest

from cutwork import _native

from .executor_plans import Plan, Sequence, cache_for, llama, run_batch

ROLES = {
    "buffer_in": 0,
    "optional_buffer_in": -1,
    "buffers_in": [0],
    "buffer_out": 0,
    "buffers_out": [0],
    "weight": 0,
    "weights": [0],
    "vector": 0,
    "optional_vector": -1,
    "optional_vectors": [-1],
    "integer": 1,
    "integers": [0],
    "number": 1.0,
    "activation": "silu",
    "optional_activation": "none",
}


def refused(op):
    plan = Plan(ops=[op], buffers=[(0, 16, "T")])
    with pytest.raises(ValueError) as error:
        plan.executor()
    before, _, problem = str(error.value).partition(": ")
    assert not problem or before == f"op 0 ({op['kind']})"
    return problem  # empty: this op is right, but the plan has no result


@pytest.mark.parametrize(("kind", "fields"), _native.op_fields().items())
def test_every_field_is_wanted_and_no_other(kind, fields):
    op = {"kind": kind} | {name: ROLES[role] for name, role in fields}
    assert not refused(op).startswith("has ")  # it is read, and then what it says is wrong
    assert refused({**op, "other": 1}) == "has a field that its kind does not know"
    for name, role in fields:
        assert refused({k: v for k, v in op.items() if k != name}) == f"has no '{name}'"
        if "activation" not in role:
            assert refused({**op, name: "1"}).startswith(f"'{name}' must be ")
        else:
            assert refused({**op, name: "tanh"}) == "knows no activation 'tanh'"
            assert ("knows no activation" in refused({**op, name: "none"})) == (role == "activation")


def test_kinds_and_roles():
    fields = _native.op_fields()
    assert fields["unfold"] == [("xs", "buffers_in"), ("shifts", "integers"), ("out", "buffer_out")]
    assert {role for each in fields.values() for _, role in each} == set(ROLES)


def test_a_step_without_attention_of_leaves_no_weights():
    plan = llama(np.random.default_rng(0))
    executor = plan.executor(cache=cache_for(plan))
    run_batch(executor, [(Sequence(np.arange(3, dtype=np.int32), [0]), 3)])
    assert executor.attention_weights.shape == (0, 3, 0)
