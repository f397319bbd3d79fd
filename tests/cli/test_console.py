"""How commands print JSON."""

import json

import pytest

from cutwork.cli.console import print_json


def test_lists_of_numbers_take_a_line_and_texts_stay_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    value = {
        "tokens": [1, -2, 3.5e-7],
        "nested": [[1, 2], ["3", 4]],
        "text": "[\n 1,\n 2\n]",
        "none": [],
        "bad": [None, 1],
    }
    print_json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value
    assert ' "tokens": [1, -2, 3.5e-07],\n' in printed and "[1, 2],\n" in printed
