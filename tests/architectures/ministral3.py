"""Tiny models of Ministral 3: what their configs say apart from `tiny.SMALL`."""

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 128,
        "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}  # fmt: skip

VARIANTS = {
    "ministral3": {"pad_token_id": 0, "head_dim": 16, "rope_parameters": YARN},
    "ministral3-window-tied": {
        "pad_token_id": 0,
        "head_dim": 12,
        "rope_parameters": YARN,
        "sliding_window": 9,
        "tie_word_embeddings": True,
    },
}
