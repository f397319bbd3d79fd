"""The table of supported architectures in the docs is what the engine runs, and each of them has tests.

`python -m tests.architectures.test_table` writes it.
"""

from pathlib import Path

import pytest

from cutwork.architectures import ARCHITECTURES
from tests.engine.tiny import VARIANTS

DOCUMENT = Path(__file__).parents[2] / "docs" / "architectures.md"


def table() -> str:
    """The document."""
    rows = []
    for kind, family in sorted(ARCHITECTURES.items()):
        parts = "encoder and decoder" if family.encoder else "decoder"
        rows.append(f"| `{kind}` | {family.models} | {parts} | {family.source} |")
    return "\n".join(
        [
            "# Supported architectures",
            "",
            "The engine runs these, by the `model_type` of their `config.json`; each is one file in",
            "`src/cutwork/architectures`, equal to transformers on tiny random models: logits and greedy text.",
            "A test checks this table against the engine; `python -m tests.architectures.test_table` writes it.",
            "",
            "| `model_type` | models | parts | described in |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def test_the_documented_table_is_what_the_engine_runs():
    assert DOCUMENT.read_text(encoding="utf-8") == table()


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_every_family_is_compared_with_transformers(kind):
    """Decoders by the tests of all tiny variants, those with an encoder by tests of their own."""
    own = Path(__file__).with_name(f"test_{kind}.py")
    assert own.is_file() if ARCHITECTURES[kind].encoder else kind in {family for family, _ in VARIANTS.values()}


if __name__ == "__main__":
    DOCUMENT.write_text(table(), encoding="utf-8")
