"""What a message advises to install can be installed from where the user is."""

import tomllib
from pathlib import Path

import pytest

import cutwork
from cutwork.extras import install

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_is_installed_by_the_names_of_its_packages(extra: str) -> None:
    command = install(extra)
    assert command.startswith("pip install ")
    assert command.count('"') == 2 * len(EXTRAS[extra]) and all(f'"{package}"' in command for package in EXTRAS[extra])


def test_it_can_be_pasted_into_any_shell() -> None:
    assert install("eval") == 'pip install "jiwer>=3.1" "matplotlib>=3.9" "sacrebleu>=2.4"'


def test_no_message_names_a_distribution_that_is_on_no_index() -> None:
    files = Path(cutwork.__file__).parent.rglob("*.py")
    assert not [file for file in files if "pip install 'cutwork" in file.read_text(encoding="utf-8")]
