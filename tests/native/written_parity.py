"""Models in files, with what transformers makes of them, or this processor of weights in slots, for one without torch.

`python -m tests.native.written_parity DIRECTORY` writes them; `CUTWORK_PARITY=DIRECTORY pytest
tests/native/written_parity.py` runs them, without torch and transformers.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from cutwork.engine.model import Model

MODELS = ("llama", "t5", "whisper")
SLOTS = "slots"
EXPECTED = "expected.npz"  # the answer's tokens, their logits, and the encoder's input if there is one


def write(directory: Path) -> None:
    from cutwork.pack.pack import pack
    from tests.architectures import test_t5, test_whisper
    from tests.engine import tiny
    from tests.pack.models import llama_checkpoint

    tokens = np.random.default_rng(0).integers(0, tiny.SMALL["vocab_size"], 50)
    decoder = tiny.make("llama")
    decoder.save_pretrained(directory / "llama")
    np.savez(directory / "llama" / EXPECTED, tokens=tokens, logits=tiny.torch_logits(decoder, tokens))

    source, answer = test_t5.INPUTS[-1], test_t5.ANSWER
    t5 = test_t5.make("v1.1")
    t5.save_pretrained(directory / "t5")
    logits = test_t5.torch_logits(t5, source, answer)
    np.savez(directory / "t5" / EXPECTED, input=source, tokens=answer, logits=logits)

    sound, answer = test_whisper.SPECTROGRAMS[0], test_whisper.ANSWER
    whisper = test_whisper.make()
    whisper.save_pretrained(directory / "whisper")
    logits, _ = test_whisper.torch_logits(whisper, sound, answer)
    np.savez(directory / "whisper" / EXPECTED, input=sound, tokens=answer, logits=logits)

    with tempfile.TemporaryDirectory() as work:
        pack(llama_checkpoint(Path(work) / "model", "I8", "4:16"), directory / SLOTS, overwrite=True)
    with load(directory / SLOTS) as model:
        np.savez(directory / SLOTS / EXPECTED, tokens=tokens, logits=model.logits(tokens.tolist()))


def load(directory: Path) -> Model:
    """With a cache in float32: numbers that are rounded to bfloat16 differ from one instruction set to another."""
    return Model.load(directory, threads=2, cache_bytes=1 << 24, cache_dtype="f32")


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_those_of_transformers(name: str) -> None:
    directory = Path(os.environ["CUTWORK_PARITY"]) / name
    expected = np.load(directory / EXPECTED)
    with load(directory) as model:
        memory = None
        if "input" in expected:
            given = expected["input"]
            memory = model.encode_input(given if given.ndim > 1 else given.tolist())
        logits = model.logits(expected["tokens"].tolist(), memory)
    assert np.abs(logits - expected["logits"]).max() < 1e-4 * np.abs(expected["logits"]).max()


def test_logits_in_slots_equal_those_of_the_processor_that_wrote_them() -> None:
    directory = Path(os.environ["CUTWORK_PARITY"]) / SLOTS
    expected = np.load(directory / EXPECTED)
    with load(directory) as model:
        assert {weight.encoding for name, weight in model.weights.items() if "_proj" in name} == {"slots"}
        logits = model.logits(expected["tokens"].tolist())
    # Sums of codes are the same; a norm's last bit may round an input to another code.
    assert np.abs(logits - expected["logits"]).max() < 1e-2 * np.abs(expected["logits"]).max()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
