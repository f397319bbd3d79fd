"""Configs as they are published: with settings left out, written twice, or against what the weights say."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cutwork.architectures import architecture_of, build_encoder_plan, build_plan
from cutwork.engine.model import Model
from cutwork.errors import CutworkError
from cutwork.pack.source import SourceCheckpoint
from cutwork.store.text_part import text_config
from tests.architectures.phi3 import LONG, LONGROPE
from tests.engine import t5gemma_tiny
from tests.engine.tiny import SMALL, make, relative, torch_logits

QWEN = {**SMALL, "model_type": "qwen2", "max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
# The language model of Gemma 3 12B, as Google's config describes it; 4B's leaves out the heads, too.
GEMMA_12B = {
    "hidden_size": 3840,
    "intermediate_size": 15360,
    "model_type": "gemma3_text",
    "num_attention_heads": 16,
    "num_hidden_layers": 48,
    "num_key_value_heads": 8,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 1024,
}


@pytest.mark.parametrize("without", [(), ("num_attention_heads", "num_key_value_heads")])
def test_gemma_3_leaves_much_to_defaults(without: tuple[str, ...]) -> None:
    inner = {key: value for key, value in GEMMA_12B.items() if key not in without}
    config = text_config(
        {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": inner}
    )
    plan = build_plan(config)
    assert plan.weights["model.embed_tokens.weight"] == (262208, 3840)
    heads = 8 if without else 16
    assert plan.weights["model.layers.0.self_attn.q_proj.weight"] == (heads * 256, 3840)
    assert architecture_of(config).context(config).most == 131072


def test_rope_that_is_said_twice_must_agree() -> None:
    same = {**QWEN, "rope_parameters": {**YARN, "rope_theta": 1e6}, "rope_scaling": {**YARN, "type": "yarn"}}
    build_plan(same)
    for parameters in ({"rope_type": "default", "rope_theta": 1e6}, {**YARN, "factor": 2.0}):
        with pytest.raises(CutworkError, match="rope_scaling and rope_parameters disagree"):
            build_plan({**QWEN, "rope_parameters": parameters, "rope_scaling": YARN})
    nested = {"sliding_attention": {"rope_theta": 1e4}, "full_attention": {"rope_type": "default", "rope_theta": 1e6}}
    config = {**SMALL, "model_type": "gemma3_text", "rope_parameters": nested, "sliding_window_pattern": 2}
    build_plan(config)
    with pytest.raises(CutworkError, match="rope_scaling and rope_parameters disagree"):
        build_plan({**config, "rope_scaling": YARN})


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_yarn_lengthens_what_may_be_asked_for(key: str) -> None:
    lengths = architecture_of(QWEN).context({**QWEN, key: YARN})
    assert (lengths.usual, lengths.most) == (64, 256)
    linear = architecture_of(QWEN).context({**QWEN, key: {"rope_type": "linear", "factor": 4.0}})
    assert (linear.usual, linear.most) == (64, 64)


def test_longrope_reaches_as_far_as_its_first_factors() -> None:
    """By whatever name; beyond it transformers turns the whole sequence otherwise."""
    for said in (
        {**LONG, "rope_parameters": LONGROPE},
        {**LONG, "rope_scaling": {**LONGROPE, "rope_type": "su"}},
        {**LONG, "rope_scaling": {**_without(LONGROPE, "rope_type"), "type": "yarn", "attention_factor": 1.5}},
    ):
        config = {**SMALL, "model_type": "phi3", **said}
        lengths = architecture_of(config).context(config)
        assert (lengths.usual, lengths.most) == (128, 128)
        build_plan(config)


def _without(settings: dict[str, object], key: str) -> dict[str, object]:
    return {name: value for name, value in settings.items() if name != key}


def test_a_decoder_that_looks_ahead_is_refused() -> None:
    with pytest.raises(CutworkError, match="is_causal: false"):
        build_plan({**QWEN, "is_causal": False})


def test_mpt_with_rotary_positions_or_other_norms_is_refused() -> None:
    mpt = {"model_type": "mpt", "d_model": 32, "n_heads": 2, "n_layers": 1, "vocab_size": 99}
    build_plan({**mpt, "norm_type": "low_precision_layernorm", "attn_config": {"rope": False}})
    for change in ({"attn_config": {"rope": True}}, {"norm_type": "low_precision_rmsnorm"}):
        with pytest.raises(CutworkError, match="is not supported for MPT"):
            build_plan({**mpt, **change})


def test_a_head_that_differs_from_the_embedding_counts_whatever_the_config_says(tmp_path) -> None:
    """As in transformers, which then ties nothing."""
    tied = make("llama-mha-tied")
    tied.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    embedding = stored["model.embed_tokens.weight"]
    head = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(0)) / 8
    tokens = np.random.default_rng(0).integers(3, 90, 12)
    for given in (embedding.clone(), head):
        save_file({**stored, "lm_head.weight": given}, tmp_path / "model.safetensors", {"format": "pt"})
        theirs = type(tied).from_pretrained(tmp_path, attn_implementation="eager").float().eval()
        with Model.load(tmp_path, threads=1) as model:
            assert relative(model.logits(tokens.tolist()), torch_logits(theirs, tokens)) < 0.03
    assert SourceCheckpoint(tmp_path).config["tie_word_embeddings"] is False


def test_a_head_may_be_tied_without_a_word(tmp_path) -> None:
    """As configs written by transformers 4 leave out what is usual: GPT-2's head is its embedding."""
    model = make("gpt2")
    model.save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"tie_word_embeddings": true,', ""))
    source = SourceCheckpoint(tmp_path)
    assert "tie_word_embeddings" not in source.config and source.head == "transformer.wte.weight"


def windowed(kind: str, window: int, heads: int, longest: int) -> dict[str, object]:
    """A config whose layers see so many tokens to each side, or half as many."""
    said = {**SMALL, "model_type": kind, "num_attention_heads": heads, "hidden_size": 4 * heads,
            "max_position_embeddings": longest}  # fmt: skip
    if kind == "modernbert":
        return {**said, "local_attention": window}
    said |= {"sliding_window": window, "head_dim": 4, "use_bidirectional_attention": True}
    part = {**t5gemma_tiny.SMALL, **said}
    return said if kind == "gemma3_text" else {"model_type": kind, "encoder": part, "decoder": part}


@pytest.mark.parametrize("kind", ["modernbert", "gemma3_text", "t5gemma"])
def test_windows_wider_than_any_text_hide_nothing_and_large_ones_are_refused(kind: str) -> None:
    build = build_encoder_plan if kind == "t5gemma" else build_plan
    plan = build(windowed(kind, 1 << 16, 2048, longest=1 << 14))
    assert plan is not None and "attention.bias" not in plan.constants
    plan = build(windowed(kind, 64, 64, longest=1 << 14))
    assert plan is not None and plan.constants["attention.bias"].nbytes <= 64 * (2 * 64 + 3) * 4
    with pytest.raises(CutworkError, match="to each side are more than this engine computes for 2048 heads"):
        build(windowed(kind, 3 << 12, 2048, longest=1 << 14))
