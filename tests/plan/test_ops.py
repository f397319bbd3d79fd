"""An op is declared once: what the native module says of it is what its class says."""

from cutwork import _native
from cutwork.engine.reference.executor import Executor
from cutwork.plan import ops


def test_the_native_module_reads_the_same_fields():
    native = {kind: [tuple(field) for field in fields] for kind, fields in _native.op_fields().items()}
    assert native == {kind: list(op.roles().items()) for kind, op in ops.OPS.items()}


def test_the_reference_runs_every_op():
    assert all(hasattr(Executor, f"_{kind}") for kind in ops.OPS)


def test_what_an_op_reads_and_writes_are_its_buffers():
    linear = ops.Linear(x=0, outs=[1, 2], weights=[5, 6], biases=[7, -1], residual=-1, activation="none")
    assert (linear.reads, linear.writes, linear.ids("weights")) == ([0], [1, 2], [5, 6])
    assert linear.ids("optional_vectors") == [7]
    assert ops.Linear(0, [1], [5], [-1], 3, "none").reads == [0, 3]
    assert linear.as_dict()["kind"] == "linear"
