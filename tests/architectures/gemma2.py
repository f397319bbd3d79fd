"""Tiny models of Gemma 2: what their configs say apart from `tiny.SMALL`."""

GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 20, "sliding_window": 7}

VARIANTS = {
    "gemma2": GEMMA,
    # Caps so low that they bend most scores and logits of a tiny model.
    "gemma2-bent": {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma2-uncapped-full": {
        **GEMMA,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "attention_bias": True,
        "layer_types": ["full_attention"] * 3,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0},
    },
}
