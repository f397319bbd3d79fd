"""T5: its buckets, caches, memories and stages; that it equals transformers' is in test_text_to_text.py."""

import numpy as np
import pytest

from cutwork import _native
from cutwork.architectures import build_encoder_plan, build_plan
from cutwork.architectures.t5 import bucket
from cutwork.errors import CutworkError
from cutwork.pack.pack import pack
from tests.engine.tiny import relative, torch, transformers
from tests.text_to_text import ANSWER, INPUTS, VOCABULARY, load, save, torch_logits, written

SMALL = {
    "vocab_size": VOCABULARY,
    "d_model": 48,
    "d_kv": 16,
    "d_ff": 80,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": 0,
    "eos_token_id": 2,
}
VARIANTS = {
    "v1.0": {},
    "v1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "gated-silu": {"feed_forward_proj": "gated-silu", "num_decoder_layers": 3},
}


def make(variant: str) -> "transformers.T5ForConditionalGeneration":
    """A model whose weights are large enough that every part matters to the logits."""
    torch.manual_seed(1)
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**{**SMALL, **VARIANTS[variant]})).eval()
    if variant == "v1.1":
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif "relative_attention_bias" in name:
                parameter.normal_(0.0, 1.0)
            else:
                scale = 0.3 if name.endswith(("SelfAttention.q.weight", "EncDecAttention.q.weight")) else 1.0
                parameter.normal_(0.0, scale * parameter.shape[1] ** -0.5)
    model.generation_config.update(decoder_start_token_id=0, eos_token_id=None, pad_token_id=0)
    return model


@pytest.fixture(scope="module", params=VARIANTS)
def both(request, tmp_path_factory):
    """(transformers' model, its directory)."""
    model = make(request.param)
    return model, save(model, tmp_path_factory.mktemp(request.param))


def test_every_instruction_set_gives_the_same_text(tmp_path, monkeypatch):
    hf = make("v1.1")
    save(hf, tmp_path)
    expected = [written(hf, source, 12) for source in INPUTS]
    for isa in _native.isas():
        monkeypatch.setattr(_native, "isa", lambda isa=isa: isa)
        executor = _native.Executor
        monkeypatch.setattr(
            _native,
            "Executor",
            lambda *a, isa=isa, executor=executor, **k: executor(*a, **{**k, "isa": isa, "costs": None}),
        )
        with load(tmp_path) as model:
            assert [r.tokens for r in model.generate(INPUTS, max_new_tokens=12, ignore_eos=True)] == expected
        monkeypatch.undo()


@pytest.mark.parametrize(("cache_dtype", "tolerance"), [("bf16", 0.02), ("i8", 0.05)])
def test_rounded_caches_stay_close(both, cache_dtype, tolerance):
    hf, directory = both
    with load(directory, cache_dtype=cache_dtype) as model:
        actual = model.logits(ANSWER, model.encode_input(INPUTS[3]))
    assert relative(actual, torch_logits(hf, INPUTS[3], ANSWER)) < tolerance


def test_text_in_and_out(both):
    _, directory = both
    with load(directory) as model:
        whole = model.generate("the theatre", max_new_tokens=20, ignore_eos=True)
        pieces = list(model.generate("the theatre", max_new_tokens=20, ignore_eos=True, stream=True))
        tokens = model.encode("the theatre")
        assert model.generate(tokens, max_new_tokens=20, ignore_eos=True).tokens == whole.tokens
    assert "".join(pieces) == whole.text


def test_requests_share_a_memory_that_is_encoded_once(both):
    _, directory = both
    with load(directory) as model:
        expected = model.generate(INPUTS[3], max_new_tokens=8, ignore_eos=True).tokens
        steps = 0
        run = model.encoder._step

        def counted(batch):
            nonlocal steps
            steps += len(batch)
            run(batch)

        model.encoder._step = counted
        memory = model.encode_input(INPUTS[3])
        free = model.encoder.cache.free
        requests = [model.session.add([0], memory, max_new_tokens=8, ignore_eos=True) for _ in range(3)]
        forced = model.session.add([0, *expected[:4]], memory, max_new_tokens=4, ignore_eos=True)
        model.session.step()
        assert model.encoder.cache.free == free - model.encoder.cache.blocks_for(memory.length)
        while model.session.busy:
            model.session.step()
        assert steps == 1
        assert [request.tokens for request in requests] == [expected] * 3
        assert forced.tokens == expected[4:]
        assert model.encoder.cache.free == free
        model.logits([0, 5], memory)
        assert steps == 1  # what nobody else has needed the room of is still there


