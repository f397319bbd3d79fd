"""StarCoder2: Llama with biases, layer norms, an MLP without gate and a sliding window (arXiv 2402.19173)."""

from collections.abc import Mapping
from typing import Any

from cutwork.architectures.architecture import Architecture
from cutwork.architectures.config import flag, integer, number
from cutwork.architectures.llama import BARE, UNREAD, decoder
from cutwork.plan.builder import Plan


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The forward pass."""
    window, layers = config.get("sliding_window"), integer(config, "num_hidden_layers", maximum=1024)
    if window is not None:
        window = integer(config, "sliding_window", maximum=1 << 24)
    usual = {"hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True}
    c = decoder({**usual, **config}, windows=(window,) * layers, default_kv_heads=2)
    eps, bias = number(config, "norm_epsilon", 1e-5), flag(config, "use_bias", True)
    heads, kv_heads = c.num_attention_heads, c.num_key_value_heads
    widths = {"q": heads * c.head_dim, "k": kv_heads * c.head_dim, "v": kv_heads * c.head_dim}
    x = p.embed("model.embed_tokens", c.vocab_size, c.hidden_size)
    for i in range(layers):
        layer, attention = f"model.layers.{i}", f"model.layers.{i}.self_attn"
        h = p.layer_norm(x, f"{layer}.input_layernorm", eps)
        q, k, v = p.linears(h, {f"{attention}.{n}_proj": width for n, width in widths.items()}, bias=bias)
        q, k = p.rope(q, heads, c.rope), p.rope(k, kv_heads, c.rope)
        a = p.attention(q, k, v, cache=i, heads=heads, kv_heads=kv_heads, window=window)
        x = p.linear(a, f"{attention}.o_proj", c.hidden_size, bias=bias, residual=x)
        h = p.layer_norm(x, f"{layer}.post_attention_layernorm", eps)
        h = p.linear(h, f"{layer}.mlp.c_fc", c.intermediate_size, bias=bias, activation=c.hidden_act)
        x = p.linear(h, f"{layer}.mlp.c_proj", c.hidden_size, bias=bias, residual=x)
    last = p.layer_norm(p.gather_rows(x), "model.norm", eps)
    p.logits(last, "model.embed_tokens" if c.tie_word_embeddings else "lm_head", c.vocab_size)


ARCHITECTURE = Architecture(
    "starcoder2", models="StarCoder2", source="arXiv 2402.19173", decoder=emit, renames=BARE, unread=UNREAD
)
