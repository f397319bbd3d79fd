"""Tiny models of Ministral: what their configs say apart from `tiny.SMALL`."""

VARIANTS = {
    "ministral": {
        "head_dim": 8,
        "sliding_window": 9,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
    "ministral-window": {"sliding_window": 9, "head_dim": 12},
}
REFUSED = {"layer_types": {"layer_types": ["full_attention", "chunked_attention", "full_attention"]}}
