"""What the executor refuses, and how it says so."""

import copy

import numpy as np
import pytest

from cutwork import _native

from .executor_plans import Plan, llama

HUGE = 2**40
CACHE = {"layers": 1, "kv_heads": 2, "head_dim": 8, "block_size": 16, "blocks": 16, "dtype": "f32"}


@pytest.fixture
def plan():
    return llama(np.random.default_rng(3), layers=1)


def refused(plan, message, **sizes):
    with pytest.raises(ValueError, match=message):
        plan.executor(**{"cache": CACHE, **sizes})


def find(plan, kind, nth=0):
    return [index for index, op in enumerate(plan.ops) if op["kind"] == kind][nth]


# kind, field, value, what the error says; the model has 6 heads on 2 kv heads of 8, width 48, 50 tokens.
FIELDS = [
    ("embed", "out", 99, "out names buffer 99"),
    ("embed", "out", -1, "out names buffer -1"),
    ("embed", "out", "x", "'out' must be an integer"),
    ("embed", "out", HUGE, "out names buffer"),
    ("embed", "out", 2**70, "'out' must be an integer"),
    ("embed", "weight", 99, "names weight 99"),
    ("embed", "weight", 7, "has width 48, weight 7 has 80 columns"),
    ("embed", "scale", float("nan"), "scale is not finite"),
    ("rms_norm", "x", 99, "x names buffer 99"),
    ("rms_norm", "weight", -1, "weight names vector -1"),
    ("rms_norm", "weight", 0, "weight names vector 0 of 4 entries instead of 48"),
    ("rms_norm", "groups", 0, "groups is 0"),
    ("rms_norm", "groups", 5, "groups is 5"),
    ("rms_norm", "eps", -1.0, "eps is negative"),
    ("rms_norm", "eps", float("inf"), "eps is not finite"),
    ("linear", "x", 99, "x names buffer 99"),
    ("linear", "outs", [], "lists of one length"),
    ("linear", "outs", 3, "'outs' must be a list of integers"),
    ("linear", "outs", [2, HUGE, 3], "outs names buffer"),  # known before its place is compared with the first's
    ("linear", "outs", [2, 3, -1], "outs names buffer -1"),
    ("linear", "weights", [1, 2, 99], "names weight 99"),
    ("linear", "weights", [1, 1, 1], r"weight 1 is \[48, 48\]"),
    ("linear", "biases", [-1, -1], "lists of one length"),
    ("linear", "biases", [99, -1, -1], "biases names vector 99"),
    ("linear", "biases", [0, -1, -1], "biases names vector 0 of 4 entries instead of 48"),
    ("linear", "residual", 99, "residual names buffer 99"),
    ("linear", "residual", 0, "residual differs in shape"),
    ("linear", "activation", "swish", "knows no activation 'swish'"),
    ("rope", "heads", 0, r"width heads \* head_dim"),
    ("rope", "heads", 2**62, r"width heads \* head_dim"),
    ("rope", "head_dim", -8, r"width heads \* head_dim"),
    ("rope", "inv_freq", 1, "more than half of head_dim"),
    ("rope", "scaling", float("inf"), "scaling is not finite"),
    ("kv_append", "cache", 1, "cache layer 1 of 1"),
    ("kv_append", "cache", -1, "cache layer -1 of 1"),
    ("kv_append", "k", 0, r"width kv_heads \* head_dim"),
    ("attention", "cache", 7, "cache layer 7 of 1"),
    ("attention", "kv_heads", 3, "differ from the cache's"),
    ("attention", "heads", 3, r"width heads \* head_dim"),
    ("attention", "window", 0, "window must be -1 or positive"),
    ("attention", "scale", float("nan"), "scale is not finite"),
    ("attention", "cap", -1.0, "cap is negative"),
    ("attention", "cap", float("inf"), "cap is not finite"),
    ("attention", "slopes", 99, "slopes names vector 99"),
    ("attention", "bias", 99, "bias names vector 99"),
    ("attention", "bias", 0, "bias names vector 0 of 4 entries, which is not a multiple"),
    ("gated", "gate", 0, "gate and up differ in shape"),
    ("gated", "activation", "none", "knows no activation 'none'"),
    ("gather_rows", "x", 99, "x names buffer 99"),
    ("gather_rows", "out", 0, 'must have rows "R"'),
    ("logits", "weight", 7, r"weight 7 is \[48, 80\], the buffers need \[48, 48\]"),
    ("logits", "x", 0, 'rows "R"'),
    ("logits", "cap", -1.0, "cap is negative"),
    ("logits", "bias", 0, "bias names vector 0 of 4 entries instead of 50"),
]


@pytest.mark.parametrize(("kind", "field", "value", "message"), FIELDS)
def test_field(plan, kind, field, value, message):
    index = find(plan, kind)
    plan.ops[index][field] = value
    refused(plan, rf"^op {index} \({kind}\): .*({message})")


