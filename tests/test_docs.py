"""Files that the documentation names are there, and what is there is named."""

import ast
import re
from pathlib import Path

import pytest

from cutwork.tasks.table import SUFFIXES

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


def listing(package: Path) -> str:
    """What the package says of its files, if it lists them: lines with a name, a gap and what that is."""
    said = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
    return said if re.search(r"^ *\S.*\S  +\S", said, re.MULTILINE) else ""


PACKAGES = [file.parent for file in sorted((ROOT / "src").rglob("__init__.py")) if listing(file.parent)]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: str(package.relative_to(ROOT / "src")))
def test_a_package_that_lists_its_files_lists_all(package: Path) -> None:
    files = {file.stem for file in package.glob("*.py")} - {"__init__"}
    assert not {name for name in files if not re.search(rf"\b{name}\b", listing(package))}


def test_every_kind_of_file_with_rows_is_documented() -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert not [suffix for suffix in SUFFIXES if f"`{suffix}`" not in page]
