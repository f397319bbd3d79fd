"""Tiny models of SmolLM3: what their configs say apart from `tiny.SMALL`."""

FIVE = {"num_hidden_layers": 5, "pad_token_id": 0}

VARIANTS = {
    "smollm3": FIVE,
    "smollm3-window": {**FIVE, "use_sliding_window": True, "sliding_window": 9, "no_rope_layer_interval": 2},
    "smollm3-chosen-biases": {**FIVE, "no_rope_layers": [0, 1, 1, 0, 1], "attention_bias": True, "mlp_bias": True},
}
REFUSED = {"no_rope_layers": {"no_rope_layers": [1, 0]}}