@pytest.mark.parametrize("goes_on", [True, False])
def test_what_a_failed_step_did_not_encode_is_encoded_for_whom_still_waits(both, monkeypatch, goes_on):
    _, directory = both
    with load(directory) as model:
        expected = model.generate(INPUTS[3], max_new_tokens=8, ignore_eos=True).tokens
        encoder, free = model.encoder, model.encoder.cache.free
        monkeypatch.setattr(encoder, "_execute", lambda _: 1 / 0)
        request = model.session.add([0], model.encode_input(INPUTS[3]), max_new_tokens=8, ignore_eos=True)
        with pytest.raises(ZeroDivisionError):
            model.session.step()
        monkeypatch.undo()
        if goes_on:
            while model.session.busy:
                model.session.step()
            assert request.tokens == expected
        else:
            model.session.cancel(request)
        assert encoder.cache.free == free and not encoder._pending


def test_nothing_changes_when_memory_is_short(both):
    _, directory = both
    with load(directory, max_input=96, max_context=64) as model:
        expected = [r.tokens for r in model.generate(INPUTS, max_new_tokens=30, ignore_eos=True)]
    layers = model.plan.cache_layers
    block = 2 * layers * 64 * 32 * 4  # keys and values, layers, heads x head_dim, tokens, bytes
    with load(directory, max_input=96, max_context=64, cache_bytes=(2 + 3 + 2) * block) as model:
        assert (model.session.scheduler.cache.blocks, model.encoder.cache.blocks) == (4, 3)
        memories = [model.encode_input(source) for source in INPUTS]
        for _ in range(2):
            requests = [model.session.add([0], memory, max_new_tokens=30, ignore_eos=True) for memory in memories]
            while model.session.busy:
                model.session.step()
            assert [request.tokens for request in requests] == expected
        assert model.encoder.cache.free == 3


def test_bad_requests_get_one_sentence(both, tmp_path):
    _, directory = both
    with load(directory, max_input=50) as model:
        for call, message in [
            (lambda: model.generate(""), "empty"),
            (lambda: model.generate([]), "empty"),
            (lambda: model.generate([3] * 51), "51 tokens, but at most 50"),
            (lambda: model.generate([300]), "not in the vocabulary"),
            (lambda: model.logits([0]), "make a memory with encode_input"),
            (lambda: model.perplexity([3, 4, 5]), "make a memory with encode_input"),
            (lambda: model.session.add([0]), "make a memory with encode_input"),
        ]:
            with pytest.raises(CutworkError, match=message):
                call()
            assert not model.session.busy
    with pytest.raises(CutworkError, match="max_input must be from 2"):
        load(directory, max_input=1)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (8, 20), (64, 1000), (4, 3)])
def test_buckets_equal_transformers(bidirectional, buckets, farthest):
    from transformers.models.t5.modeling_t5 import T5Attention

    ahead = np.arange(-2 * farthest, 2 * farthest + 1)
    expected = T5Attention._relative_position_bucket(torch.tensor(ahead), bidirectional, buckets, farthest).numpy()
    np.testing.assert_array_equal(bucket(ahead, buckets, farthest, bidirectional=bidirectional), expected)
    assert set(expected[ahead <= -farthest]) == {expected[0]}  # what lies farther is like the farthest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 0}, "num_heads"),
        ({"relative_attention_max_distance": 4}, "must exceed half"),
        ({"relative_attention_num_buckets": 3}, "num_buckets"),
        ({"feed_forward_proj": "gated-mish"}, "activation 'mish'"),
        ({"d_kv": 1024, "num_heads": 4096}, "widest layer"),
    ],
    ids=str,
)
def test_bad_configs_get_one_sentence(change, message):
    for build in (build_plan, build_encoder_plan):
        with pytest.raises(CutworkError, match=message):
            build({**SMALL, "model_type": "t5", **change})


