"""`cutwork translate`: lines in, lines out, resumable."""

import json
from pathlib import Path
from typing import Any

import pytest

from cutwork.engine.load_options import result_key
from cutwork.store.fingerprint import fingerprint
from cutwork.store.journal import Journal
from tests.architectures.test_t5 import make
from tests.cli.test_commands import cutwork  # noqa: F401 (a fixture)
from tests.text_to_text import save

LINES = ["one", "", "a longer line than the others", "two\ttabs", "\u2028one line"]


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make("v1.1"), tmp_path_factory.mktemp("t5"))


def test_lines_stay_lines_and_json_has_both(cutwork: Any, t5: Path, tmp_path: Path) -> None:  # noqa: F811
    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("\n".join(LINES) + "\n")
    options = ("-f", source, "--num-beams", 2, "-n", 5, "-t", 1)
    status, _, err = cutwork("translate", t5, *options, "-o", output)
    assert status == 0 and "5 translations" in err
    assert len(output.read_text().split("\n")) == len(LINES) + 1
    status, out, _ = cutwork("translate", t5, *options, "--json")
    rows = json.loads(out)
    assert [row["source"] for row in rows] == LINES
    assert rows[1]["translation"] == "" and rows[0]["tokens"] <= 5
    status, out, _ = cutwork("translate", t5, *options, "--workers", 2)
    assert status == 0 and out == output.read_text()
    status, _, err = cutwork("translate", t5, *options, "-o", output)
    assert status == 1 and "exists already" in err


def test_it_goes_on_where_it_was_interrupted(cutwork: Any, t5: Path, tmp_path: Path) -> None:  # noqa: F811
    output = tmp_path / "out.txt"
    partial = tmp_path / ".out.txt.partial"
    arguments = ("translate", t5, "one", "two", "--num-beams", 1, "-n", 4, "-t", 1, "-o", output)
    options = {"prefix": None, "source": None, "target": None, "num_beams": 1, "max_new_tokens": 4}
    key = [fingerprint(t5), ["one", "two"], options, result_key({})]
    with Journal(output, key) as journal:
        journal.add([1, {"translation": "kept", "finish_reason": "stop"}])
    with partial.open("a") as file:
        file.write('[0, {"transl')
    status, _, err = cutwork(*arguments)
    assert status == 0 and "1 of 2 are translated already" in err
    assert output.read_text().split("\n")[1] == "kept"
    assert not partial.exists()
    output.unlink()
    with Journal(output, key) as journal:
        journal.add([1, {"translation": "stale", "finish_reason": "stop"}])
    status, _, err = cutwork(*arguments, "--no-repeat-ngram-size", 3)
    assert status == 0 and "already" not in err and "stale" not in output.read_text()


def test_what_fewer_beams_have_found_is_not_taken_up(cutwork: Any, t5: Path, tmp_path: Path) -> None:  # noqa: F811
    output = tmp_path / "out.txt"
    options = {"prefix": None, "source": None, "target": None, "max_new_tokens": 4, "num_beams": 2}
    key = [fingerprint(t5), ["one", "two"], options, result_key({})]
    for more, taken in (("--max-batch", 3), False), (("--max-batch", 2), True), (("--num-beams", 2), True):
        with Journal(output, key) as journal:
            journal.add([1, {"translation": "kept", "finish_reason": "stop"}])
        status, _, err = cutwork("translate", t5, "one", "two", "-n", 4, "-t", 1, *more, "-o", output, "--overwrite")
        assert status == 0 and ("1 of 2 are translated already" in err) == taken, more


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("text", "--file", "x"), "not both"),
        (("--file", "nowhere.txt"), "cannot read texts"),
        (("",), "all is empty"),
        (("text", "--overwrite"), "--overwrite is for --output alone"),
        (("text", "--num-beams", 1, "--length-penalty", 2), "--length-penalty is for beam search"),
    ],
)
def test_bad_input_is_one_sentence(cutwork: Any, t5: Path, arguments: tuple, message: str) -> None:  # noqa: F811
    status, _, err = cutwork("translate", t5, *arguments)
    assert status == 1 and message in err and len(err.strip().splitlines()) == 1
