"""Tiny models of Qwen2: what their configs say apart from `tiny.SMALL`."""

VARIANTS = {
    "qwen2": {"tie_word_embeddings": True},
    "qwen2-window": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
}
REFUSED = {"layer_types": {"use_sliding_window": True, "layer_types": ["x"]}}
