"""Tiny models of StarCoder2: what their configs say apart from `tiny.SMALL`."""

VARIANTS = {
    "starcoder2": {"sliding_window": 9},
    "starcoder2-plain": {"sliding_window": None, "use_bias": False, "tie_word_embeddings": False},
}
REFUSED = {"sliding_window": {"sliding_window": 0}}
