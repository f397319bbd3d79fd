"""Whisper on tiny random models and, where one is at hand, a real one: all that transformers computes, and its text."""

import json
import wave

import numpy as np
import pytest

from cutwork import _native
from cutwork.architectures import build_encoder_plan, build_plan
from cutwork.engine.model import Model
from cutwork.errors import CutworkError
from tests.engine.tiny import relative, torch, transformers

SMALL = {
    "vocab_size": 120,
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 80,
    "decoder_ffn_dim": 96,
    "num_mel_bins": 10,
    "max_source_positions": 70,
    "max_target_positions": 50,
    "decoder_start_token_id": 1,
    "bos_token_id": 1,
    "pad_token_id": 2,
    "eos_token_id": 2,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
ANSWER = np.random.default_rng(0).integers(3, 120, 40).tolist()
SPECTROGRAMS = np.random.default_rng(1).standard_normal((3, 10, 140)).astype(np.float32)


def make(**more) -> "transformers.WhisperForConditionalGeneration":
    """A model whose weights are large enough that every part matters to the logits."""
    torch.manual_seed(1)
    config = transformers.WhisperConfig(**SMALL, **more)
    config._attn_implementation = "eager"
    model = transformers.WhisperForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5)
            elif "embed_positions" in name:
                parameter.normal_(0.0, 0.5)
            elif parameter.ndim == 1:
                parameter.normal_(0.0, 0.3)
            else:
                parameter.normal_(0.0, float(np.prod(parameter.shape[1:])) ** -0.5)
    return model


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(transformers' model, its directory)."""
    model = make()
    directory = tmp_path_factory.mktemp("whisper")
    model.save_pretrained(directory)
    return model, directory


def load(directory, **options):
    return Model.load(directory, **{"threads": 1, "cache_bytes": 1 << 24, **options})


def torch_logits(model, spectrogram, answer):
    with torch.no_grad():
        out = model(
            input_features=torch.tensor(spectrogram[None]),
            decoder_input_ids=torch.tensor([answer]),
            output_attentions=True,
        )
    return out.logits[0].numpy(), [layer[0].numpy() for layer in out.cross_attentions]


def greedy(model, memories, count, start=(1,)):
    requests = [model.session.add(list(start), m, max_new_tokens=count, ignore_eos=True) for m in memories]
    while model.session.busy:
        model.session.step()
    return [request.tokens for request in requests]


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_logits_and_attention_equal_transformers(both, backend):
    hf, directory = both
    heads = [(layer, head) for layer in (2, 0) for head in range(4)]
    with load(directory, backend=backend, threads=2) as model:
        for spectrogram in SPECTROGRAMS:
            memory = model.encode_input(spectrogram)
            expected, attentions = torch_logits(hf, spectrogram, ANSWER)
            assert relative(model.logits(ANSWER, memory), expected) < 1e-4
            model._scorer.chunk = 16
            found, logits = model.cross_attention(ANSWER, memory, heads)
            np.testing.assert_array_equal(logits, model.logits(ANSWER, memory))
            assert found.shape == (8, 40, 70)
            np.testing.assert_allclose(found, [attentions[layer][head] for layer, head in heads], atol=1e-5)


def test_a_head_of_its_own_makes_the_logits(tmp_path):
    make(tie_word_embeddings=False).save_pretrained(tmp_path)
    hf = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert not torch.equal(hf.proj_out.weight, hf.model.decoder.embed_tokens.weight)
    with load(tmp_path) as model:
        found = model.logits(ANSWER, model.encode_input(SPECTROGRAMS[0]))
    assert relative(found, torch_logits(hf, SPECTROGRAMS[0], ANSWER)[0]) < 1e-4


@pytest.mark.parametrize(("dtype", "tolerance"), [("bf16", 0.02), ("i8", 0.05)])
def test_rounded_caches_stay_close(both, dtype, tolerance):
    hf, directory = both
    with load(directory, cache_dtype=dtype) as model:
        memory = model.encode_input(SPECTROGRAMS[0])
        expected, attentions = torch_logits(hf, SPECTROGRAMS[0], ANSWER)
        assert relative(model.logits(ANSWER, memory), expected) < tolerance
        np.testing.assert_allclose(
            model.cross_attention(ANSWER, memory, [(1, 3)])[0][0], attentions[1][3], atol=tolerance
        )


def test_text_is_the_same_together_alone_on_every_instruction_set(both, monkeypatch):
    hf, directory = both
    with torch.no_grad():
        tokens = torch.full((3, 1), 1)
        for _ in range(20):
            logits = hf(input_features=torch.tensor(SPECTROGRAMS), decoder_input_ids=tokens).logits
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], 1)
    expected = tokens[:, 1:].tolist()
    executor = _native.Executor
    for isa in _native.isas():
        monkeypatch.setattr(
            _native, "Executor", lambda *a, isa=isa, **k: executor(*a, **{**k, "isa": isa, "costs": None})
        )
        for threads in (1, 3):
            with load(directory, threads=threads) as model:
                memories = [model.encode_input(spectrogram) for spectrogram in SPECTROGRAMS]
                assert greedy(model, memories, 20) == expected
                model.encoder.max_tokens = 300  # several windows in one step
                again = [model.encode_input(spectrogram) for spectrogram in SPECTROGRAMS]
                assert [greedy(model, [memory], 20)[0] for memory in again] == expected


