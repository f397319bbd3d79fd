"""A pytest plugin for emulated processors: the kernel tests with few shapes, of a minute instead of an hour."""

from typing import Any

SHAPES = ((1, 1), (5, 65), (17, 100), (49, 576))
TOKENS = (1, 2, 4, 7, 17)


def pytest_collection_modifyitems(items: list[Any]) -> None:
    for module in {item.module for item in items}:
        for name, few in (("SHAPES", SHAPES), ("TOKENS", TOKENS)):
            if hasattr(module, name):
                setattr(module, name, few)
