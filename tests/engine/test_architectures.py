"""The table of supported architectures in the docs is what the engine runs.

`python -m tests.engine.test_architectures` writes it.
"""

from pathlib import Path

import pytest

from cutwork.architectures import ARCHITECTURES, ENCODERS

from .test_t5 import VARIANTS as T5
from .tiny import VARIANTS

DOCUMENT = Path(__file__).parents[2] / "docs" / "architectures.md"
MODELS = {
    "gemma3_text": ("Gemma 3 1B and 270M, and the text part of larger ones saved apart", "arXiv 2503.19786"),
    "gpt2": ("GPT-2, DistilGPT-2 and others of its shape", "Radford et al. 2019"),
    "gpt_neox": ("GPT-NeoX-20B, Pythia, RedPajama-INCITE, Dolly 2", "arXiv 2204.06745"),
    "llama": (
        "Llama 1, 2, 3, 3.1 and 3.2, TinyLlama, SmolLM and SmolLM2, Vicuna, Yi, DeepSeek LLM",
        "arXiv 2302.13971",
    ),
    "mistral": ("Mistral 7B, Zephyr, Mistral Nemo", "arXiv 2310.06825"),
    "mpt": ("MPT-7B and MPT-30B, with `clip_qkv` and `qk_ln`", "Databricks 2023"),
    "qwen2": ("Qwen 1.5, Qwen2 and Qwen2.5, DeepSeek-R1-Distill-Qwen", "arXiv 2407.10671"),
    "qwen3": ("Qwen3, dense", "arXiv 2505.09388"),
    "t5": ("T5, T5 v1.1, Flan-T5", "arXiv 1910.10683"),
    "whisper": ("Whisper from tiny to large-v3 and turbo, multilingual and .en, Distil-Whisper", "arXiv 2212.04356"),
}


def table() -> str:
    """The document."""
    rows = []
    for kind in sorted(ARCHITECTURES):
        models, source = MODELS[kind]
        parts = "encoder and decoder" if kind in ENCODERS else "decoder"
        rows.append(f"| `{kind}` | {models} | {parts} | {source} |")
    return "\n".join(
        [
            "# Supported architectures",
            "",
            "The engine runs these, by the `model_type` of their `config.json`; each is one file in",
            "`src/cutwork/architectures`, equal to transformers on tiny random models: logits and greedy text.",
            "A test checks this table against the engine; `python -m tests.engine.test_architectures` writes it.",
            "",
            "| `model_type` | models | parts | described in |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def test_the_documented_table_is_what_the_engine_runs():
    assert MODELS.keys() == ARCHITECTURES.keys()
    assert DOCUMENT.read_text(encoding="utf-8") == table()


@pytest.mark.parametrize("kind", sorted(set(ARCHITECTURES) - set(ENCODERS)))
def test_every_decoder_is_compared_with_transformers(kind):
    assert kind in {family for family, _ in VARIANTS.values()}


def test_every_encoder_has_tests_of_its_own():
    assert T5 and {"test_t5.py", "test_whisper.py"} <= {path.name for path in Path(__file__).parent.glob("test_*.py")}


if __name__ == "__main__":
    DOCUMENT.write_text(table(), encoding="utf-8")
