"""SmolLM2-135M, dense and with half of its weights pruned, against transformers on 2,000 tokens of English."""

import copy
from pathlib import Path

import numpy as np
import pytest

from cutwork import Model

from .tiny import packed, relative, torch_logits

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXT = Path(__file__).parents[2] / "LICENSE"
PROMPTS = [
    "The capital of France is",
    "Q: Ann has 3 apples and buys 4 more. How many has she?\nA:",
    "Naïve café: 日本語 and emoji 🙂",
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokens(smollm2):
    return np.array(transformers.AutoTokenizer.from_pretrained(smollm2).encode(TEXT.read_text())[:2000])


@pytest.fixture(scope="module", params=[0.0, 0.5], ids=["dense", "sparse"])
def original(request, smollm2):
    """transformers' model in float32; sparse, without the smaller half of each linear of its blocks."""
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    for _, linear in block_linears(model) if request.param else []:
        weight = linear.weight.data
        weight[weight.abs() <= weight.abs().flatten().kthvalue(round(weight.numel() * request.param)).values] = 0
    return model


def block_linears(model):
    return [(n, m) for n, m in model.named_modules() if ".layers." in n and isinstance(m, torch.nn.Linear)]


def load(model, smollm2, dtype, **options):
    """The engine's model of rounded weights, which transformers' model then holds too."""
    source = packed(model, smollm2, dtype)
    return Model(source, **{"threads": 2, "max_context": 2048, "max_batch": 4, "cache_dtype": "f32", **options})


def rms(difference):
    return float(np.sqrt(np.square(difference, dtype=np.float64).mean()))


@pytest.fixture(scope="module")
def exact(original, tokens):
    """transformers' logits in float32."""
    return torch_logits(original, tokens)


def assert_equal(found, expected):
    """Within the rounding of float32, and with the same likeliest token wherever it is not one of two by a hair."""
    assert relative(found, expected) < 5e-5
    best = np.sort(expected, axis=-1)[:, -2:]
    clear = best[:, 1] - best[:, 0] > 2e-4 * np.abs(expected).max()
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(found.argmax(-1)[clear], expected.argmax(-1)[clear])


def test_logits_in_float32_equal_transformers(original, smollm2, tokens, exact):
    assert exact.shape == (2000, 49152)
    with load(original, smollm2, "f32") as engine:
        assert_equal(engine.logits(tokens.tolist()), exact)


def test_logits_in_bfloat16_equal_transformers(original, smollm2, tokens, exact):
    model = copy.deepcopy(original)
    with load(model, smollm2, "bf16") as engine:
        expected = torch_logits(model, tokens)
        assert_equal(engine.logits(tokens.tolist()), expected)
    with load(model, smollm2, "bf16", cache_dtype="auto") as engine:
        assert engine.cache_dtype == "bf16"
        # Keys and values are rounded like the weights, and queries and softmax weights where bfloat16 is multiplied:
        # each does about as much to the logits as that did.
        most = 2.0 if engine.isa in ("amx", "avx512") else 1.5
        assert rms(engine.logits(tokens.tolist()) - expected) < most * rms(expected - exact)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_greedy_text_equals_transformers(original, smollm2, dtype):
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    model = copy.deepcopy(original)
    with load(model, smollm2, dtype) as engine:
        results = engine.generate(PROMPTS, max_new_tokens=24)
    for prompt, result in zip(PROMPTS, results, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")
        with torch.no_grad():
            out = model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids.input_ids.shape[1] :].tolist()
        assert result.tokens == out
        assert result.text == tokenizer.decode(out, skip_special_tokens=True)


# ---- int8 ----
# Codes lie on a grid, and an activation between two of its points goes to the one or the other by the last bit of a
# float: after 30 blocks two correct computations are as far apart as either is from the float model. So products of the
# same codes are compared exactly, then block by block, and of the whole model that it errs no more than torch's does.


def rounded(x):
    """Activations [..., D] as the engine's int8 linears see them: one scale per token, codes from -127 to 127."""
    scale = x.abs().amax(-1, keepdim=True) / 127
    return (x / scale).round() * scale


def round_inputs(model):
    for _, linear in block_linears(model):
        linear.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]),))


def test_products_of_int8_are_exact(original, smollm2, tokens):
    """Every linear, given what it is given in the float model, massive activations included."""
    model = copy.deepcopy(original)
    inputs = {}
    for name, linear in block_linears(model):
        linear.register_forward_pre_hook(lambda _, x, name=name: inputs.update({name: x[0][0].numpy()}))
    torch_logits(model, tokens[:100])
    source = packed(model, smollm2, "i8")
    with Model(source, threads=2) as engine:
        for name, x in inputs.items():
            scale = np.abs(x).max(-1, keepdims=True) / np.float32(127)
            weight = source.weights[f"{name}.weight"]
            native = engine.weights[f"{name}.weight"]
            codes = native.to_dense().astype(np.float64)
            sums = np.rint(x / scale).astype(np.float64) @ codes.T  # exact: below 2^53
            expected = sums.astype(np.float32) * (scale * weight.scale[None])
            np.testing.assert_array_max_ulp(native.matmul(x, threads=2), expected, 2)


def test_every_block_in_int8_does_what_torch_does_with_its_codes(original, smollm2, tokens):
    """A block at a time, as a model of its own whose embedding is the hidden states that come to that block."""
    count = 1000
    with torch.no_grad():
        hidden = original(torch.tensor(tokens[None, :count]), output_hidden_states=True).hidden_states
    shape = {"num_hidden_layers": 1, "vocab_size": count, "tie_word_embeddings": False}
    state, places, ratios = original.state_dict(), np.arange(count), []
    for block in (0, 1, 7, 15, 22, 29):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**original.config.to_dict(), **shape})).eval()
        for name, tensor in model.state_dict().items():
            if ".layers." in name:
                tensor.copy_(state[name.replace("layers.0", f"layers.{block}")])
        model.model.embed_tokens.weight.data.copy_(hidden[block][0])
        model.lm_head.weight.data.copy_(state["model.embed_tokens.weight"][:count])
        unrounded = torch_logits(model, places)
        with load(model, smollm2, "i8") as engine:
            round_inputs(model)
            expected, found = torch_logits(model, places), engine.logits(places.tolist())
        ratios.append(rms(found - expected) / rms(expected - unrounded))
    assert max(ratios) < 0.3, ratios  # of the first: its tokens repeat, so codes that differ differ everywhere
    assert np.median(ratios) < 0.05, ratios


def test_the_whole_model_in_int8_errs_as_torch_does_with_its_codes(original, smollm2, tokens, exact):
    model = copy.deepcopy(original)
    with load(model, smollm2, "i8") as engine:
        round_inputs(model)
        expected, found = torch_logits(model, tokens), engine.logits(tokens.tolist())
    assert rms(found - exact) == pytest.approx(rms(expected - exact), rel=0.1)
    assert loss(found, tokens) == pytest.approx(loss(expected, tokens), rel=0.01)


def loss(logits, tokens):
    return float(torch.nn.functional.cross_entropy(torch.tensor(logits[:-1]), torch.tensor(tokens[1:])))


def test_streamed_text_is_whole_characters(smollm2):
    message = {"role": "user", "content": "Write five different emoji."}
    options = {"max_new_tokens": 40, "temperature": 1.0, "seed": 0}
    with Model.load(smollm2, threads=2, max_context=512) as model:
        pieces = list(model.chat([message], **options, stream=True))
        assert "".join(pieces) == model.chat([message], **options).text
    assert "\ufffd" not in "".join(pieces)
