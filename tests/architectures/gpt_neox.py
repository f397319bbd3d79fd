"""Tiny models of GPT-NeoX: what their configs say apart from `tiny.SMALL`."""

ROPE = {"rope_theta": 10000.0}
NEOX = {"num_key_value_heads": None, "rope_parameters": {**ROPE, "rope_type": "default", "partial_rotary_factor": 0.5}}

VARIANTS = {
    "gpt-neox": NEOX,
    "gpt-neox-serial": {**NEOX, "use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True},
}