def test_shorter_windows_are_what_is_said(both):
    """An encoder with fewer positions hears the same as one that is given fewer frames."""
    hf, directory = both
    config = transformers.WhisperConfig(**{**SMALL, "max_source_positions": 30})
    short = transformers.WhisperForConditionalGeneration(config).eval()
    state = hf.state_dict()
    state["model.encoder.embed_positions.weight"] = state["model.encoder.embed_positions.weight"][:30]
    short.load_state_dict(state)
    spectrogram = np.ascontiguousarray(SPECTROGRAMS[0][:, :60])
    with load(directory) as model:
        memory = model.encode_input(spectrogram)
        assert memory.length == 30
        assert relative(model.logits(ANSWER, memory), torch_logits(short, spectrogram, ANSWER)[0]) < 1e-4


def test_sparse_int8_keeps_convolutions(both, tmp_path):
    from cutwork.pack.pack import pack
    from cutwork.pack.reader import read_packed
    from cutwork.quantize.quantize import quantize
    from cutwork.recipe import QuantizeSettings

    hf, directory = both
    quantize(directory, tmp_path / "int8", QuantizeSettings(method="rtn"))
    pack(tmp_path / "int8", tmp_path / "packed")
    weights = read_packed(tmp_path / "packed").weights
    assert {name.split(".")[2]: w.dtype for name, w in weights.items()}["conv1"] == "f32"
    assert weights["model.encoder.layers.0.fc1.weight"].dtype == "i8"
    with load(tmp_path / "packed") as model:
        memory = model.encode_input(SPECTROGRAMS[0])
        assert relative(model.logits(ANSWER, memory), torch_logits(hf, SPECTROGRAMS[0], ANSWER)[0]) < 0.1
        assert model.weights["model.encoder.conv1.weight"].cols == 30


def test_bad_inputs_get_one_sentence(both):
    _, directory = both
    with load(directory) as model:
        damaged = SPECTROGRAMS[0].copy()
        damaged[3, 5] = np.nan
        for source, message in [
            (SPECTROGRAMS[0][:9], r"\[10, a multiple of 2 frames\], not \[9, 140\]"),
            (SPECTROGRAMS[0][:, :139], "a multiple of 2"),
            (SPECTROGRAMS[0][:, :0], "empty"),
            (np.zeros((10, 142), np.float32), "71 tokens, but at most 70"),
            ([1, 2, 3], "spectrogram"),
            (damaged, "not finite"),
        ]:
            with pytest.raises(CutworkError, match=message):
                model.encode_input(source)
        memory = model.encode_input(SPECTROGRAMS[0])
        for heads in ([(3, 0)], [(0, 4)], [(-1, 0)]):
            with pytest.raises(CutworkError, match="heads must be pairs"):
                model.cross_attention([1], memory, heads)
        with pytest.raises(CutworkError, match="exceed the context of 50"):
            model.logits([1] * 51, memory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_attention_heads": 5, "decoder_attention_heads": 5}, "not a multiple"),
        ({"d_model": 0}, "d_model"),
        ({"activation_function": "mish"}, "activation 'mish'"),
    ],
    ids=str,
)
def test_bad_configs_get_one_sentence(change, message):
    for build in (build_plan, build_encoder_plan):
        with pytest.raises(CutworkError, match=message):
            build({**SMALL, "model_type": "whisper", **change})


