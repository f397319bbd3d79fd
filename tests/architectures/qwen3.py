"""Tiny models of Qwen3: what their configs say apart from `tiny.SMALL`."""

VARIANTS = {
    "qwen3": {"head_dim": 16},
    "qwen3-biases": {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": True},
}
