"""Tiny models of GPT-2: what their configs say apart from `tiny.SMALL`."""

VARIANTS = {
    "gpt2": {},
    "gpt2-by-depth": {
        "n_inner": 72,
        "scale_attn_by_inverse_layer_idx": True,
        "activation_function": "relu",
        "tie_word_embeddings": False,
    },
}
