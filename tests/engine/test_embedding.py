"""Vectors of texts: pooled as sentence-transformers pools, in any order and number, by encoders and by decoders."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cutwork.engine.embedding.pooling import MODES
from cutwork.engine.embedding.texts import TextReader
from cutwork.engine.model import Model
from cutwork.errors import CutworkError
from cutwork.pack.pack import pack
from tests.architectures.test_encoders import make
from tests.engine.tiny import SMALL, byte_level_tokenizer, relative, torch, transformers
from tests.engine.tiny import make as make_decoder

TEXTS = ["the cloth", "a", "The embroiderer cuts the cloth away and reinforces what is left. " * 3, "ünïcode", "  the "]
LONG = "the " * 400


def write(model, directory: Path, modules: dict[str, dict], **prompts) -> Path:
    """A directory as sentence-transformers writes it: modules by their type, with their configurations."""
    model.save_pretrained(directory)
    byte_level_tokenizer().save_pretrained(directory)
    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for number, (kind, settings) in enumerate(modules.items(), 1):
        path = f"{number}_{kind}"
        listed.append(
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        )
        (directory / path).mkdir()
        (directory / path / "config.json").write_text(json.dumps(settings))
    (directory / "modules.json").write_text(json.dumps(listed))
    (directory / "sentence_bert_config.json").write_text('{"max_seq_length": 100, "do_lower_case": false}')
    (directory / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return directory


def pooling(*modes: str, width: int = 48) -> dict[str, object]:
    """A Pooling's configuration in the words that most models have."""
    names = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "weightedmean": "weightedmean_tokens"}
    flags = {f"pooling_mode_{names.get(mode, mode)}": mode in modes for mode in MODES}
    return {"word_embedding_dimension": width, **flags}


def encoder():
    return make("bert", vocab_size=300)


def decoder():
    return make_decoder("qwen3", vocab_size=300).model


def load(directory: Path, **options) -> Model:
    return Model.load(directory, **{"threads": 1, "cache_bytes": 1 << 23, **options})


def theirs(directory: Path, texts, **options) -> np.ndarray:
    library = pytest.importorskip("sentence_transformers")
    return library.SentenceTransformer(str(directory), device="cpu").encode(texts, **options)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def test_a_tokenizer_may_say_how_much_is_read(tmp_path):
    """As newer versions write it, which name no length beside."""
    directory = write(encoder(), tmp_path, {"Pooling": pooling("mean")})
    (directory / "sentence_bert_config.json").write_text("{}")
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    for length, most in ((20, 20), (10**30, None)):
        (directory / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": length}))
        with load(directory) as model:
            assert model.embedder.max_length == (most or model.max_context)
            close = cosine(model.embed([LONG]), theirs(directory, [LONG]))
        assert close.min() > 0.9999


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [encoder, decoder])
def test_every_pooling_equals_sentence_transformers(make, mode, backend, tmp_path):
    directory = write(make(), tmp_path, {"Pooling": pooling(mode)})
    texts = [*TEXTS, LONG, " a cat \n\n"]
    expected = theirs(directory, texts)
    with load(directory, backend=backend) as model:
        found = model.embed(texts)
    assert found.dtype == np.float32 and found.shape == expected.shape
    assert relative(found, expected) < 1e-4


@pytest.mark.parametrize("make", [encoder, decoder])
def test_modules_prompts_and_packed_models(make, tmp_path):
    """Several poolings side by side, dense layers and norms; a prompt of the model's own; from a packed directory."""
    safetensors = pytest.importorskip("safetensors.torch")
    modules = {
        "Pooling": pooling("cls", "mean"),
        "Dense": {
            "in_features": 96,
            "out_features": 20,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        },
        "Normalize": {},
    }
    directory = write(
        make(),
        tmp_path / "model",
        modules,
        prompts={"query": "find: ", "document": ""},
        default_prompt_name="document",
        similarity_fn_name="cosine",
    )
    torch.manual_seed(0)
    dense = {"linear.weight": torch.randn(20, 96) / 10, "linear.bias": torch.randn(20)}
    safetensors.save_file(dense, directory / "2_Dense" / "model.safetensors")
    pack(directory, tmp_path / "packed")
    expected = theirs(directory, TEXTS)
    as_queries = theirs(directory, TEXTS, prompt_name="query")
    for each in (directory, tmp_path / "packed"):
        with load(each) as model:
            assert model.embedder and model.embedder.width == 20
            assert relative(model.embed(TEXTS), expected) < 1e-4
            assert relative(model.embed(TEXTS, prompt_name="query"), as_queries) < 1e-4
            assert relative(model.embed(TEXTS, prompt="find: "), as_queries) < 1e-4
            assert np.allclose(np.linalg.norm(model.embed(TEXTS, dimensions=7), axis=1), 1, atol=1e-6)
            assert model.embed(TEXTS[0]).shape == (20,)
            assert np.abs(np.linalg.norm(model.embed(TEXTS, normalize=False), axis=1) - 1).max() > 0.1
            with pytest.raises(CutworkError, match="a prompt goes before text"):
                model.embed([[5, 6]], prompt_name="query")
            with pytest.raises(CutworkError, match="a text holds half a character"):
                model.embed("a\ud800")
            with pytest.raises(CutworkError, match="no prompt 'q'; it has document, query"):
                model.embed(TEXTS, prompt_name="q")
            with pytest.raises(CutworkError, match="dimensions must be from 1 to 20, not 21"):
                model.embed(TEXTS, dimensions=21)