@pytest.mark.parametrize("kind", sorted({kind for kind, *_ in FIELDS}))
def test_every_field_is_needed_and_no_other_is_known(plan, kind):
    index = find(plan, kind)
    for name in plan.ops[index]:
        if name != "kind":
            missing = copy.copy(plan)
            missing.ops = copy.deepcopy(plan.ops)
            del missing.ops[index][name]
            refused(missing, rf"^op {index} \({kind}\): has no '{name}'")
    plan.ops[index]["more"] = 1
    refused(plan, rf"^op {index} \({kind}\): has a field")


def test_kinds(plan):
    plan.ops[2]["kind"] = "conv1d"
    refused(plan, r"^op 2 \(conv1d\): no executor knows this kind")
    plan.ops[2] = 5
    refused(plan, r"^op 2 \(\?\): is not a dict")


def test_rope_needs_frequencies(plan):
    plan.vectors.append(np.zeros(0, np.float32))
    plan.ops[find(plan, "rope")]["inv_freq"] = len(plan.vectors) - 1
    refused(plan, r"\(rope\): inv_freq has no entries")


def test_order_of_ops(plan):
    logits = plan.ops.pop()
    refused(plan, "does not end with logits")
    plan.ops += [logits, logits]
    refused(plan, r"^op \d+ \(logits\): comes after the step's result")
    plan.ops.pop()
    first = plan.ops.pop(0)
    refused(plan, r"^op 0 \(rms_norm\): x names buffer 0 before anything is written to it")
    plan.ops.insert(0, first)
    append = plan.ops.pop(find(plan, "kv_append"))
    refused(plan, r"\(attention\): nothing is appended to cache layer 0")
    assert append["cache"] == 0


def test_memory_that_was_taken_over(plan):
    # The residual is still needed after the first norm, which now writes where it lies.
    norm = plan.ops[find(plan, "rms_norm")]
    offset = plan.buffers[norm["x"]][0]
    plan.buffers[norm["out"]] = (offset + 16, 48, "T")
    refused(plan, r"^op 1 \(rms_norm\): out overlaps an input without being it")
    plan.buffers[norm["out"]] = (offset, 48, "T")
    refused(plan, rf"\(linear\): residual names buffer {norm['x']}, whose memory buffer {norm['out']} has taken over")


@pytest.mark.parametrize("name", ["x", "residual", "outs"])
def test_a_linear_cannot_write_over_what_it_reads(plan, name):
    linear = plan.ops[find(plan, "linear", 1 if name == "residual" else 0)]
    victim = linear["outs"][1] if name == "outs" else linear[name]
    plan.buffers[linear["outs"][0]] = (plan.buffers[victim][0] + 1, *plan.buffers[linear["outs"][0]][1:])
    refused(plan, r"\(linear\): .*overlap")


def test_in_place_is_allowed_where_it_is_safe():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 32)).astype(np.float32)
    expected = None
    for in_place in (False, True):
        plan = Plan()
        table = plan.table(x)
        out = table if in_place else plan.buffer(32)
        norm = plan.vector(np.ones(32))
        plan.add("rms_norm", x=table, out=out, weight=norm, eps=0.0, groups=1)
        plan.add("gated", gate=out, up=out, out=out, activation="silu")
        plan.show(out)
        ids = np.arange(3, dtype=np.int32)
        actual = plan.executor().step(ids, ids, ids * 0, np.zeros((1, 0), np.int32), ids)
        expected = actual if expected is None else expected
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("span", [(-1, 48, "T"), (0, 0, "T"), (HUGE, 48, "T"), (0, HUGE, "T"), (0, -3, "T")])
def test_buffer_sizes(plan, span):
    plan.buffers[0] = span
    refused(plan, "buffer 0 has an impossible offset or width")


@pytest.mark.parametrize("span", [(0, 48, "X"), (0, 48), "x", (0.5, 48, "T"), None])
def test_buffer_form(plan, span):
    plan.buffers[0] = span
    refused(plan, r"buffer 0 is not \(offset, width, rows\)")


def test_lists(plan):
    plan.vectors[1] = plan.vectors[1].astype(np.float64)
    refused(plan, "vector 1 is not a contiguous 1-dimensional float32 array")
    plan.vectors[1] = np.zeros((48, 1), np.float32)
    refused(plan, "vector 1 is not")
    plan.vectors[1] = np.zeros(96, np.float32)[::2]
    refused(plan, "vector 1 is not")
    plan.weights[2] = np.zeros((2, 2), np.float32)
    plan.vectors[1] = np.zeros(48, np.float32)
    refused(plan, r"weight 2 is not a cutwork\._native\.Weight")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": 0}, "every size of the cache"),
        ({"layers": -1}, "every size of the cache"),
        ({"head_dim": HUGE}, "every size of the cache"),
        ({"block_size": 8}, "block_size is 8, which is not a multiple of 16"),
        ({"dtype": "i4"}, "dtype 'i4'"),
        ({"dtype": 3}, "'dtype' must be a string"),
        ({"heads": 3}, "has a field"),
        ({"blocks": 2**30, "layers": 2**30, "block_size": 2**30}, "exceeds what can be addressed"),
    ],
)
def test_cache(plan, change, message):
    refused(plan, message, cache={**CACHE, **change})
    refused(plan, "needs a cache", cache=None)


