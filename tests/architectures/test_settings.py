"""Settings that configs rarely have: what transformers makes of each is what the engine does, or it is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutwork.architectures import ARCHITECTURES, architecture_of, build_encoder_plan, build_plan
from cutwork.engine.model import Model
from cutwork.errors import CutworkError
from tests.architectures import test_encoders, test_t5
from tests.engine import bart_tiny
from tests.engine.tiny import SMALL, VARIANTS, make, relative, torch_logits, transformers
from tests.text_to_text import ANSWER, INPUTS, load, save
from tests.text_to_text import torch_logits as answer_logits

TOKENS = np.random.default_rng(0).integers(3, 101, 50)
GLOBAL, LOCAL = "full_attention", "sliding_attention"
WHOLE_HEADS = ("llama", "qwen2", "qwen3", "mistral-window", "granite", "smollm3", "starcoder2", "olmo2", "gemma2")


def change(directory: Path, without: tuple[str, ...] = (), **changes: Any) -> None:
    """Write something else into a config.json."""
    file = directory / "config.json"
    config = {key: value for key, value in json.loads(file.read_text()).items() if key not in without}
    file.write_text(json.dumps(config | changes))


def compare(directory: Path, auto: Any = transformers.AutoModelForCausalLM, attention: str = "eager") -> float:
    """How far the engine's logits, or hidden states, are from those of what transformers loads."""
    theirs = auto.from_pretrained(directory, attn_implementation=attention).float().eval()
    with Model.load(directory, threads=1, cache_bytes=1 << 23, cache_dtype="f32") as model:
        if model.embedder is None:
            return relative(model.logits(TOKENS.tolist()), torch_logits(theirs, TOKENS))
        [tokens] = model.embedder.read([TOKENS.tolist()])
        [states] = [found for step in model.embedder.states.of([tokens]) for found in step.values()]
        return relative(states, test_encoders.expected(theirs, tokens))


@pytest.mark.parametrize("kinds", [[GLOBAL, LOCAL, GLOBAL], [GLOBAL] * 3, None])
def test_a_mistral_with_kinds_of_layers_has_its_window_where_they_say_so(kinds, tmp_path) -> None:
    make("mistral-window").save_pretrained(tmp_path)
    change(tmp_path, layer_types=kinds)
    assert compare(tmp_path) < 1e-4


def test_ministral_3_does_not_read_kinds_of_layers(tmp_path) -> None:
    make("ministral3-window-tied").save_pretrained(tmp_path)
    change(tmp_path, layer_types=[GLOBAL] * 3)
    assert compare(tmp_path) < 1e-4


def _variant(family: str) -> str:
    return next(name for name in VARIANTS if name.startswith(family))


@pytest.mark.parametrize("family", [*WHOLE_HEADS, "phi3", "gpt-neox"])
@pytest.mark.parametrize("nested", [True, False])
def test_a_part_of_each_head_turns_only_where_transformers_heeds_that(family, nested, tmp_path) -> None:
    make(_variant(family)).save_pretrained(tmp_path)
    rope = json.loads((tmp_path / "config.json").read_text())["rope_parameters"]
    if rope.get("rope_type", "default") != "default":
        rope = {"rope_type": "default", "rope_theta": 5000.0}
    if nested:
        change(tmp_path, rope_parameters={**rope, "partial_rotary_factor": 0.5})
    else:
        rope.pop("partial_rotary_factor", None)
        change(tmp_path, rope_parameters=rope, partial_rotary_factor=0.5)
    assert compare(tmp_path) < 1e-4


def test_a_part_of_each_head_cannot_be_turned_by_a_scaled_rope() -> None:
    config = {**SMALL, "model_type": "llama", "partial_rotary_factor": 0.5}
    build_plan(config)
    with pytest.raises(CutworkError, match="a llama turns whole heads; remove partial_rotary_factor"):
        build_plan({**config, "rope_scaling": {"rope_type": "linear", "factor": 2.0}})


@pytest.mark.parametrize("kind", [None, "linear", "yarn"])
def test_older_configs_of_modernbert_scale_both_kinds_of_layers(kind, tmp_path) -> None:
    scaling = kind and {"rope_type": kind, "factor": 4.0}
    test_encoders.make("modernbert").save_pretrained(tmp_path)
    change(tmp_path, ("rope_parameters", "layer_types"), global_rope_theta=5000.0, rope_scaling=scaling)
    assert compare(tmp_path, transformers.AutoModel) < 1e-4
    change(tmp_path, ("global_rope_theta",), rope_theta=300.0)  # which is not read
    assert compare(tmp_path, transformers.AutoModel) < 1e-4


@pytest.mark.parametrize("kind", ["modernbert", "gemma3_text", "olmo3"])
def test_a_scaling_that_transformers_ignores_is_refused(kind) -> None:
    with pytest.raises(CutworkError, match="rope_scaling needs a rope_type"):
        build_plan(
            {**SMALL, "model_type": kind, "num_hidden_layers": 8, "rope_scaling": {"type": "linear", "factor": 4.0}}
        )