@pytest.mark.parametrize("variant", ["v1.0", "v1.1"])
def test_sparse_int8_goes_the_whole_way(variant, tmp_path, monkeypatch):
    """Pruned, quantised and packed, `wo` kept as it is; logits stay close to what the floats give."""
    from cutwork.pack.pack import pack
    from cutwork.pack.reader import read_packed
    from cutwork.quantize.quantize import quantize
    from cutwork.recipe import QuantizeSettings

    hf = make(variant)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if ".block." in name and parameter.ndim == 2 and "bias" not in name:
                parameter.mul_(torch.rand(parameter.shape) < 0.3)
    save(hf, tmp_path / "sparse")
    quantize(tmp_path / "sparse", tmp_path / "int8", QuantizeSettings(method="rtn"))
    pack(tmp_path / "int8", tmp_path / "packed")
    weights = read_packed(tmp_path / "packed").weights
    encodings = {name.rsplit(".", 2)[1]: (w.encoding, w.dtype) for name, w in weights.items() if ".block." in name}
    assert encodings["wo"] == ("bitmask", "f32")
    assert encodings["q"] == encodings["v"] == ("bitmask", "i8")
    directory = tmp_path / "packed"
    with (
        load(tmp_path / "int8") as quantized,
        load(directory) as packed,
        load(directory, reorder_weights=True) as reordered,
    ):
        source = packed.encode_input(INPUTS[3])
        actual = packed.logits(ANSWER, source)
        assert relative(actual, torch_logits(hf, INPUTS[3], ANSWER)) < 0.1
        np.testing.assert_array_equal(actual, quantized.logits(ANSWER, quantized.encode_input(INPUTS[3])))
        np.testing.assert_array_equal(actual, reordered.logits(ANSWER, reordered.encode_input(INPUTS[3])))
        kept = sum(weight.reordered_bytes for weight in reordered.weights.values())
        if not packed.laid_out:
            assert reordered.memory_bytes["weights"] == packed.memory_bytes["weights"] + kept
        assert (kept > 0) == (reordered.isa in ("amx", "avx512"))
        with monkeypatch.context() as patch:
            for free in (1 << 34, 0):
                patch.setattr("cutwork.engine.assemble.usual_budget", lambda free=free: free // 4)
                with load(directory, reorder_weights=None) as left, load(directory, reorder_weights=free > 0) as told:
                    assert left.memory_bytes["weights"] == told.memory_bytes["weights"]
                    assert free > 0 or "dense" not in left.laid_out.values()
        together = packed.generate(INPUTS, max_new_tokens=10, ignore_eos=True)
        assert [r.tokens for r in together] == [
            packed.generate(source, max_new_tokens=10, ignore_eos=True).tokens for source in INPUTS
        ]


def test_profiles_of_both_stacks(both):
    from cutwork.engine.explain import profile_encoder, profile_step

    _, directory = both
    with load(directory) as model:
        kinds = {op.kind for op in profile_step(model, tokens=2, repeats=1).ops}
        assert {"attention", "cross_attention", "logits"} <= kinds
        profile = profile_encoder(model, tokens=30, repeats=1)
        assert {"self_attention", "kv_append"} <= {op.kind for op in profile.ops}
        assert model.encoder.cache.free == model.encoder.cache.blocks


def test_beams_and_draws_share_a_memory(both):
    _, directory = both
    with load(directory, max_batch=8) as model:
        together = model.generate(INPUTS, max_new_tokens=12, num_beams=4, ignore_eos=True)
        assert model.encoder.cache.free == model.encoder.cache.blocks
        alone = [model.generate(source, max_new_tokens=12, num_beams=4, ignore_eos=True) for source in INPUTS]
        assert [result.tokens for result in together] == [result.tokens for result in alone]
        drawn = model.generate(INPUTS[3], max_new_tokens=5, temperature=1.0, seed=3, num_return_sequences=3)
        assert len(drawn.alternatives) == 2


@pytest.mark.parametrize("variant", ["v1.0", "v1.1"])
def test_an_int8_head_stays_close_tied_or_not(tmp_path, variant):
    hf = make(variant)
    pack(save(hf, tmp_path / "checkpoint"), tmp_path / "packed", head="i8")
    with load(tmp_path / "packed") as model:
        assert model.weights["shared.weight" if variant == "v1.0" else "lm_head.weight"].dtype == "i8"
        actual = model.logits(ANSWER, model.encode_input(INPUTS[3]))
    assert 0 < relative(actual, torch_logits(hf, INPUTS[3], ANSWER)) < 0.05
