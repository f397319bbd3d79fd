"""A real model, if CUTWORK_TEST_MODEL names its directory: the same greedy text as transformers."""

import os

import pytest

from cutwork import Model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PATH = os.environ.get("CUTWORK_TEST_MODEL")
PROMPTS = [
    "The capital of France is",
    "Q: Ann has 3 apples and buys 4 more. How many has she?\nA:",
    "Naïve café: 日本語 and emoji 🙂",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PATH, reason="CUTWORK_TEST_MODEL names no model directory"),
]


@pytest.fixture(scope="module")
def model():
    with Model.load(PATH, threads=2, max_context=512, max_batch=4) as loaded:
        yield loaded


def test_greedy_text_equals_transformers(model):
    tokenizer = transformers.AutoTokenizer.from_pretrained(PATH)
    reference = transformers.AutoModelForCausalLM.from_pretrained(PATH, dtype=torch.float32).eval()
    results = model.generate(PROMPTS, max_new_tokens=24)
    for prompt, result in zip(PROMPTS, results, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")
        with torch.no_grad():
            out = reference.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids.input_ids.shape[1] :].tolist()
        assert result.tokens == out
        assert result.text == tokenizer.decode(out, skip_special_tokens=True)


def test_streamed_text_is_whole_characters(model):
    message = {"role": "user", "content": "Write five different emoji."}
    pieces = list(model.chat([message], max_new_tokens=40, temperature=1.0, seed=0, stream=True))
    assert "".join(pieces) == model.chat([message], max_new_tokens=40, temperature=1.0, seed=0).text
    assert "\ufffd" not in "".join(pieces)
