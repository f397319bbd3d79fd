"""Llama and its relatives: pre-norm, rotary positions, grouped-query attention, gated MLP (arXiv 2302.13971)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cutwork.architectures.architecture import HEAD, Architecture, Emit
from cutwork.architectures.config import MAX_WIDTH, activation, flag, integer, number
from cutwork.architectures.rope import parse_rope
from cutwork.errors import CutworkError
from cutwork.plan.builder import Buffer, Plan, Rope


@dataclass(frozen=True)
class LlamaConfig:
    """What the forward pass depends on, by the config's own names: sizes in floats, `hidden_act` the engine's name,
    `sliding_windows` per layer in tokens (None: full attention), `rotary` whether a layer turns by positions. The
    embedding, the scores of attention (None: 1/√head_dim) and the logits are multiplied by their scales."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    hidden_act: str
    rope: Rope
    sliding_windows: tuple[int | None, ...]
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tie_word_embeddings: bool
    rotary: tuple[bool, ...]
    embedding_scale: float = 1.0
    attention_scale: float | None = None
    logits_scale: float = 1.0


Mlp = Callable[[Plan, Buffer, str, LlamaConfig, Buffer], Buffer]


def parse(config: Mapping[str, Any]) -> LlamaConfig:
    """The config of a `llama` model."""
    attention_bias = flag(config, "attention_bias")
    return decoder(config, qkv_bias=attention_bias, output_bias=attention_bias, mlp_bias=flag(config, "mlp_bias"))


def decoder(
    config: Mapping[str, Any],
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    windows: tuple[int | None, ...] | None = None,
    default_kv_heads: int | None = None,
    partial_rope: bool = False,
) -> LlamaConfig:
    """The fields that all relatives share, checked; the keywords are what tells them apart."""
    width = integer(config, "hidden_size", maximum=MAX_WIDTH)
    heads = integer(config, "num_attention_heads", maximum=4096)
    kv_heads = integer(config, "num_key_value_heads", maximum=heads, default=default_kv_heads or heads)
    head_dim = integer(config, "head_dim", maximum=1024, default=width // heads)
    layers = integer(config, "num_hidden_layers", maximum=1024)
    if heads % kv_heads:
        raise CutworkError(f"config.json: {heads} attention heads are not a multiple of {kv_heads} key-value heads")
    if head_dim % 2:
        raise CutworkError(f"config.json: head_dim must be even for rotary positions, not {head_dim}")
    if heads * head_dim > MAX_WIDTH:
        raise CutworkError(f"config.json: {heads} heads of {head_dim} exceed the engine's widest layer, {MAX_WIDTH}")
    return LlamaConfig(
        vocab_size=integer(config, "vocab_size", maximum=1 << 24),
        hidden_size=width,
        intermediate_size=integer(config, "intermediate_size", maximum=MAX_WIDTH),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=number(config, "rms_norm_eps", 1e-6),
        hidden_act=activation(config),
        rope=parse_rope(config, head_dim, partial=partial_rope),
        sliding_windows=windows or (None,) * layers,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        mlp_bias=mlp_bias,
        qk_norm=qk_norm,
        tie_word_embeddings=flag(config, "tie_word_embeddings"),
        rotary=(True,) * layers,
    )


def gated_mlp(p: Plan, h: Buffer, layer: str, c: LlamaConfig, x: Buffer) -> Buffer:
    """x plus the MLP of h, by the names of most families."""
    mlp = f"{layer}.mlp"
    gate, up = p.linears(h, {f"{mlp}.{n}_proj": c.intermediate_size for n in ("gate", "up")}, bias=c.mlp_bias)
    h = p.glu(gate, up, c.hidden_act)
    return p.linear(h, f"{mlp}.down_proj", c.hidden_size, bias=c.mlp_bias, residual=x)


def emit(p: Plan, c: LlamaConfig, mlp: Mlp = gated_mlp) -> None:
    """The forward pass."""
    heads, kv_heads = c.num_attention_heads, c.num_key_value_heads
    widths = {"q": heads * c.head_dim, "k": kv_heads * c.head_dim, "v": kv_heads * c.head_dim}
    x = p.embed("model.embed_tokens", c.vocab_size, c.hidden_size, scale=c.embedding_scale)
    for i, window in enumerate(c.sliding_windows):
        layer, attention = f"model.layers.{i}", f"model.layers.{i}.self_attn"
        h = p.rms_norm(x, f"{layer}.input_layernorm", c.rms_norm_eps)
        q, k, v = p.linears(h, {f"{attention}.{n}_proj": width for n, width in widths.items()}, bias=c.qkv_bias)
        if c.qk_norm:
            q = p.rms_norm(q, f"{attention}.q_norm", c.rms_norm_eps, heads)
            k = p.rms_norm(k, f"{attention}.k_norm", c.rms_norm_eps, kv_heads)
        if c.rotary[i]:
            q, k = p.rope(q, heads, c.rope), p.rope(k, kv_heads, c.rope)
        scale = c.attention_scale
        a = p.attention(q, k, v, cache=i, heads=heads, kv_heads=kv_heads, window=window, scale=scale)
        x = p.linear(a, f"{attention}.o_proj", c.hidden_size, bias=c.output_bias, residual=x)
        x = mlp(p, p.rms_norm(x, f"{layer}.post_attention_layernorm", c.rms_norm_eps), layer, c, x)
    last = p.rms_norm(p.gather_rows(x), "model.norm", c.rms_norm_eps, scale=c.logits_scale)
    p.logits(last, "model.embed_tokens" if c.tie_word_embeddings else "lm_head", c.vocab_size)


def like_llama(parse: Callable[[Mapping[str, Any]], LlamaConfig], mlp: Mlp = gated_mlp) -> Emit:
    """The forward pass of a model that differs from Llama only in what its config says, or in its MLP."""
    return lambda plan, config: emit(plan, parse(config), mlp)


# The names of a checkpoint without a head, as those that make vectors are.
BARE = tuple((name, f"model.{name}") for name in ("embed_tokens.", "layers.", "norm."))
UNREAD = ("*.rotary_emb.inv_freq", HEAD, "score.*")  # the head, where it is a copy of the embedding, or classifies
ARCHITECTURE = Architecture(
    "llama",
    models="Llama 1, 2, 3, 3.1 and 3.2, TinyLlama, SmolLM and SmolLM2, Falcon 3, Vicuna, Yi, DeepSeek LLM",
    source="arXiv 2302.13971",
    decoder=like_llama(parse),
    renames=BARE,
    unread=UNREAD,
)
