"""Tiny models of Granite 3: what their configs say apart from `tiny.SMALL`."""

FACTORS = {
    "embedding_multiplier": 6.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.3,
    "logits_scaling": 4.0,
    "pad_token_id": 0,
}

VARIANTS = {
    "granite": FACTORS,
    "granite-tied-biases": {**FACTORS, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
}
REFUSED = {"residual_multiplier": {"residual_multiplier": 0}}