@pytest.mark.slow
def test_a_real_model_hears_what_transformers_hears(whisper_tiny, clips):
    """Greedy answers to some recordings, and the attention that word timestamps are made of."""
    directory = whisper_tiny
    hf = transformers.WhisperForConditionalGeneration.from_pretrained(directory, attn_implementation="eager").eval()
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(directory)
    generation = json.loads((directory / "generation_config.json").read_text())
    forced = [token for _, token in sorted(generation.get("forced_decoder_ids") or [])]
    start = [hf.config.decoder_start_token_id, *[token for token in forced if token is not None]]
    with load(directory, threads=2, cache_bytes=1 << 29) as model:
        for file in clips[:4]:
            with wave.open(str(file)) as recording:
                assert recording.getframerate() == 16000
                samples = np.frombuffer(recording.readframes(16000 * 30), np.int16) / 32768
            spectrogram = extractor(samples, sampling_rate=16000)["input_features"][0]
            memory = model.encode_input(spectrogram)
            tokens = greedy(model, [memory], 24, start)[0]
            expected, attentions = torch_logits(hf, spectrogram, [*start, *tokens])
            assert relative(model.logits([*start, *tokens], memory), expected) < 1e-4
            assert tokens == expected[len(start) - 1 : -1].argmax(-1).tolist()
            heads = [tuple(pair) for pair in generation.get("alignment_heads", [(0, 0)])]
            found, _ = model.cross_attention([*start, *tokens], memory, heads)
            np.testing.assert_allclose(found, [attentions[layer][head] for layer, head in heads], atol=1e-4)


def test_profiles_of_both_stacks(both):
    from cutwork.engine.explain import profile_encoder, profile_step

    _, directory = both
    with load(directory) as model:
        kinds = {op.kind for op in profile_step(model, tokens=2, repeats=1, input_tokens=20).ops}
        assert {"add_positions", "cross_attention", "logits"} <= kinds
        assert {"input", "unfold"} <= {op.kind for op in profile_encoder(model, tokens=30, repeats=1).ops}
        assert model.encoder.cache.free == model.encoder.cache.blocks


def test_five_beams_equal_transformers(both):
    hf, directory = both
    spectrograms = np.random.default_rng(5).standard_normal((50, 10, 140)).astype(np.float32)
    stop = list(range(3, 120, 4))  # so many that some answers end
    with load(directory, max_batch=10) as model:
        model.session._stop_tokens = frozenset(stop)
        memories = [model.encode_input(each) for each in spectrograms]
        requests = [
            model.session.add([1], each, num_beams=5, max_new_tokens=9, length_penalty=0.2) for each in memories
        ]
        while model.session.busy:
            model.session.step()
    results = [request.result() for request in requests]
    with torch.no_grad():
        answers = transformers.GenerationMixin.generate(
            hf,
            torch.tensor(spectrograms),
            decoder_input_ids=torch.ones(50, 1, dtype=torch.long),
            num_beams=5,
            max_new_tokens=9,
            length_penalty=0.2,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=2,
        )
    for result, answer in zip(results, answers[:, 1:].tolist(), strict=True):
        assert result.tokens == answer[: len(result.tokens)]
        assert set(answer[len(result.tokens) :]) <= {2, stop[0]}  # filled up
    assert {result.finish_reason for result in results} == {"stop", "length"}
