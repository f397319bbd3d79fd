"""Tiny models of Phi-3: what their configs say apart from `tiny.SMALL`."""

PAD = {"pad_token_id": 0}
PARTIAL = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
_FACTORS = {"short_factor": [1.0, 1.2, 1.5, 3.0], "long_factor": [1.0, 4.0, 9.0, 20.0]}
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, **_FACTORS}
LONG = {"original_max_position_embeddings": 128, "max_position_embeddings": 512}

VARIANTS = {
    "phi3": PAD,
    "phi3-window": {**PAD, "sliding_window": 9, "num_key_value_heads": 6},
    "phi3-partial-tied": {**PAD, "rope_parameters": PARTIAL, "tie_word_embeddings": True},
    "phi3-longrope": {**PAD, **LONG, "rope_parameters": LONGROPE},
}
REFUSED = {
    "short_factor": {"rope_scaling": {"type": "su", "short_factor": [1.0] * 3, "long_factor": [2.0] * 3}},
    "sliding_window": {"sliding_window": 0},
}
