"""How commands print JSON, and tables."""

import json
import sys
from io import BytesIO, StringIO, TextIOWrapper

import pytest
from rich.console import Console

from cutwork.cli.console import Listing, console, print_json


def test_lists_of_numbers_take_a_line_and_texts_stay_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    value = {
        "tokens": [1, -2, 3.5e-7],
        "nested": [[1, 2], ["3", 4]],
        "text": "[\n 1,\n 2\n] [ 1, 2 ]",
        "[ 3 ]": "[  4\u2028 ]",
        "none": [],
        "bad": [None, 1],
    }
    print_json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value
    assert ' "tokens": [1, -2, 3.5e-07],\n' in printed and "[1, 2],\n" in printed


def test_json_stays_json_where_letters_are_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    written = BytesIO()
    monkeypatch.setattr("sys.stdout", TextIOWrapper(written, encoding="latin-1", errors="backslashreplace"))
    print_json({"text": "ä 😀"})
    sys.stdout.flush()
    assert json.loads(written.getvalue()) == {"text": "ä 😀"}


def printed(width: int, listing: Listing) -> list[str]:
    out = Console(width=width, file=StringIO())
    out.print(listing)
    return [line.rstrip() for line in out.file.getvalue().splitlines()]


@pytest.fixture
def listing() -> Listing:
    result = Listing("title", "weights|shape", "MB|ms", "shape|MB")
    result.add_row("decoder.block.*.layer.*.SelfAttention.{q,k,v}", "256+256+256×256", "0.3", "0.016")
    result.add_row("[lm_head]", "4096×256", "1.1", "0.019")
    return result


def test_a_table_is_whole_where_there_is_room(listing: Listing) -> None:
    assert printed(200, listing) == [
        "title",
        "weights                                        shape             MB     ms",
        "─" * 74,
        "decoder.block.*.layer.*.SelfAttention.{q,k,v}  256+256+256×256  0.3  0.016",
        "[lm_head]                                      4096×256         1.1  0.019",
    ]
    assert printed(74, listing) == printed(200, listing)


def test_names_break_at_their_dots_before_columns_are_left_out(listing: Listing) -> None:
    lines = printed(60, listing)
    assert lines[3:5] == ["decoder.block.*.layer.*.  256+256+256×256  0.3  0.016", "SelfAttention.{q,k,v}"]
    assert not any("no room" in line for line in lines)


@pytest.mark.parametrize(("width", "left_out"), [(45, "shape"), (33, "shape, MB")])
def test_what_matters_least_is_left_out_and_named(listing: Listing, width: int, left_out: str) -> None:
    lines = printed(width, listing)
    assert lines[3].startswith("decoder.block.*.layer.") and lines[3].endswith("0.016")
    assert lines[4].endswith("SelfAttention.{q,k,v}") and "256×256" not in "".join(lines)
    assert " ".join(lines[6:]) == f"no room in this terminal for: {left_out}"


def test_where_nothing_more_can_be_left_out_names_are_cut(listing: Listing) -> None:
    lines = printed(20, listing)
    assert all(len(line) <= 20 for line in lines)
    assert "".join(line.split()[0] for line in lines[3:-4]).startswith("decoder.block.*.layer.*.SelfAttention.{q,k,v}")


def test_a_pipe_gets_lines_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert console().width > 1000
    monkeypatch.setenv("COLUMNS", "80")
    assert console().width == 80
