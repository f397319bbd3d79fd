"""Plans are laid out without overlap, and the verifier finds whatever is wrong with one."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from cutwork.architectures import build_plan
from cutwork.architectures.rope import parse_rope
from cutwork.errors import CutworkError
from cutwork.plan.builder import Plan
from cutwork.plan.layout import ALIGNMENT
from cutwork.plan.verify import verify
from tests.engine.tiny import SMALL, transformers

CONFIG = {**SMALL, "model_type": "llama"}


def test_layout_shares_memory_and_grows_not_with_depth():
    shallow, deep = (build_plan({**CONFIG, "num_hidden_layers": n}) for n in (2, 20))
    sizes = [max(offset + width for offset, width, _ in plan.spans()) for plan in (shallow, deep)]
    assert sizes[0] == sizes[1] < 600
    assert all(offset % ALIGNMENT == 0 for offset, _, _ in deep.spans())


def test_plan_lists_what_the_checkpoint_must_hold():
    plan = build_plan({**CONFIG, "attention_bias": True})
    assert plan.weights["model.layers.2.self_attn.k_proj.weight"] == (16, 48)
    assert plan.vectors["model.layers.0.self_attn.o_proj.bias"] == 48
    assert "lm_head.weight" in plan.weights
    tied = build_plan({**CONFIG, "tie_word_embeddings": True})
    assert "lm_head.weight" not in tied.weights
    assert tied.ops[-1].weight == tied.ops[0].weight


def _set(kind, key, value):
    def change(plan):
        index = next(i for i, op in enumerate(plan.ops) if op.kind == kind)
        plan.ops[index] = replace(plan.ops[index], **{key: value})

    return change


@pytest.mark.parametrize(
    "damage",
    [
        _set("embed", "weight", 99),
        _set("embed", "out", -1),
        _set("embed", "scale", float("nan")),
        _set("rms_norm", "x", 10_000),
        _set("rms_norm", "x", 5),
        _set("linear", "outs", [2, 3]),
        _set("linear", "activation", "swish"),
        _set("linear", "weights", [99]),
        _set("linear", "biases", [-2]),
        _set("attention", "slopes", 10_000),
        _set("attention", "scale", float("inf")),
        _set("gated", "activation", "mish"),
        _set("gated", "activation", "none"),
        _set("gather_rows", "x", -1),
        lambda plan: plan.ops.pop(),
        lambda plan: plan.ops.append(plan.ops[-1]),
        lambda plan: plan.ops.append(plan.ops[1]),
        lambda plan: plan.ops.insert(2, plan.ops[1]),
    ],
)
def test_verifier_refuses(damage):
    plan = copy.deepcopy(build_plan(CONFIG))
    damage(plan)
    with pytest.raises(ValueError):
        verify(plan)


def test_verifier_refuses_overlap():
    plan = build_plan(CONFIG)
    spans = [(0, width, rows) for _, width, rows in plan.spans()]
    with pytest.raises(ValueError, match="overlap"):
        verify(plan, spans)


def test_a_name_has_one_shape():
    plan = Plan()
    plan.embed("a", 10, 4)
    with pytest.raises(ValueError, match="shapes"):
        plan.embed("a", 10, 5)


@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "linear", "factor": 2.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        {"type": "yarn", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "mscale": 0.8, "mscale_all_dim": 0.9, "beta_fast": 16, "truncate": False},
        {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5},
        None,
    ],
    ids=str,
)
def test_old_and_new_rope_configs_equal_transformers(scaling):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = scaling and {**scaling, "original_max_position_embeddings": 512}
    old = {"rope_theta": 5e5, "rope_scaling": scaling, "max_position_embeddings": 2048}
    kind = (scaling or {}).get("rope_type", (scaling or {}).get("type", "default"))
    new = {
        "rope_parameters": {**(scaling or {}), "rope_theta": 5e5, "rope_type": kind},
        "max_position_embeddings": 2048,
    }
    config = transformers.LlamaConfig(**{**SMALL, **copy.deepcopy(new), "head_dim": 32})
    if kind == "default":
        expected, factor = 5e5 ** (-np.arange(0, 32, 2) / 32), 1.0
    else:
        expected, factor = ROPE_INIT_FUNCTIONS[kind](config, device="cpu")
    for settings in (old, new):
        rope = parse_rope(settings, 32)
        np.testing.assert_allclose(rope.inv_freq, np.asarray(expected), rtol=2e-6)
        assert rope.scaling == pytest.approx(factor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": "48"}, "hidden_size"),
        ({"vocab_size": True}, "vocab_size"),
        ({"intermediate_size": 10**6}, "intermediate_size"),
        ({"rms_norm_eps": -1}, "rms_norm_eps"),
        ({"head_dim": 7}, "even"),
        ({"hidden_act": ["silu"]}, "activation"),
        ({"model_type": ["llama"]}, "architecture"),
        ({"model_type": None}, "architecture"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"rope_parameters": []}, None),
        ({"rope_parameters": [1]}, "rope_parameters"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "longrope"),
        ({"rope_parameters": {"rope_type": "linear"}}, "factor"),
        ({"rope_parameters": {"partial_rotary_factor": 0.01}}, None),  # which transformers does not look at here
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}}, "partial_rotary"),
        ({"model_type": "phi3", "partial_rotary_factor": 0.01}, "partial_rotary_factor"),
    ],
    ids=str,
)
def test_bad_configs_get_one_sentence(change, message):
    if message is None:
        build_plan({**CONFIG, **change})
        return
    with pytest.raises(CutworkError, match=message):
        build_plan({**CONFIG, **change})


def test_old_and_new_gemma_configs_are_the_same_model():
    new = transformers.AutoConfig.for_model(
        "gemma3_text", **{**SMALL, "num_hidden_layers": 7, "head_dim": 16}
    ).to_dict()
    new["rope_parameters"]["full_attention"] |= {"rope_type": "linear", "factor": 8.0}
    new["sliding_window"] = 12
    old = {key: value for key, value in new.items() if key not in ("rope_parameters", "layer_types")}
    old |= {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    old["sliding_window_pattern"] = 6
    assert new["layer_types"] == ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"]
    first, second = build_plan(new), build_plan(old)
    assert first.ops == second.ops
    for name, value in first.constants.items():
        np.testing.assert_array_equal(value, second.constants[name])
