"""Tiny models of Llama: what their configs say apart from `tiny.SMALL`."""

ROPE = {"rope_theta": 10000.0}

VARIANTS = {
    "llama": {},
    "llama-mha-tied": {"num_key_value_heads": 6, "tie_word_embeddings": True},
    "llama-head-dim-biases": {"head_dim": 16, "attention_bias": True, "mlp_bias": True},
    "llama-linear": {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 3.0}},
    "llama-llama3": {
        "rope_parameters": {
            **ROPE,
            "rope_type": "llama3",
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "llama-yarn": {
        "rope_parameters": {**ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    },
    "llama-gelu-tanh": {"hidden_act": "gelu_pytorch_tanh"},
    "llama-gelu": {"hidden_act": "gelu"},
}
