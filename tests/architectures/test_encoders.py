"""Encoders without a decoder on tiny random models: hidden states equal transformers', for texts of any length."""

from typing import Any

import numpy as np
import pytest

from cutwork import _native
from cutwork.engine.embedding.texts import Tokens
from cutwork.engine.model import Model
from cutwork.errors import CutworkError
from cutwork.pack.in_memory import pack_in_memory
from cutwork.pack.masked import encode
from cutwork.pack.pack import pack
from cutwork.pack.reader import read_packed
from tests.engine.tiny import SMALL, packed, relative, torch, transformers

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {}),
    "bert-one-type": ("bert", {"type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "bert-gelu-new": ("bert", {"hidden_act": "gelu_new", "type_vocab_size": 3}),
    "bert-relu": ("bert", {"hidden_act": "relu", "num_attention_heads": 3}),
    "distilbert": ("distilbert", {"hidden_dim": 80}),
    "roberta": ("roberta", {"type_vocab_size": 1, "pad_token_id": 1}),
    "roberta-pad-0": ("roberta", {"pad_token_id": 0, "type_vocab_size": 2}),
    "xlm-roberta": ("xlm-roberta", {"type_vocab_size": 1, "pad_token_id": 1}),
    "mpnet": ("mpnet", {"relative_attention_num_buckets": 32}),
    "nomic-bert": ("nomic_bert", {"head_dim": 8}),
    "nomic-bert-no-gelu": ("nomic_bert", {"num_attention_heads": 3, "hidden_act": "gelu", "type_vocab_size": 1}),
    "modernbert": ("modernbert", {"local_attention": 8}),
    "modernbert-biases": (
        "modernbert",
        {
            "local_attention": 5,
            "norm_bias": True,
            "attention_bias": True,
            "mlp_bias": True,
            "hidden_activation": "silu",
            "global_attn_every_n_layers": 2,
        },
    ),
    "modernbert-types": (
        "modernbert",
        {
            "layer_types": [_LOCAL, _GLOBAL, _LOCAL],
            "rope_parameters": {
                _GLOBAL: {"rope_type": "default", "rope_theta": 5000.0},
                _LOCAL: {"rope_type": "default", "rope_theta": 300.0},
            },
        },
    ),
}
LENGTHS = (7, 1, 150, 33, 2, 64)
SPECIAL = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}


def make(variant: str, **more: Any) -> Any:
    """A model whose weights are large enough that every part matters to the hidden states."""
    kind, changes = ENCODERS[variant]
    settings = transformers.AutoConfig.for_model(kind, **{**SMALL, **SPECIAL, **changes, **more})
    settings._attn_implementation = "eager"
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(settings).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5)
            elif "embeddings" in name or "relative" in name:
                parameter.normal_(0.0, 0.5)
            else:
                parameter.normal_(0.0, 0.3 if parameter.ndim == 1 else parameter.shape[1] ** -0.5)
    return model


