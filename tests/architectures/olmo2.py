"""Tiny models of OLMo 2: what their configs say apart from `tiny.SMALL`."""

VARIANTS = {
    "olmo2": {"pad_token_id": 0},
    "olmo2-biases-tied": {"pad_token_id": 0, "attention_bias": True, "tie_word_embeddings": True},
}
