"""Tiny models of Mistral: what their configs say apart from `tiny.SMALL`."""

VARIANTS = {
    "mistral-window": {"sliding_window": 9, "head_dim": 8},
    "mistral-full": {"sliding_window": None},
}
REFUSED = {"sliding_window": {"sliding_window": 0}}
