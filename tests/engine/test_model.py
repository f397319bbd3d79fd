"""`Model` end to end on tiny models: the same text and tokens as transformers, whatever runs beside it."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np
import pytest
import safetensors.torch

from cutwork.engine.backend import choose
from cutwork.engine.model import Model
from cutwork.errors import CutworkError
from cutwork.pack.masked import encode
from cutwork.pack.pack import pack as pack_checkpoint
from cutwork.pack.restore import restore

from .tiny import VARIANTS, byte_level_tokenizer, make, packed, relative, torch, torch_logits

VOCABULARY = 300
PROMPTS = [list(range(5, 5 + n)) for n in (1, 2, 9, 17, 33, 40)]


def native_available() -> bool:
    try:
        return hasattr(choose("native"), "Executor")
    except CutworkError:
        return False


BACKENDS = ["reference", pytest.param("native", marks=pytest.mark.skipif(not native_available(), reason="not built"))]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    byte_level_tokenizer().save_pretrained(path)
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 9]}))
    return path


@pytest.fixture(scope="module")
def llama():
    return make("llama", vocab_size=VOCABULARY)


def load(hf, directory, **options):
    options = {"backend": "reference", "threads": 1, "cache_bytes": 1 << 22, **options}
    return Model(packed(hf, directory), **options)


def greedy(hf, prompt, count):
    with torch.no_grad():
        out = hf.generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False)
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("variant", ["mpt", "gpt-neox", "gpt-neox-serial", "qwen3", "gpt2", "gpt2-by-depth", "gemma3"])
def test_a_saved_checkpoint_gives_the_same_logits(variant, tmp_path):
    """Names on disk are not always those of the module."""
    hf = make(variant, vocab_size=VOCABULARY)
    hf.save_pretrained(tmp_path)
    with Model.load(tmp_path, threads=1, cache_bytes=1 << 22) as model:
        assert relative(model.logits(PROMPTS[-1]), torch_logits(hf, np.array(PROMPTS[-1]))) < 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_tokens_equal_transformers(variant, backend, directory):
    hf = make(variant, vocab_size=VOCABULARY)
    count = 64 if backend == "native" else 20  # the reference is slow, and does the same to every token
    with load(hf, directory, backend=backend) as model:
        assert relative(model.logits(PROMPTS[-1]), torch_logits(hf, np.array(PROMPTS[-1]))) < 1e-4
        results = model.generate([PROMPTS[3], PROMPTS[1]], max_new_tokens=count, ignore_eos=True)
    for prompt, result in zip([PROMPTS[3], PROMPTS[1]], results, strict=True):
        assert result.tokens == greedy(hf, prompt, count)
        assert result.finish_reason == "length"


@pytest.mark.parametrize(("cache_dtype", "tolerance"), [("f32", 1e-5), ("bf16", 0.02), ("i8", 0.05)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_cache_dtypes(cache_dtype, tolerance, backend, directory, llama):
    with load(llama, directory, backend=backend, cache_dtype=cache_dtype) as model:
        assert model.cache_dtype == cache_dtype
        actual = model.logits(PROMPTS[-1])
    with load(llama, directory, cache_dtype=cache_dtype) as model:
        # AVX-512 rounds queries and weights to meet the cache's pairs of bf16, or bytes.
        near = {"f32": 1e-4, "bf16": 1e-2, "i8": 5e-3}[cache_dtype]
        assert relative(actual, model.logits(PROMPTS[-1])) < near
    assert relative(actual, torch_logits(llama, np.array(PROMPTS[-1]))) < tolerance
    with pytest.raises(CutworkError, match="must be auto, f32, bf16 or i8"):
        load(llama, directory, cache_dtype="i4")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("bf16", 0.02), ("i8", 0.06), ("i4", 0.06)])
@pytest.mark.parametrize("variant", ["llama", "qwen2"])
def test_rounded_weights_stay_close(variant, dtype, tolerance, backend, directory):
    hf = make(variant, vocab_size=VOCABULARY)
    with load(hf, directory, backend=backend) as model:
        exact = model.logits(PROMPTS[-1])
    stored = packed(hf, directory, dtype)
    with Model(stored, backend=backend, threads=1, cache_bytes=1 << 22) as model:
        assert model.cache_dtype == "bf16"
        actual = model.logits(PROMPTS[-1])
    assert relative(actual, torch_logits(hf, np.array(PROMPTS[-1]))) < tolerance
    if dtype != "i4":  # a model of random weights is not what it was
        assert relative(actual, exact) < 2 * tolerance


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_gives_what_each_prompt_gives_alone(backend, llama, directory):
    options = {"max_new_tokens": 20, "temperature": 0.9, "top_p": 0.95, "seed": 5, "ignore_eos": True}
    with load(llama, directory, backend=backend, max_batch=4) as model:
        together = model.generate(PROMPTS, **options)
        alone = [model.generate(prompt, **options) for prompt in PROMPTS]
        again = model.generate(PROMPTS, **{**options, "seed": 6})
    assert [r.tokens for r in together] == [r.tokens for r in alone]
    assert [r.tokens for r in together] != [r.tokens for r in again]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", ["llama", "mistral-window", "qwen2-window"])
def test_steps_of_any_size_give_the_same(variant, backend, directory):
    hf = make(variant, vocab_size=VOCABULARY)
    with load(hf, directory, backend=backend, max_batch=3) as model:
        whole = model.logits(PROMPTS[-1])
        expected = [r.tokens for r in model.generate(PROMPTS, max_new_tokens=12, ignore_eos=True)]
    with load(hf, directory, backend=backend, max_batch=3) as model:
        model.session.scheduler.max_tokens = model._scorer.chunk = 7
        assert relative(model.logits(PROMPTS[-1]), whole) < 1e-5
        assert [r.tokens for r in model.generate(PROMPTS, max_new_tokens=12, ignore_eos=True)] == expected


def test_nothing_changes_when_memory_is_short(llama, directory):
    with load(llama, directory) as model:
        expected = [r.tokens for r in model.generate(PROMPTS, max_new_tokens=60, ignore_eos=True)]
    block = 2 * 3 * 2 * 8 * 32 * 4  # keys and values, layers, heads, head_dim, tokens, bytes
    with load(llama, directory, max_context=120, cache_bytes=5 * block) as model:
        results = model.generate(PROMPTS, max_new_tokens=60, ignore_eos=True)
        assert model.session.scheduler.cache.free == 5
    assert [r.tokens for r in results] == expected


def test_generation_says_everything(llama, directory):
    with load(llama, directory) as model:
        result = model.generate("the theatre", max_new_tokens=8, logprobs=3, ignore_eos=True)
        assert result.prompt_tokens == len(model.encode("the theatre"))
        expected = model.logits(model.encode("the theatre") + result.tokens)
    json.dumps(asdict(result))
    assert len(result.tokens) == len(result.logprobs) == 8
    assert result.timings.prefill > 0 and result.timings.decode > 0 and result.decode_speed > 0
    for i, entry in enumerate(result.logprobs):
        row = expected[result.prompt_tokens - 1 + i]
        assert entry.token == result.tokens[i] == entry.top[0][0]
        assert entry.logprob == pytest.approx(float(row.max() - np.log(np.exp(row).sum())), abs=1e-4)
        assert [p for _, p in entry.top] == sorted((p for _, p in entry.top), reverse=True)


def test_stream_pieces_make_the_text(llama, directory):
    with load(llama, directory) as model:
        whole = model.generate("the", max_new_tokens=40, temperature=1.0, seed=1, ignore_eos=True).text
        pieces = list(model.generate("the", max_new_tokens=40, temperature=1.0, seed=1, ignore_eos=True, stream=True))
        assert "".join(pieces) == whole
        assert len(pieces) > 5
        for _ in model.generate("the", stream=True, ignore_eos=True):
            break
        assert not model.session.busy
        assert model.session.scheduler.cache.free == model.session.scheduler.cache.blocks


def test_a_stream_that_is_never_read_leaves_nothing(llama, directory):
    with load(llama, directory) as model:
        model.generate("the", stream=True)
        assert not model.session.busy


def test_threads_share_steps_and_get_their_own_answers(llama, directory):
    options = {"max_new_tokens": 30, "temperature": 1.0, "seed": 2, "ignore_eos": True}
    with load(llama, directory) as model, ThreadPoolExecutor(4) as pool:
        expected = [model.generate(prompt, **options).tokens for prompt in PROMPTS]
        whole = pool.map(lambda prompt: model.generate(prompt, **options).tokens, PROMPTS)
        streamed = pool.map(lambda prompt: "".join(model.generate(prompt, stream=True, **options)), PROMPTS)
        assert list(whole) == expected
        assert list(streamed) == [model.generate(prompt, **options).text for prompt in PROMPTS]


def test_stop_string_and_end_of_sequence(llama, directory):
    options = {"max_new_tokens": 40, "temperature": 1.5, "seed": 3}
    with load(llama, directory) as model:
        free = model.generate("the", **options, ignore_eos=True)
        stop = free.text[5:8]
        cut = model.generate("the", **options, ignore_eos=True, stop=[stop])
        assert cut.text == free.text[: free.text.index(stop)]
        assert cut.finish_reason == "stop"
        assert free.tokens[: len(cut.tokens)] == cut.tokens
        eos = free.tokens[4]
        model.session._stop_tokens = frozenset([eos])
        ended = model.generate("the", **options)
        assert ended.finish_reason == "stop"
        assert ended.tokens == free.tokens[: free.tokens.index(eos) + 1]


def test_chat_uses_the_template(llama, directory):
    with load(llama, directory) as model:
        messages = [{"role": "user", "content": "hello"}]
        assert model.render_chat(messages) == "user: hello\nassistant: "
        answer = model.chat(messages, max_new_tokens=5)
        assert answer.tokens == model.generate("user: hello\nassistant: ", max_new_tokens=5).tokens
        assert "".join(model.chat(messages, max_new_tokens=5, stream=True)) == answer.text


def test_perplexity_equals_transformers(llama, directory):
    tokens = np.random.default_rng(1).integers(3, VOCABULARY, 100)
    with load(llama, directory) as model:
        once = model.perplexity(tokens, window=100)
        overlapping = model.perplexity(tokens, window=40, stride=15)
        apart = model.perplexity(tokens, window=40)
        chunked = model.perplexity(tokens[:90].tolist(), window=100, max_tokens=90)
        model._scorer.chunk = 16
        assert model.perplexity(tokens[:90].tolist(), window=100).nll == pytest.approx(chunked.nll, abs=1e-6)
    with torch.no_grad():
        ids = torch.tensor(tokens)[None]
        assert once.nll == pytest.approx(float(llama(ids, labels=ids).loss), abs=1e-5)
        assert once.tokens == 99
        total, count, done = 0.0, 0, 0
        for begin in range(0, 100, 15):
            end = min(begin + 40, 100)
            labels = ids[:, begin:end].clone()
            labels[:, : end - begin - (end - done)] = -100
            if begin == 0:
                labels[:, 0] = -100
            number = int((labels != -100).sum())
            total += float(llama(ids[:, begin:end], labels=labels).loss) * number
            count, done = count + number, end
            if end == 100:
                break
    assert overlapping.tokens == count == 99
    assert overlapping.nll == pytest.approx(total / count, abs=1e-5)
    assert apart.tokens == 100 - 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": []}, "empty"),
        ({"prompt": ["the", ""]}, "empty"),
        ({"prompt": list(range(3, 260))}, "257 tokens, but the context holds 256"),
        ({"prompt": [3, 300]}, "token 300 is not in the vocabulary"),
        ({"prompt": "the", "temperature": -1}, "temperature"),
        ({"prompt": "the", "top_p": 0.0}, "top_p"),
        ({"prompt": "the", "max_new_tokens": 0}, "max_new_tokens"),
        ({"prompt": "the", "nonsense": 1}, "unknown option 'nonsense'"),
        ({"prompt": ["the", "a"], "stream": True}, "only one prompt"),
    ],
)
def test_bad_requests_get_one_sentence(arguments, message, llama, directory):
    with load(llama, directory) as model:
        with pytest.raises(CutworkError, match=message):
            model.generate(**arguments)
        assert not model.session.busy


@pytest.mark.parametrize("prompt", [3, 1.5, None, [1.5], [[1.5]], [None], ["a", 3], b"abc", np.array([1.5]), object()])
def test_what_is_no_prompt_is_told(prompt, llama, directory):
    model = load(llama, directory)
    for ask in (model.generate, model.encode, model.perplexity, model.logits):
        with pytest.raises(CutworkError, match=r"^expected text or a list of token ids, not "):
            ask(prompt)


def test_token_ids_may_be_of_any_kind_of_integers(llama, directory):
    model = load(llama, directory)
    plain = model.generate([5, 6, 7], max_new_tokens=3).tokens
    for ids in (np.array([5, 6, 7]), tuple(np.array([5, 6, 7], np.uint8)), range(5, 8)):
        assert model.generate(ids, max_new_tokens=3).tokens == plain
    for ids in (np.array([5, 6, 7]), torch.tensor([5, 6, 7])):
        assert [answer.tokens for answer in model.generate([ids], max_new_tokens=3)] == [plain]
    assert model.logits(np.array([5, 6])).shape == (2, VOCABULARY)


@pytest.mark.parametrize("messages", [3, None, np.array([1, 2])])
def test_what_is_no_list_of_messages_is_told(messages, llama, directory):
    with pytest.raises(CutworkError, match=r"^messages are a list, and "):
        load(llama, directory).chat(messages)


def test_answer_is_clipped_at_the_end_of_the_context(llama, directory):
    with load(llama, directory, max_context=30) as model:
        result = model.generate(list(range(3, 23)), max_new_tokens=100, ignore_eos=True)
    assert (len(result.tokens), result.finish_reason) == (10, "length")


def test_bad_models_get_one_sentence(llama, directory):
    good = packed(llama, directory)
    name = "model.layers.1.mlp.up_proj.weight"
    without = {key: value for key, value in good.weights.items() if key != name}
    cases = [
        (good.config, without, f"'{name}' is missing"),
        (good.config, {**without, name: good.weights["model.norm.weight"]}, "config.json promises"),
        (good.config, {**good.weights, "model.layers.3.mlp.up_proj.weight": good.weights[name]}, "does not belong"),
        (
            {**good.config, "model_type": "mamba"},
            good.weights,
            "it runs bart, bert, distilbert, gemma2, gemma3_text, gpt2",
        ),
        ({**good.config, "hidden_act": "mish"}, good.weights, "activation 'mish'"),
        ({**good.config, "num_hidden_layers": 10**9}, good.weights, "num_hidden_layers"),
        ({**good.config, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, good.weights, "'dynamic'"),
        ({**good.config, "num_key_value_heads": 4}, good.weights, "not a multiple"),
    ]
    for config, weights, message in cases:
        with pytest.raises(CutworkError, match=message):
            Model(type(good)(directory, config, weights, good.source), backend="reference")


def test_equal_prefixes_are_computed_once(llama, directory):
    prompt = list(range(3, 83))
    with load(llama, directory) as model:
        first = model.generate(prompt, max_new_tokens=4, ignore_eos=True)
        second = model.generate([*prompt, 99], max_new_tokens=4, ignore_eos=True)
        assert (first.timings.reused_tokens, second.timings.reused_tokens) == (0, 64)
        again = model.generate(prompt, max_new_tokens=4, ignore_eos=True)
    assert again.tokens == first.tokens


def test_several_draws_share_the_prompt_and_equal_those_asked_for_one_by_one(directory, llama):
    options = {"max_new_tokens": 20, "temperature": 1.5, "ignore_eos": True}
    with load(llama, directory) as model:
        alone = [model.generate(PROMPTS[5], seed=seed, **options).tokens for seed in (5, 6, 7)]
        first, second = model.generate([PROMPTS[5], PROMPTS[2]], seed=5, num_return_sequences=3, **options)
    assert [g.tokens for g in (first, *first.alternatives)] == alone
    assert [g.timings.reused_tokens for g in first.alternatives] == [40, 40]
    assert len({tuple(g.tokens) for g in (second, *second.alternatives)}) == 3
    with load(llama, directory) as model, pytest.raises(CutworkError, match="one answer can be streamed"):
        model.generate(PROMPTS[2], stream=True, num_return_sequences=2, temperature=1.0)
    with pytest.raises(CutworkError, match="give one prompt at a time"):
        model.generate([PROMPTS[2], PROMPTS[3]], constraint=object())


def test_a_beam_search_has_text_and_streams_it_whole(directory, llama):
    with load(llama, directory) as model:
        result = model.generate(PROMPTS[4], num_beams=3, max_new_tokens=12, num_return_sequences=2)
        assert "".join(model.generate(PROMPTS[4], num_beams=3, max_new_tokens=12, stream=True)) == result.text
        shown = [token for token in result.tokens if token not in (2, 9)]
        assert result.text == model.tokenizer.decode(shown, skip_special_tokens=True).rstrip("\ufffd")
        assert result.alternatives[0].score < result.score and result.decode_speed > 0
    assert json.loads(json.dumps(asdict(result)))["alternatives"][0]["tokens"]


def test_tokens_that_rules_name_must_exist(directory, llama):
    with load(llama, directory) as model, pytest.raises(CutworkError, match="token 300 is not in the vocabulary"):
        model.generate([1], suppress_tokens=[4, 300])


def test_what_a_model_must_not_write_it_does_not_whatever_else_is_forbidden(directory, llama):
    with load(llama, directory) as model:
        plain = model.generate(PROMPTS[0], max_new_tokens=1, ignore_eos=True).tokens
        model.session._usual = {"suppress_tokens": plain}
        for more in ({}, {"suppress_tokens": [4]}):
            assert model.generate(PROMPTS[0], max_new_tokens=1, ignore_eos=True, **more).tokens != plain
        assert model.generate(PROMPTS[0], max_new_tokens=1, ignore_eos=True, suppress_tokens=[]).tokens == plain


def test_gpt2_as_openai_stores_it_packs_and_restores_bit_for_bit(tmp_path):
    """Linear layers as [columns, rows], names of the inner model, a causal mask among the weights."""
    hf = make("gpt2", vocab_size=VOCABULARY)
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            if ".c_" in name and weight.ndim == 2:
                weight.mul_(torch.rand_like(weight) < 0.4)  # sparse enough for a bitmask
    state = {
        n.removeprefix("transformer."): t.contiguous() for n, t in hf.state_dict().items() if n != "lm_head.weight"
    }
    state["h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
    (tmp_path / "plain").mkdir()
    hf.config.save_pretrained(tmp_path / "plain")
    safetensors.torch.save_file(state, tmp_path / "plain" / "model.safetensors")
    pack_checkpoint(tmp_path / "plain", tmp_path / "packed")
    with Model.load(tmp_path / "packed", threads=1, cache_bytes=1 << 22) as model:
        assert relative(model.logits(PROMPTS[-1]), torch_logits(hf, np.array(PROMPTS[-1]))) < 1e-4
        assert 0.5 < model.sparsity < 0.7
        assert {w.encoding for n, w in model.weights.items() if ".h." in n} == {"bitmask"}
    restore(tmp_path / "packed", tmp_path / "back")
    back = safetensors.torch.load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_mpt_normalises_queries_and_keys_if_asked_to(directory):
    """As MPT's own code does, which transformers has not: its product of queries, keys and values does it here."""
    hf = make("mpt", vocab_size=VOCABULARY)
    weights = packed(hf, directory)
    config = {**weights.config, "attn_config": {"clip_qkv": 0.8, "qk_ln": True}}
    norms = {}
    for i, block in enumerate(hf.transformer.blocks):
        q_ln, k_ln = (torch.nn.LayerNorm(48, bias=False) for _ in range(2))
        for name, norm in (("q_ln", q_ln), ("k_ln", k_ln)):
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
            norms[f"transformer.blocks.{i}.attn.{name}.weight"] = encode(norm.weight.detach().numpy(), None)
        block.attn.clip_qkv = None
        block.attn.Wqkv.register_forward_hook(
            lambda _, __, out, q_ln=q_ln, k_ln=k_ln: torch.cat(
                [f(part) for f, part in zip((q_ln, k_ln, lambda v: v), out.clamp(-0.8, 0.8).chunk(3, -1), strict=True)],
                -1,
            )
        )
    model = replace(weights, config=config, weights={**weights.weights, **norms})
    with Model(model, backend="reference", threads=1, cache_bytes=1 << 22) as engine:
        assert relative(engine.logits(PROMPTS[-1]), torch_logits(hf, np.array(PROMPTS[-1]))) < 1e-4


def test_who_holds_an_iterator_does_not_hold_the_model(llama, directory):
    tokens = np.random.default_rng(1).integers(3, VOCABULARY, 40).tolist()
    with load(llama, directory) as model:
        whole = [entry for part in model.token_logprobs(tokens) for entry in part]
        model._scorer.chunk = 16
        parts = model.token_logprobs(tokens)
        entries = list(next(parts))
        assert model.generate(PROMPTS[0], max_new_tokens=4).tokens == greedy(llama, PROMPTS[0], 4)
        entries += [entry for part in parts for entry in part]
        for once, again in zip(whole[1:], entries[1:], strict=True):
            assert again.logprob == pytest.approx(once.logprob, abs=1e-5)
        late = [entry.logprob for part in model.token_logprobs(tokens, first=21) for entry in part]
        assert late == pytest.approx([entry.logprob for entry in whole[21:]], abs=1e-5)
        dropped = model.token_logprobs(tokens)
        next(dropped)
        del dropped
        assert model._cache.free == model._cache.blocks
