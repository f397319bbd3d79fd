"""Files that the documentation names are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOLDERS = ("src", "native", "benchmarks", "tests", "docs", "recipes", "deploy")
NAMED = re.compile(r"`([\w./-]+\.(?:py|cpp|h|inc|yaml|md))`")
# What is made by commands or belongs to others.
MADE = {"results.md", "OUT/recipe.yaml", "convert_hf_to_gguf.py", "mine.yaml", "my-recipe.yaml"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_exist(page: Path) -> None:
    there = [f"/{file.relative_to(ROOT)}" for name in FOLDERS for file in (ROOT / name).rglob("*.*")]
    named = set(NAMED.findall(page.read_text())) - MADE
    missing = {name for name in named if not any(file.endswith(f"/{name}") for file in there)}
    assert not missing


def test_the_architecture_fits_on_two_screens() -> None:
    lines = (ROOT / "docs" / "architecture.md").read_text().splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 200
