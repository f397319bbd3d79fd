"""Tiny models of OLMo 3: what their configs say apart from `tiny.SMALL`."""

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}
FIVE = {"num_hidden_layers": 5, "pad_token_id": 0, "sliding_window": 9}

VARIANTS = {
    "olmo3": FIVE,
    "olmo3-scaled": {
        **FIVE,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": YARN,
        },
    },
}
REFUSED = {"layer_types": {"layer_types": ["full_attention"]}}
