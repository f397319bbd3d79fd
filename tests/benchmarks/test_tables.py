import json
import re
from pathlib import Path

import pytest

from benchmarks.claims import CLAIMS, IN_README
from benchmarks.common.provenance import ROOT
from benchmarks.common.results import RESULTS
from benchmarks.tables import MARKED, PAGES, TABLES, filled

LINK = re.compile(r"\]\(([^)\s]+)\)")
TYPED = re.compile(r"\d+\.\d+(?![\d.]*(?:B\b| billion))")  # a decimal that is not the size of a model


def prose(page: Path) -> str:
    """A page without what is generated, and without code."""
    text = MARKED.sub("", page.read_text())
    return re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_say_what_the_results_say(page: Path) -> None:
    assert filled(page) == page.read_text(), "python -m benchmarks.tables writes it"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), link
        if anchor:
            assert anchor in anchors(there), link


def test_every_picture_is_shown() -> None:
    linked = "\n".join(page.read_text() for page in PAGES)
    assert not [file.name for file in RESULTS.rglob("*.png") if f"/{file.name})" not in linked]


def test_a_changed_number_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "results" / "recovery.md"
    copy = tmp_path / "recovery.md"
    copy.write_text(page.read_text().replace("78.8%", "87.8%"))
    assert copy.read_text() != page.read_text()
    assert "87.8%" not in filled(copy)


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "results").glob("*.md")), ids=lambda page: page.stem)
def test_no_figure_is_typed_by_hand(page: Path) -> None:
    assert TYPED.findall(prose(page)) == []


def test_every_result_and_every_table_is_shown() -> None:
    shown = {found["name"] for page in PAGES for found in MARKED.finditer(page.read_text())}
    assert set(TABLES) <= shown
    assert {f"claim {name}" for name in CLAIMS} <= shown
    assert set(IN_README) <= set(CLAIMS)
    used = {name for table in TABLES.values() for name in table.files}
    assert used == {file.stem for file in RESULTS.glob("*.json")}


def test_every_plot_is_of_a_result() -> None:
    names = {file.stem for file in RESULTS.glob("*.json")}
    assert {file.stem for file in RESULTS.glob("*.png")} <= names
    assert [file for file in RESULTS.iterdir() if file.suffix not in (".json", ".png")] == []


def test_tables_tell_the_machine_and_the_commit() -> None:
    telling = {table.files for table in TABLES.values() if not table.told_on}
    for table in TABLES.values():
        text = table.markdown(ROOT / "docs" / "results" / "x.md")
        if table.told_on:
            assert table.files in telling and f"({table.told_on})" in text
            continue
        for name in table.files:
            about = json.loads((RESULTS / f"{name}.json").read_text())["provenance"]
            assert about["commit"][:7] in text
            assert about["processor"]["name"] in text