def test_older_configs_of_olmo_3_have_one_base() -> None:
    """Unlike in transformers 5, which gives it to the layers that see everything alone."""
    config = {**SMALL, "model_type": "olmo3", "num_hidden_layers": 4, "sliding_window": 8, "rope_theta": 5000.0}
    plan = build_plan(config)
    whole, sliding = (plan.constants[f"rope.{kind}"] for kind in (GLOBAL, LOCAL))
    np.testing.assert_array_equal(whole, sliding)
    assert whole[1] == pytest.approx(5000.0 ** (-2 / 8))


def test_gemma_3_has_no_cap_on_scores(tmp_path) -> None:
    make("gemma3").save_pretrained(tmp_path)
    change(tmp_path, attn_logit_softcapping=0.7)
    assert compare(tmp_path) < 1e-4


def test_a_null_factor_of_granite_4s_attention_is_the_usual_one(tmp_path) -> None:
    make("granite4").save_pretrained(tmp_path)
    change(tmp_path, attention_multiplier=None)
    assert compare(tmp_path, attention="sdpa") < 1e-4


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("v1.1", {"dense_act_fn": "silu"}),
        ("v1.1", {"dense_act_fn": "gelu"}),
        ("v1.0", {"dense_act_fn": "gelu_new"}),
        ("v1.0", {"scale_decoder_outputs": None}),
        ("v1.0", {"feed_forward_proj": "gated-gelu", "is_gated_act": False, "dense_act_fn": "relu"}),
        ("v1.0", {"feed_forward_proj": "gated-relu", "is_gated_act": None}),
    ],
)
def test_what_a_t5_config_says_beside_feed_forward_proj_counts(variant, changes, tmp_path) -> None:
    directory = save(test_t5.make(variant), tmp_path)
    change(directory, **changes)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(directory).eval()
    with load(directory) as model:
        ours = model.logits(ANSWER, model.encode_input(INPUTS[3]))
    assert relative(ours, answer_logits(theirs, INPUTS[3], ANSWER)) < 1e-4


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_what_a_config_leaves_out_is_the_default_of_its_class(kind) -> None:
    small = {**test_t5.SMALL, **bart_tiny.SMALL, **SMALL, **TINY}
    own = transformers.CONFIG_MAPPING[kind]
    usual = own().to_dict()
    changes = next((changes for family, changes in VARIANTS.values() if family == kind), {})
    config = own(**{name: value for name, value in small.items() if name in usual} | changes).to_dict()
    whole = _plans(config)
    for name, value in usual.items():
        if name != "model_type" and config.get(name) == value:
            try:
                assert _plans({key: each for key, each in config.items() if key != name}) == whole, name
            except CutworkError:  # said or not: a size that every config has
                assert value is not None, name


TINY = {"num_layers": 2, "head_dim": 8, "n_layer": 2, "relative_attention_num_buckets": 32}


def _plans(config: dict[str, Any]) -> Any:
    plans = [build_plan(config), build_encoder_plan(config)]
    return [(plan.op_dicts(), list(plan.weights), plan.vectors) for plan in plans if plan]


def test_mpnet_has_one_padding_whatever_its_config_says(tmp_path) -> None:
    test_encoders.make("mpnet").save_pretrained(tmp_path)
    change(tmp_path, pad_token_id=0)
    config = json.loads((tmp_path / "config.json").read_text())
    assert architecture_of(config).context(config).most == SMALL["max_position_embeddings"] - 2
    assert compare(tmp_path, transformers.AutoModel) < 1e-4


@pytest.mark.parametrize(
    ("variant", "padding"), [("roberta", 1), ("roberta-pad-0", 0), ("xlm-roberta", 1), ("mpnet", 1)]
)
def test_padding_within_a_text_is_refused_where_positions_do_not_count_it(variant, padding, tmp_path) -> None:
    test_encoders.make(variant).save_pretrained(tmp_path)
    with Model.load(tmp_path, threads=1) as model:
        with pytest.raises(CutworkError, match=rf"the padding token \({padding}\)"):
            model.embed([[5, 6, padding, 7]])
        model.embed([[5, 6, 1 - padding, 7]])


def test_padding_within_a_text_is_a_token_elsewhere(tmp_path) -> None:
    test_encoders.make("bert").save_pretrained(tmp_path)
    theirs = transformers.AutoModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    with Model.load(tmp_path, threads=1) as model:
        tokens = model.embedder.read([[5, 6, 1, 7]])
        [states] = [found for step in model.embedder.states.of(tokens) for found in step.values()]
        assert relative(states, test_encoders.expected(theirs, tokens[0])) < 1e-4


@pytest.mark.parametrize(("variant", "padding"), [("m2m-100", 1), ("m2m-100-unscaled", 0), ("bart", None)])
def test_padding_within_an_input_is_refused_where_positions_do_not_count_it(variant, padding, tmp_path) -> None:
    directory = save(bart_tiny.make(variant), tmp_path)
    with load(directory) as model:
        assert model.encoder.example(3).length == 3
        if padding is None:
            model.generate([5, 1, 6], max_new_tokens=2)
            return
        with pytest.raises(CutworkError, match=rf"the padding token \({padding}\)"):
            model.generate([5, padding, 6], max_new_tokens=2)
