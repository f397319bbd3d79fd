"""What the name of a tensor or a module says of the block it is in: `model.layers.3.mlp.up_proj` is in block 3."""

import re

_NUMBER = re.compile(r"\.(\d+)(?=\.)")


def in_block(name: str) -> bool:
    """Whether it is in any block, as embeddings, heads and last norms are not."""
    return _NUMBER.search(name) is not None


def of_any_block(name: str) -> str:
    """What those have in common that differ in their block's number only: `model.layers.*.mlp.up_proj`."""
    return _NUMBER.sub(".*", name)


def place(name: str) -> tuple[int, str]:
    """(the number of its block, what it is called there); (0, name) outside of blocks."""
    found = _NUMBER.search(name)
    return (int(found[1]), name[found.end() + 1 :]) if found else (0, name)
