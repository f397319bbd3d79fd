"""GPT-2: pre-norm with biases, learned positions, queries, keys and values from one matrix.

Its checkpoints hold linear layers transposed, and OpenAI's own only the inner model.
"""

from collections.abc import Mapping
from typing import Any

from cutwork.architectures.architecture import HEAD, Architecture
from cutwork.architectures.config import MAX_WIDTH, activation, flag, integer, number
from cutwork.architectures.lengths import absolute
from cutwork.errors import CutworkError
from cutwork.plan.builder import Plan


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The forward pass."""
    vocabulary = integer(config, "vocab_size", maximum=1 << 24)
    width = integer(config, "n_embd", maximum=MAX_WIDTH // 3)
    heads = integer(config, "n_head", maximum=4096)
    if width % heads:
        raise CutworkError(f"config.json: n_embd {width} is not a multiple of n_head {heads}")
    if flag(config, "add_cross_attention"):
        raise CutworkError("config.json: GPT-2 with cross attention is not supported")
    mlp = integer(config, "n_inner", maximum=MAX_WIDTH, default=min(4 * width, MAX_WIDTH))
    eps = number(config, "layer_norm_epsilon", 1e-5)
    act = activation({"hidden_act": config.get("activation_function", "gelu_new")})
    scale = (width // heads) ** -0.5 if flag(config, "scale_attn_weights", True) else 1.0
    by_depth = flag(config, "scale_attn_by_inverse_layer_idx")

    x = p.embed("transformer.wte", vocabulary, width)
    x = p.add_positions(x, "transformer.wpe", integer(config, "n_positions", maximum=1 << 24, default=1024))
    for i in range(integer(config, "n_layer", maximum=1024)):
        layer = f"transformer.h.{i}"
        h = p.layer_norm(x, f"{layer}.ln_1", eps)
        qkv = p.linear(h, f"{layer}.attn.c_attn", 3 * width, bias=True)
        q, k, v = (p.slice(qkv, pieces=1, width=width, stride=width, first=part * width) for part in range(3))
        divided = scale / (i + 1) if by_depth else scale
        a = p.attention(q, k, v, cache=i, heads=heads, kv_heads=heads, scale=divided)
        x = p.linear(a, f"{layer}.attn.c_proj", width, bias=True, residual=x)
        h = p.layer_norm(x, f"{layer}.ln_2", eps)
        h = p.linear(h, f"{layer}.mlp.c_fc", mlp, bias=True, activation=act)
        x = p.linear(h, f"{layer}.mlp.c_proj", width, bias=True, residual=x)
    last = p.layer_norm(p.gather_rows(x), "transformer.ln_f", eps)
    p.logits(last, "transformer.wte" if flag(config, "tie_word_embeddings", True) else "lm_head", vocabulary)


_INNER = ("h.", "wte.", "wpe.", "ln_f.")
_LINEARS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
ARCHITECTURE = Architecture(
    "gpt2",
    models="GPT-2, DistilGPT-2 and others of its shape",
    source="Radford et al. 2019",
    decoder=emit,
    context=absolute("n_positions"),
    embedding="transformer.wte.weight",
    renames=tuple((name, f"transformer.{name}") for name in _INNER),
    unread=("*.attn.bias", "*.attn.masked_bias", HEAD),
    transposed=tuple(f"transformer.h.*.{name}.weight" for name in _LINEARS),
)
