"""Shapes of published models: the only place that knows how wide and deep they are."""

from dataclasses import dataclass
from typing import Any

ROPE_THETA, EPS = 10000.0, 1e-5


@dataclass(frozen=True)
class Shape:
    """A Llama without its weights; `dataclasses.replace` makes cuts of it."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocabulary: int = 32000
    context: int = 4096

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def matrices(self) -> dict[str, tuple[str, int, int]]:
        """Of a layer: Hugging Face name -> (GGUF name, rows, columns)."""
        kv = self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": ("attn_q", self.hidden, self.hidden),
            "self_attn.k_proj": ("attn_k", kv, self.hidden),
            "self_attn.v_proj": ("attn_v", kv, self.hidden),
            "self_attn.o_proj": ("attn_output", self.hidden, self.hidden),
            "mlp.gate_proj": ("ffn_gate", self.mlp, self.hidden),
            "mlp.up_proj": ("ffn_up", self.mlp, self.hidden),
            "mlp.down_proj": ("ffn_down", self.hidden, self.mlp),
        }

    @property
    def weights(self) -> int:
        """Weights that a decoded token reads: those of the blocks and of the output head."""
        blocks = self.layers * sum(rows * cols for _, rows, cols in self.matrices.values())
        return blocks + self.vocabulary * self.hidden

    def cache_bytes(self, tokens: int) -> int:
        """Of the keys and values of that many tokens, in two bytes each."""
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens * 2

    @property
    def config(self) -> dict[str, Any]:
        """The Hugging Face configuration."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "torch_dtype": "bfloat16",
            "hidden_size": self.hidden,
            "intermediate_size": self.mlp,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.context,
            "rms_norm_eps": EPS,
            "rope_theta": ROPE_THETA,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("1.1b", hidden=2048, layers=22, heads=32, kv_heads=4, mlp=5632),  # TinyLlama-1.1B
        Shape("2.7b", hidden=2560, layers=32, heads=20, kv_heads=20, mlp=6912),  # Sheared-LLaMA-2.7B
        Shape("7b", hidden=4096, layers=32, heads=32, kv_heads=32, mlp=11008),  # Llama-2-7B
        Shape("tiny", hidden=256, layers=2, heads=4, kv_heads=2, mlp=512),  # to try the scripts
    )
}
TITLES = {"1.1b": "TinyLlama-1.1B", "2.7b": "Sheared-LLaMA-2.7B", "7b": "Llama-2-7B", "tiny": "two small layers"}

# What is not a Llama, as transformers' configurations say it.
MPT_1B: dict[str, Any] = {  # mpt-1b-redpajama-200b's widths in the layout of mpt-7b
    "architectures": ["MPTForCausalLM"],  # as published models say and llama.cpp expects
    "model_type": "mpt",
    "d_model": 2048,
    "n_heads": 16,
    "n_layers": 24,
    "expansion_ratio": 4,
    "max_seq_len": 2048,
    "no_bias": True,
    "attn_config": {"alibi": True, "attn_type": "multihead_attention"},
}
MPT_7B: dict[str, Any] = MPT_1B | {"d_model": 4096, "n_heads": 32, "n_layers": 32}
QWEN2_1B: dict[str, Any] = {  # Qwen2-1.5B
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "num_hidden_layers": 28,
    "vocab_size": 151936,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
QWEN2_7B: dict[str, Any] = QWEN2_1B | {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}
WHISPER_BASE: dict[str, Any] = {
    "model_type": "whisper",
    "d_model": 512,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "num_mel_bins": 80,
    "max_source_positions": 1500,
}
T5_SMALL: dict[str, Any] = {
    "model_type": "t5",
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
}
T5_BASE: dict[str, Any] = T5_SMALL | {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
