"""Tiny models of Phi-3: what their configs say apart from `tiny.SMALL`."""

PAD = {"pad_token_id": 0}
PARTIAL = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}

VARIANTS = {
    "phi3": PAD,
    "phi3-window": {**PAD, "sliding_window": 9, "num_key_value_heads": 6},
    "phi3-partial-tied": {**PAD, "rope_parameters": PARTIAL, "tie_word_embeddings": True},
}
REFUSED = {
    "longrope": {"rope_scaling": {"type": "su", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}},
    "sliding_window": {"sliding_window": 0},
}