def inputs(types: int = 1) -> list[Tokens]:
    """Of unequal lengths; the second half of each is of the last type."""
    draw = np.random.default_rng(0)
    found = []
    for length in LENGTHS:
        plain = Tokens.of_ids(draw.integers(4, 101, length).tolist())
        kinds = np.where(np.arange(length) < (length + 1) // 2, 0, types - 1).astype(np.int32)
        found.append(Tokens(plain.ids, kinds, plain.special, plain.offsets))
    return found


def expected(model: Any, tokens: Tokens) -> np.ndarray:
    """transformers' last hidden states [T, width]."""
    more = {}
    if getattr(model.config, "type_vocab_size", 0) and hasattr(model.embeddings, "token_type_embeddings"):
        more["token_type_ids"] = torch.tensor(tokens.types[None].astype(np.int64))
    with torch.no_grad():
        return model(torch.tensor(tokens.ids[None].astype(np.int64)), **more).last_hidden_state[0].numpy()


def hidden_states(model: Model, texts: list[Tokens]) -> dict[int, np.ndarray]:
    assert model.embedder
    return {i: states for step in model.embedder.states.of(texts) for i, states in step.items()}


def types_of(hf: Any) -> int:
    return getattr(hf.config, "type_vocab_size", 1) or 1 if hasattr(hf.embeddings, "token_type_embeddings") else 1


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("variant", ENCODERS)
def test_hidden_states_equal_transformers(variant, backend, tmp_path):
    hf = make(variant)
    texts = inputs(types_of(hf))
    with Model(packed(hf, tmp_path), threads=1, backend=backend) as model:
        found = hidden_states(model, texts)
    for i, tokens in enumerate(texts):
        assert found[i].shape == (len(tokens), 48)
        assert relative(found[i], expected(hf, tokens)) < 1e-4


@pytest.mark.parametrize(("dtype", "limit"), [("bf16", 0.03), ("i8", 0.05)])
@pytest.mark.parametrize("variant", ["bert", "mpnet", "modernbert"])
def test_rounded_weights(variant, dtype, limit, tmp_path):
    hf = make(variant)
    texts = inputs()
    weights = packed(hf, tmp_path, dtype)
    with Model(weights, threads=2) as model:
        found = hidden_states(model, texts)
    for i, tokens in enumerate(texts):
        assert relative(found[i], expected(hf, tokens)) < limit


@pytest.mark.parametrize("variant", ["bert", "mpnet", "modernbert"])
def test_a_text_has_the_same_states_beside_others_and_with_every_instruction_set(variant, tmp_path, monkeypatch):
    weights = packed(make(variant), tmp_path)
    texts = inputs()
    for isa in _native.isas():
        monkeypatch.setattr(_native, "isa", lambda isa=isa: isa)
        executor = _native.Executor
        monkeypatch.setattr(
            _native,
            "Executor",
            lambda *a, isa=isa, executor=executor, **k: executor(*a, **{**k, "isa": isa, "costs": None}),
        )
        with Model(weights, threads=2) as model:
            together = hidden_states(model, texts)
            for i, tokens in enumerate(texts):
                assert relative(hidden_states(model, [tokens])[0], together[i]) < 1e-5
        monkeypatch.undo()


def test_more_texts_than_a_step_holds_are_read_in_several(tmp_path):
    hf = make("bert")
    with Model(packed(hf, tmp_path), threads=1) as model:
        texts = [Tokens.of_ids([5 + i % 90] * (1 + i % 200)) for i in range(90)]
        assert sum(map(len, texts)) > 7 * 512
        steps = list(model.embedder.states.of(texts))
        assert len(steps) > 7
        assert sorted(i for step in steps for i in step) == list(range(90))
        for step in steps[::3]:
            for i, states in step.items():
                assert relative(states, expected(hf, texts[i])) < 1e-4


def test_the_first_checkpoints_of_bert_call_norms_otherwise(tmp_path):
    hf, [text, *_] = make("bert"), inputs()
    weights = packed(hf, tmp_path)
    ends = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for name in list(weights.weights):
        new = next((name.replace(end, old) for end, old in ends.items() if name.endswith(end)), name)
        weights.weights[f"bert.{new}"] = weights.weights.pop(name)
    with Model(weights, threads=1) as model:
        assert relative(hidden_states(model, [text])[0], expected(hf, text)) < 1e-4


def as_nomic_wrote_it(hf, directory):
    """A NomicBERT by the names of Nomic's own code, config and weights."""
    weights = packed(hf, directory)
    c = hf.config
    sizes = {"n_embd": c.hidden_size, "n_inner": c.intermediate_size, "n_layer": c.num_hidden_layers}
    more = {"n_head": c.num_attention_heads, "n_positions": 256, "layer_norm_epsilon": 1e-12, "rotary_emb_base": 1000}
    kept = {"vocab_size": c.vocab_size, "type_vocab_size": c.type_vocab_size, "model_type": "nomic_bert"}
    weights.config.clear()
    weights.config.update({**sizes, **more, **kept, "activation_function": "swiglu", "prenorm": False})
    renames = {
        "embeddings.LayerNorm": "emb_ln",
        "self_attn.o_proj": "attn.out_proj",
        "up_proj": "fc11",
        "gate_proj": "fc12",
        "down_proj": "fc2",
        "post_attention_layernorm": "norm1",
        "post_mlp_layernorm": "norm2",
    }
    state = {name: tensor.numpy() for name, tensor in hf.state_dict().items()}
    for i in range(c.num_hidden_layers):
        parts = [f"layers.{i}.self_attn.{n}_proj.weight" for n in "qkv"]
        together = np.concatenate([state[part] for part in parts])
        weights.weights[f"layers.{i}.attn.Wqkv.weight"] = encode(together, None)
        for part in parts:
            del weights.weights[part]
    for name in list(weights.weights):
        new = name
        for theirs, own in renames.items():
            new = new.replace(theirs, own)
        weights.weights[f"encoder.{new}" if new.startswith("layers.") else new] = weights.weights.pop(name)
    return weights


def test_nomics_own_checkpoints_are_read(tmp_path):
    hf, texts = make("nomic-bert"), inputs(2)
    with Model(as_nomic_wrote_it(hf, tmp_path), threads=1) as model:
        assert model.max_context == 256
        found = hidden_states(model, texts)
    for i, tokens in enumerate(texts):
        assert relative(found[i], expected(hf, tokens)) < 1e-4


def test_what_transformers_saves_of_nomics_is_read(tmp_path):
    """Nomic's names of tensors beside transformers' of settings."""
    hf, texts = make("nomic-bert"), inputs(2)
    hf.save_pretrained(tmp_path / "saved")
    pack(tmp_path / "saved", tmp_path / "packed")
    for source in (pack_in_memory(tmp_path / "saved"), read_packed(tmp_path / "packed")):
        assert any("Wqkv" in name for name in source.weights) and "hidden_size" in source.config
        with Model(source, threads=1) as model:
            found = hidden_states(model, texts)
        for i, tokens in enumerate(texts):
            assert relative(found[i], expected(hf, tokens)) < 1e-4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prenorm": True}, "prenorm = True"),
        ({"activation_function": "gelu"}, "without swiglu"),
        ({"n_head": 7}, "mul"),
    ],
)
def test_what_only_nomics_code_can_do_is_refused(change, reason, tmp_path):
    weights = as_nomic_wrote_it(make("nomic-bert"), tmp_path)
    weights.config.update(change)
    with pytest.raises(CutworkError, match=reason):
        Model(weights, threads=1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"is_decoder": True}, "decoder"),
        ({"num_attention_heads": 7}, "multiple"),
        ({"hidden_act": "tanh"}, "tanh"),
    ],
)
def test_configs_that_are_not_run_are_refused(change, reason, tmp_path):
    weights = packed(make("bert"), tmp_path)
    weights.config.update(change)
    with pytest.raises(CutworkError, match=reason):
        Model(weights, threads=1)


def test_an_encoder_writes_no_text(tmp_path):
    with Model(packed(make("bert"), tmp_path), threads=1) as model:
        for use in (lambda: model.generate([5, 6]), lambda: model.logits([5, 6]), lambda: model.perplexity([5, 6, 7])):
            with pytest.raises(CutworkError, match="use embed"):
                use()