def test_sizes(plan):
    refused(plan, "threads must be between", threads=0)
    refused(plan, "threads must be between", threads=100000)
    refused(plan, "max_tokens must be between", max_tokens=0)
    refused(plan, "max_logits must be between", max_logits=HUGE)
    refused(plan, "isa|instruction set", isa="avx1024")


def test_memory_that_cannot_be_had(plan):
    with pytest.raises(MemoryError, match=r"cannot allocate .* GiB for the KV cache: use fewer blocks"):
        plan.executor(cache={**CACHE, "blocks": 2**30})


@pytest.fixture
def executor(plan):
    return plan.executor(max_tokens=8, max_logits=4, cache={**CACHE, "blocks": 5})


GOOD = {
    "tokens": [1, 2, 3],
    "positions": [0, 1, 17],
    "sequences": [0, 0, 1],
    "block_tables": [[4, -1], [2, 3]],
    "logits_rows": [2],
}


def step(executor, **change):
    return executor.step(**{name: np.array(value, np.int32) for name, value in {**GOOD, **change}.items()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": [1, 2, 50]}, r"tokens\[2\] is 50, which is not between 0 and 49"),
        ({"tokens": [-1, 2, 3]}, r"tokens\[0\] is -1"),
        ({"tokens": [1, 2]}, "differ in length"),
        ({"positions": [0, 1, 17, 18]}, "differ in length"),
        ({"positions": [0, 2, 17]}, r"positions\[1\] is 2, though its sequence continues at 1"),
        ({"positions": [-2, -1, 17]}, r"positions\[0\] is -2"),
        ({"positions": [0, 1, 32]}, r"positions\[2\] is 32, but its block table ends at 31"),
        ({"positions": [15, 16, 17]}, r"block_tables\[0, 1\] is -1, but position 16 needs"),
        ({"positions": [0, 1, 2**31 - 1]}, r"positions\[2\] is 2147483647"),
        ({"sequences": [0, 0, 2]}, r"sequences\[2\] is 2, which is not between 0 and 1"),
        ({"sequences": [-1, 0, 1]}, r"sequences\[0\] is -1"),
        ({"sequences": [0, 1, 0]}, r"sequences\[2\] is 0, whose tokens are not contiguous"),
        ({"block_tables": [[5, -1], [2, 3]]}, r"block_tables\[0, 0\] is 5"),
        ({"block_tables": [[4, -1], [-1, 3]]}, r"block_tables\[1, 0\] is -1"),
        ({"block_tables": np.zeros((2, 0))}, "but its block table ends at -1"),
        ({"logits_rows": [3]}, r"logits_rows\[0\] is 3, which is not between 0 and 2"),
        ({"logits_rows": [-1]}, r"logits_rows\[0\] is -1"),
        ({"logits_rows": [0] * 5}, "at most 4 rows of logits"),
        ({name: [] for name in ("tokens", "positions", "sequences", "logits_rows")}, "1 to 8 tokens"),
        ({"tokens": [1] * 9, "positions": range(9), "sequences": [1] * 9}, "1 to 8 tokens"),
    ],
)
def test_step(executor, change, message):
    assert step(executor).shape == (1, 50)
    with pytest.raises(ValueError, match=message):
        step(executor, **change)
    assert step(executor).shape == (1, 50)  # the executor still works


def test_step_takes_int32_only(executor):
    with pytest.raises(TypeError):
        executor.step(**{name: np.array(value, np.int64) for name, value in GOOD.items()})
    with pytest.raises(TypeError):
        step(executor, block_tables=[4, 2])


def test_copy_blocks(executor):
    with pytest.raises(ValueError, match="block 5 is not one of the cache's 5"):
        executor.copy_blocks([(0, 1), (0, 5)])
    with pytest.raises(ValueError, match="block -1"):
        executor.copy_blocks([(-1, 0)])
    executor.copy_blocks([])
    executor.copy_blocks([(0, 0)])


def test_the_module_documents_itself():
    for item in (_native.Executor, _native.Executor.step, _native.Executor.copy_blocks, _native.default_threads):
        assert len(item.__doc__) > 40


def test_an_output_ends_a_plan_as_logits_do():
    plan = Plan()
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    table = plan.table(rows)
    plan.add("output", x=plan.emit("gather_rows", 3, "R", x=table))
    ids, wanted = np.arange(4, dtype=np.int32), np.array([2, 0], np.int32)
    for cache in (None, {**CACHE, "layers": 0, "kv_heads": 0, "head_dim": 0}):
        result = plan.executor(cache=cache).step(ids, ids, 0 * ids, np.zeros((1, 1), np.int32), wanted)
        assert (result == rows[[2, 0]]).all()
    plan.add("output", x=1)
    refused(plan, r"^op 3 \(output\): comes after the step's result")
    plan.ops[-2:] = [{"kind": "output", "x": 0}]
    refused(plan, 'rows "R"')


def test_a_cache_without_layers_remembers_nothing(plan):
    refused(plan, "cache layer 0 of 0", cache={**CACHE, "layers": 0})
    refused(plan, "has dtype 'f64'", cache={**CACHE, "layers": 0, "dtype": "f64"})