def test_without_a_description_an_encoder_gives_the_mean(tmp_path):
    hf = encoder()
    hf.save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    with load(tmp_path) as model:
        for text in TEXTS:
            ids = torch.tensor([model.encode(text)])
            with torch.no_grad():
                states = hf(ids, token_type_ids=0 * ids).last_hidden_state[0].numpy()
            assert relative(model.embed(text), states.mean(0)) < 1e-4
            assert relative(model.embed([ids[0].tolist()], pooling="cls")[0], states[0]) < 1e-4


def test_a_decoder_without_a_description_makes_no_vectors(tmp_path):
    hf = make_decoder("qwen3", vocab_size=300)
    hf.save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    with load(tmp_path) as model, pytest.raises(CutworkError, match="makes no vectors of texts"):
        model.embed(["a"])


def test_a_causal_model_reads_long_texts_in_pieces(tmp_path):
    directory = write(decoder(), tmp_path, {"Pooling": pooling("lasttoken")})
    settings = {"max_position_embeddings": 2000}
    config = json.loads((directory / "config.json").read_text()) | settings
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "sentence_bert_config.json").unlink()
    ids = np.random.default_rng(0).integers(3, 300, 1700).tolist()
    hf = transformers.AutoModel.from_pretrained(directory).float().eval()
    with torch.no_grad():
        states = hf(torch.tensor([ids])).last_hidden_state[0].numpy()
    with load(directory, cache_bytes=1 << 25) as model:
        vectors = model.embed([ids[:3], ids, ids[:900], ids[:512]])
        means = model.embed([ids], pooling="mean")
    for vector, length in zip(vectors, (3, 1700, 900, 512), strict=True):
        assert relative(vector, states[length - 1]) < 1e-4
    assert relative(means[0], states.mean(0)) < 1e-4


def test_progress_tells_every_text_once_and_threads_may_share_a_model(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    directory = write(encoder(), tmp_path, {"Pooling": pooling("mean"), "Normalize": {}})
    texts = [f"{'the ' * (i % 40)}{i}" for i in range(120)]
    with load(directory, threads=2) as model:
        told: dict[int, np.ndarray] = {}
        calls = []

        def progress(done):
            assert not set(done) & set(told)
            told.update(done)
            calls.append(len(done))

        vectors = model.embed(texts, progress=progress)
        assert len(calls) > 1 and sorted(told) == list(range(120))
        assert all((told[i] == vectors[i]).all() for i in told)
        with ThreadPoolExecutor(4) as pool:
            for other in pool.map(model.embed, [texts[i::4] for i in range(4)]):
                assert other.shape[1] == 48
        assert model.embed([]).shape[0] == 0


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda d: (d / "modules.json").write_text("{}"), "list of JSON objects"),
        (lambda d: (d / "modules.json").write_text('[{"type": "x.WordWeights", "path": ""}]'), "WordWeights"),
        (lambda d: (d / "modules.json").write_text('[{"type": "x.Pooling", "path": "../other"}]'), "outside"),
        (lambda d: (d / "modules.json").write_text('[{"type": "x.Transformer", "path": ""}]'), "no Pooling"),
        (lambda d: shutil.rmtree(d / "1_Pooling"), "missing"),
        (lambda d: (d / "1_Pooling" / "config.json").write_text('{"pooling_mode": "middle"}'), "names no pooling"),
        (lambda d: (d / "sentence_bert_config.json").write_text('{"max_seq_length": "x"}'), "max_seq_length"),
        (lambda d: (d / "config_sentence_transformers.json").write_text('{"prompts": [1]}'), "prompts"),
        (
            lambda d: (d / "sentence_bert_config.json").write_text('{"modality_config": {"text": {}, "message": {}}}'),
            "written by a chat template",
        ),
        (
            lambda d: (d / "sentence_bert_config.json").write_text('{"processing_kwargs": {"text": {"padding": 1}}}'),
            "in another way of their own",
        ),
    ],
)
def test_damaged_descriptions_are_named(damage, reason, tmp_path):
    directory = write(encoder(), tmp_path, {"Pooling": pooling("mean")})
    damage(directory)
    with pytest.raises(CutworkError, match=reason):
        load(directory)


