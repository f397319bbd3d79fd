"""GPT-NeoX and Pythia: attention and MLP side by side, rotary positions on a part of each head (arXiv 2204.06745)."""

from collections.abc import Mapping
from typing import Any

from cutwork.architectures.architecture import HEAD, Architecture
from cutwork.architectures.config import MAX_WIDTH, activation, flag, integer, number
from cutwork.architectures.rope import parse_rope
from cutwork.errors import CutworkError
from cutwork.plan.builder import Plan


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The forward pass."""
    vocabulary = integer(config, "vocab_size", maximum=1 << 24)
    width = integer(config, "hidden_size", maximum=MAX_WIDTH)
    heads = integer(config, "num_attention_heads", maximum=4096)
    if width % heads:
        raise CutworkError(f"config.json: hidden_size {width} is not a multiple of num_attention_heads {heads}")
    head_dim = width // heads
    mlp = integer(config, "intermediate_size", maximum=MAX_WIDTH)
    eps, bias = number(config, "layer_norm_eps", 1e-5), flag(config, "attention_bias", True)
    parallel, act = flag(config, "use_parallel_residual", True), activation(config, "gelu")
    # By the names of GPT-NeoX alone: at the top level transformers does not read the others'.
    own = {"rope_theta": config.get("rotary_emb_base"), "partial_rotary_factor": config.get("rotary_pct", 0.25)}
    rope = parse_rope({**config, **own}, head_dim, partial=True)

    x = p.embed("gpt_neox.embed_in", vocabulary, width)
    for i in range(integer(config, "num_hidden_layers", maximum=1024)):
        layer = f"gpt_neox.layers.{i}"
        h = p.layer_norm(x, f"{layer}.input_layernorm", eps)
        qkv = p.linear(h, f"{layer}.attention.query_key_value", 3 * width, bias=bias)
        q, k, v = (
            p.slice(qkv, pieces=heads, width=head_dim, stride=3 * head_dim, first=n * head_dim) for n in range(3)
        )
        q, k = p.rope(q, heads, rope), p.rope(k, heads, rope)
        a = p.attention(q, k, v, cache=i, heads=heads, kv_heads=heads)
        y = p.linear(a, f"{layer}.attention.dense", width, bias=bias, residual=x)
        h = p.layer_norm(x if parallel else y, f"{layer}.post_attention_layernorm", eps)
        h = p.linear(h, f"{layer}.mlp.dense_h_to_4h", mlp, bias=True, activation=act)
        x = p.linear(h, f"{layer}.mlp.dense_4h_to_h", width, bias=True, residual=y)
    last = p.layer_norm(p.gather_rows(x), "gpt_neox.final_layer_norm", eps)
    p.logits(last, "gpt_neox.embed_in" if flag(config, "tie_word_embeddings") else "lm_head", vocabulary)


ARCHITECTURE = Architecture(
    "gpt_neox",
    models="GPT-NeoX-20B, Pythia, RedPajama-INCITE, Dolly 2",
    source="arXiv 2204.06745",
    decoder=emit,
    embedding="gpt_neox.embed_in.weight",
    renames=(("embed_out.weight", HEAD),),
    unread=("*.rotary_emb.inv_freq", "*.attention.bias", "*.attention.masked_bias", HEAD),
)
