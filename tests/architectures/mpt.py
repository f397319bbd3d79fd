"""Tiny models of MPT: what their configs say apart from `tiny.SMALL`."""

MPT = {"d_model": 48, "n_heads": 6, "n_layers": 3, "max_seq_len": 256}

VARIANTS = {
    "mpt": {**MPT, "attn_config": {"clip_qkv": 0.8}},
    "mpt-scaled-untied": {**MPT, "n_heads": 4, "attn_config": {"softmax_scale": 0.4}, "tie_word_embeddings": False},
}
