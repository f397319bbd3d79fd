"""What Gemma 2 and 3 and T5Gemma share: blocks with a norm before and behind every part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cutwork.architectures.config import integer, number
from cutwork.architectures.llama import LlamaConfig, decoder
from cutwork.architectures.modernbert import window_bias
from cutwork.plan.builder import Buffer, Plan, Rope


@dataclass(frozen=True)
class Stack:
    """A stack of blocks, as its config describes it, which its methods emit.

    c: what the config has in common with Llama's. scale: of the scores of attention; cap, final_cap: of these and of
    the logits, 0 for none (arXiv 2408.00118). longest: tokens of a text at most.
    """

    p: Plan
    c: LlamaConfig
    scale: float
    cap: float
    final_cap: float
    longest: int

    def embed(self, name: str) -> Buffer:
        """The embedding of the tokens."""
        return self.p.embed(name, self.c.vocab_size, self.c.hidden_size, scale=self.c.hidden_size**0.5)

    def norm(self, x: Buffer, name: str, groups: int = 1) -> Buffer:
        """The norm of each of the groups of x; weights are stored less one."""
        return self.p.rms_norm(x, name, self.c.rms_norm_eps, groups, offset=1.0)

    def project(self, h: Buffer, attention: str, rope: Rope, *, head_norms: bool) -> tuple[Buffer, Buffer, Buffer]:
        """Queries, keys and values, the first two turned by their positions."""
        c, p = self.c, self.p
        heads, kv_heads = c.num_attention_heads, c.num_key_value_heads
        widths = {"q": heads * c.head_dim, "k": kv_heads * c.head_dim, "v": kv_heads * c.head_dim}
        q, k, v = p.linears(h, {f"{attention}.{n}_proj": width for n, width in widths.items()}, bias=c.qkv_bias)
        if head_norms:
            q, k = self.norm(q, f"{attention}.q_norm", heads), self.norm(k, f"{attention}.k_norm", kv_heads)
        return p.rope(q, heads, rope), p.rope(k, kv_heads, rope), v

    def attend_back(self, i: int, q: Buffer, k: Buffer, v: Buffer) -> Buffer:
        """Causal attention of block i."""
        heads, kv_heads, window = self.c.num_attention_heads, self.c.num_key_value_heads, self.c.sliding_windows[i]
        return self.p.attention(
            q, k, v, cache=i, heads=heads, kv_heads=kv_heads, window=window, scale=self.scale, cap=self.cap
        )

    def attend_around(self, q: Buffer, k: Buffer, v: Buffer, reach: int | None) -> Buffer:
        """Attention to the tokens before and after; with a reach, to those no farther away."""
        heads, kv_heads = self.c.num_attention_heads, self.c.num_key_value_heads
        k, v = (_repeat(self.p, each, kv_heads, heads // kv_heads) for each in (k, v))
        bias = None if reach is None else window_bias(heads, reach, self.longest)
        return self.p.self_attention(q, k, v, heads=heads, scale=self.scale, cap=self.cap, bias=bias)

    def attended(self, x: Buffer, a: Buffer, attention: str, norm: str) -> Buffer:
        """x plus what an attention brings."""
        return self.p.add(x, self.norm(self.p.linear(a, f"{attention}.o_proj", x.width, bias=self.c.output_bias), norm))

    def feed_forward(self, x: Buffer, layer: str) -> Buffer:
        """x plus what the MLP brings."""
        c, p = self.c, self.p
        h = self.norm(x, f"{layer}.pre_feedforward_layernorm")
        gate, up = p.linears(h, {f"{layer}.mlp.{n}_proj": c.intermediate_size for n in ("gate", "up")})
        h = p.linear(p.glu(gate, up, c.hidden_act), f"{layer}.mlp.down_proj", c.hidden_size)
        return p.add(x, self.norm(h, f"{layer}.post_feedforward_layernorm"))


def parse(p: Plan, config: Mapping[str, Any], kinds: Sequence[str], longest: int = 1 << 24) -> Stack:
    """The stack of a config. kinds: what each of its layers attends to. longest: tokens of a text at most, of no
    concern to one that only looks back."""
    window = integer(config, "sliding_window", maximum=1 << 24, default=4096)
    usual = {
        "hidden_act": config.get("hidden_activation", "gelu_pytorch_tanh"),
        "head_dim": config.get("head_dim", 256),
        "tie_word_embeddings": config.get("tie_word_embeddings", True),
        "rope_parameters": None,
    }
    bias = bool(config.get("attention_bias"))
    windows = tuple(window if kind == "sliding_attention" else None for kind in kinds)
    return Stack(
        p,
        decoder({**config, **usual}, qkv_bias=bias, output_bias=bias, windows=windows, default_kv_heads=4),
        scale=number(config, "query_pre_attn_scalar", 256, minimum=1e-6) ** -0.5,
        cap=_cap(config, "attn_logit_softcapping"),
        final_cap=_cap(config, "final_logit_softcapping"),
        longest=longest,
    )


def emit_decoder(stack: Stack, ropes: Sequence[Rope], *, head_norms: bool, both_ways: bool = False) -> None:
    """Gemma 2's and 3's forward pass. ropes: of each layer. head_norms: heads of queries and keys have norms.
    both_ways: an encoder, as EmbeddingGemma is, whose windows lie half before and half behind a token."""
    p, c = stack.p, stack.c
    x = stack.embed("model.embed_tokens")
    for i, rope in enumerate(ropes):
        layer, attention = f"model.layers.{i}", f"model.layers.{i}.self_attn"
        q, k, v = stack.project(stack.norm(x, f"{layer}.input_layernorm"), attention, rope, head_norms=head_norms)
        if both_ways:
            window = c.sliding_windows[i]
            a = stack.attend_around(q, k, v, None if window is None else window // 2)
        else:
            a = stack.attend_back(i, q, k, v)
        x = stack.attended(x, a, attention, f"{layer}.post_attention_layernorm")
        x = stack.feed_forward(x, layer)
    last = stack.norm(p.gather_rows(x), "model.norm")
    if both_ways:
        p.output(last)
    else:
        head = "model.embed_tokens" if c.tie_word_embeddings else "lm_head"
        p.logits(last, head, c.vocab_size, cap=stack.final_cap)


def _repeat(p: Plan, x: Buffer, heads: int, times: int) -> Buffer:
    """Each of the heads of x so many times, side by side."""
    if times == 1:
        return x
    width = x.width // heads
    each = [p.slice(x, pieces=1, width=width, stride=width, first=head * width) for head in range(heads)]
    return p.unfold([(head, 0) for head in each for _ in range(times)])


def _cap(config: Mapping[str, Any], key: str) -> float:
    return 0.0 if config.get(key) is None else number(config, key, minimum=1e-3)
