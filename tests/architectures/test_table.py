"""The table of supported architectures in the docs is what the engine runs, and each of them has tests.

`python -m tests.architectures.test_table` writes it.
"""

from pathlib import Path

import pytest

from cutwork.architectures import ARCHITECTURES
from tests.architectures.test_encoders import ENCODERS
from tests.engine import bart_tiny, t5gemma_tiny
from tests.engine.tiny import VARIANTS

DOCUMENT = Path(__file__).parents[2] / "docs" / "architectures.md"


def table() -> str:
    """The document."""
    rows = []
    for kind, family in sorted(ARCHITECTURES.items()):
        parts = " and ".join(part for part in ("encoder", "decoder") if getattr(family, part))
        rows.append(f"| `{kind}` | {family.models} | {parts} | {family.source} |")
    return "\n".join(
        [
            "# Supported architectures",
            "",
            "The engine runs these, by the `model_type` of their `config.json`; each is one file in",
            "`src/cutwork/architectures`, equal to transformers on tiny random models: logits and greedy text, or an",
            "encoder's hidden states.",
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
    """Decoders and encoders by the tests of all tiny variants, those that are both by tests of their own."""
    family = ARCHITECTURES[kind]
    own = Path(__file__).with_name(f"test_{kind}.py")
    compared = {family for family, _ in (ENCODERS if family.encoder else VARIANTS).values()}
    if family.encoder and family.decoder:
        assert own.is_file() or kind in bart_tiny.FAMILIES | t5gemma_tiny.FAMILIES
    else:
        assert kind in compared


if __name__ == "__main__":
    DOCUMENT.write_text(table(), encoding="utf-8")