def test_texts_are_cut_on_the_side_that_the_tokenizer_says():
    tokenizer = byte_level_tokenizer()
    for side, read in (("right", "abc"), ("left", "xyz")):
        tokenizer.truncation_side = side
        [tokens] = TextReader(tokenizer, 3).read(["abc to xyz"])
        assert tokenizer.decode(tokens.ids) == read and tokens.truncated


def test_inputs_that_cannot_be_read_are_named(tmp_path):
    directory = write(encoder(), tmp_path, {"Pooling": pooling("mean")})
    with load(directory) as model:
        for inputs, reason in [
            ([[5], []], "input 2 is empty"),
            ([[5] * 101], "101 tokens, but this model reads at most 100"),
            ([[5, 300]], "token 300"),
            ([[5, -1]], "token -1"),
            ([[5, 2**40]], "token 1099511627776"),
            ([[5, 6.5]], r"expected text or a list of token ids, not \[5, 6.5\]"),
            ([5, 6], "expected text or a list of token ids, not 5"),
            ([None], "expected text or a list of token ids, not None"),
            (5, "expected a text or a list, not 5"),
            (b"text", "expected a text or a list, not b'text'"),
        ]:
            with pytest.raises(CutworkError, match=reason):
                model.embed(inputs)
        with pytest.raises(CutworkError, match="pooling must be"):
            model.embed(["a"], pooling="middle")
        with pytest.raises(CutworkError, match=r"dimensions must be a whole number, not 3\.5"):
            model.embed(["a"], dimensions=3.5)
        with pytest.raises(CutworkError, match="unknown option 'dims'"):
            model.embed(["a"], dims=3)
    with pytest.raises(CutworkError, match="closed"):
        model.embed(["a"])


def test_a_new_pooling_configuration_is_understood(tmp_path):
    directory = write(encoder(), tmp_path, {"Pooling": {"embedding_dimension": 48, "pooling_mode": ["cls", "max"]}})
    with load(directory) as model:
        assert relative(model.embed(TEXTS), theirs(directory, TEXTS)) < 1e-4


def test_minilm_equals_sentence_transformers(minilm):
    texts = [*TEXTS, "", LONG, *(f"Sentence {i} is about {'cloth ' * i}" for i in range(40))]
    expected = theirs(minilm, texts)
    with Model.load(minilm, threads=2) as model:
        found = model.embed(texts)
        assert model.max_context == 256
    assert np.abs(cosine(found, expected) - 1).max() < 1e-4
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("heads", [(6, 2), (4, 1), (3, 3)])
def test_gemma_that_sees_both_ways_is_an_encoder(heads, tmp_path):
    """EmbeddingGemma: full attention in some layers, windows in others, dense layers behind."""
    attention, kv = heads
    settings = transformers.AutoConfig.for_model(
        "gemma3_text",
        **{
            **SMALL,
            "vocab_size": 300,
            "hidden_size": 48,
            "head_dim": 16,
            "num_attention_heads": attention,
            "num_key_value_heads": kv,
        },
        use_bidirectional_attention=True,
        sliding_window=20,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )
    settings._attn_implementation = "eager"
    torch.manual_seed(0)
    hf = transformers.AutoModel.from_config(settings).float().eval()
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            parameter.normal_(0.0, 0.3 if "norm" in name else parameter.shape[-1] ** -0.5)
    directory = write(hf, tmp_path, {"Pooling": pooling("mean"), "Normalize": {}})
    ids = np.random.default_rng(0).integers(3, 300, 90).tolist()
    for backend in ("native", "reference"):
        with load(directory, backend=backend) as model:
            for length in (90, 5, 31):
                with torch.no_grad():
                    states = hf(torch.tensor([ids[:length]])).last_hidden_state[0].numpy()
                assert relative(model.embed([ids[:length]], normalize=False)[0], states.mean(0)) < 1e-4
    (directory / "modules.json").unlink()
    with pytest.raises(CutworkError, match="is an encoder"):
        load(directory)
