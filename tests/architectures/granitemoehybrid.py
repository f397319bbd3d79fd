"""Tiny models of Granite 4, dense: what their configs say apart from `tiny.SMALL`."""

from tests.architectures.granite import FACTORS

DENSE = {
    **FACTORS,
    "layer_types": ["full_attention"] * 3,
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "shared_intermediate_size": 72,
    "mamba_n_heads": 4,
}

VARIANTS = {
    "granite4": {**DENSE, "position_embedding_type": "rope"},
    "granite4-nowhere-tied": {**DENSE, "tie_word_embeddings": True, "attention_bias": True},
}
REFUSED = {
    "-h-": {"layer_types": ["mamba", "attention", "mamba"]},
    "without experts": {"layer_types": ["attention"] * 3, "num_local_experts": 8},
}
