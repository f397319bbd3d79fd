"""Tiny models of Gemma 3: what their configs say apart from `tiny.SMALL`."""

GEMMA = {
    "head_dim": 16,
    "query_pre_attn_scalar": 20,
    "sliding_window": 7,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0},
    },
}

VARIANTS = {
    "gemma3": GEMMA,
    "gemma3-biases-full": {
        **GEMMA,
        "attention_bias": True,
        "layer_types": ["full_attention"] * 3,
        "tie_word_embeddings": False,
    },
}
