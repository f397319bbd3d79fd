"""The costs in native/cost as benchmarks.engine.default_costs reads and writes them."""

from pathlib import Path

import pytest

from benchmarks.engine.default_costs import DEFAULTS, LINE, ZEN4, changes, rewritten


@pytest.mark.parametrize("header", [DEFAULTS, ZEN4])
def test_every_line_of_a_header_is_understood(header: Path) -> None:
    text = header.read_text()
    assert len(LINE.findall(text)) == text.count("Algorithm::")
    assert rewritten(text, {}) == text


def test_only_what_was_measured_changes() -> None:
    text = DEFAULTS.read_text()
    new = {
        ("avx2", "slots slots i8"): [1.25, 0.0, 12.34567, 0.0, 500.4],
        ("avx2", "gemv dense i8"): [1.0, 0.0, 2.0, 0, 0],
    }
    after = rewritten(text, new)
    assert '{"avx2", Algorithm::slots, Encoding::slots, DType::i8, {1.25, 0, 12.35, 0, 500.4}},' in after
    assert '{"avx2", Algorithm::gemv, Encoding::dense, DType::i8, {1, 0, 2}},' in after
    changed = [a for a, b in zip(text.splitlines(), after.splitlines(), strict=True) if a != b]
    assert len(changed) == len(list(changes(text, new))) == 2
