"""LoRA adapters chosen by each request: the same logits and tokens as PEFT, whatever runs beside it."""

import copy
import json
from functools import partial

import numpy as np
import pytest
import safetensors.torch

from cutwork.engine.model import Model
from cutwork.errors import CutworkError
from tests.architectures.test_wrappers import wrapper

from .test_model import BACKENDS, PROMPTS, VOCABULARY, greedy, load
from .tiny import byte_level_tokenizer, make, packed, relative, torch, torch_logits

peft = pytest.importorskip("peft")

ALL_LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
OPTIONS = {
    "all": {"r": 4, "lora_alpha": 8, "target_modules": ALL_LINEARS},
    "some": {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"], "use_rslora": True},
}


def adapted(hf, path, seed=0, dtype=torch.float32, **options):
    """What PEFT makes of a model and a random adapter, which is written to `path`."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(copy.deepcopy(hf), peft.LoraConfig(**options)).eval()
    state = peft.get_peft_model_state_dict(model)
    peft.set_peft_model_state_dict(model, {n: torch.randn_like(t).mul(0.2).to(dtype).float() for n, t in state.items()})
    model.save_pretrained(path)
    if dtype != torch.float32:
        file = path / "adapter_model.safetensors"
        safetensors.torch.save_file({n: t.to(dtype) for n, t in safetensors.torch.load_file(file).items()}, file)
    return model


@pytest.fixture(scope="module")
def llama():
    return make("llama", vocab_size=VOCABULARY)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    byte_level_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def oracles(llama, tmp_path_factory):
    """PEFT's models by the name of their adapter, and the directories of those."""
    paths = {name: tmp_path_factory.mktemp(name) for name in OPTIONS}
    models = {name: adapted(llama, paths[name], seed, **OPTIONS[name]) for seed, name in enumerate(OPTIONS)}
    return models, paths


@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_and_greedy_tokens_equal_pefts(backend, llama, directory, oracles):
    models, paths = oracles
    with load(llama, directory, backend=backend, adapters=paths, cache_dtype="f32") as model:
        for name, hf in {None: llama, **models}.items():
            prompt = PROMPTS[3]
            assert relative(model.logits(prompt, adapter=name), torch_logits(hf, np.array(prompt))) < 1e-4
            answer = model.generate(prompt, max_new_tokens=12, ignore_eos=True, adapter=name)
            assert answer.tokens == greedy(hf, prompt, 12)
        base, other = (model.logits(PROMPTS[3], adapter=name) for name in (None, "all"))
        assert relative(other, base) > 0.1


@pytest.mark.parametrize("variant", ["qwen3", "phi3", "gemma2", "gemma3"])
def test_other_families(variant, tmp_path):
    hf = make(variant, vocab_size=VOCABULARY)
    targets = ["qkv_proj", "gate_up_proj", "down_proj"] if variant == "phi3" else ALL_LINEARS
    oracle = adapted(hf, tmp_path / "adapter", r=4, lora_alpha=8, target_modules=targets)
    with load(hf, tmp_path, backend="auto", adapters={"a": tmp_path / "adapter"}) as model:
        expected = torch_logits(oracle, np.array(PROMPTS[3]))
        assert relative(model.logits(PROMPTS[3], adapter="a"), expected) < 1e-4


@pytest.mark.parametrize("kind", ["gemma3", "ministral3"])
def test_an_adapter_trained_on_a_model_that_also_sees(kind, tmp_path):
    """By the names of its layers there, those before transformers 4.52, and those of the language model alone."""
    hf, tokens = wrapper(kind), list(range(5, 40))
    hf.save_pretrained(tmp_path / "base")
    inside = rf".*language_model.*({'|'.join(ALL_LINEARS)})"
    oracle = adapted(hf, tmp_path / "a", r=4, lora_alpha=8, target_modules=inside)
    expected = torch_logits(oracle, np.array(tokens))
    now, older, alone = "model.language_model.", "language_model.model.", "model."
    for before, after in ((now, now), (now, older), (older, alone)):
        with_tensors(tmp_path / "a", partial(renamed, before, after))
        with Model.load(tmp_path / "base", threads=1, adapters={"a": tmp_path / "a"}) as model:
            assert relative(model.logits(tokens), expected) > 0.1
            assert relative(model.logits(tokens, adapter="a"), expected) < 1e-4
    adapted(hf, tmp_path / "seeing", r=4, lora_alpha=8, target_modules=ALL_LINEARS)
    with pytest.raises(CutworkError, match=r"vision_tower.* is no layer of the language model, and what sees"):
        Model.load(tmp_path / "base", threads=1, adapters={"a": tmp_path / "seeing"})


def test_ranks_may_differ_between_layers(llama, directory, tmp_path):
    oracle = adapted(llama, tmp_path, r=4, lora_alpha=8, target_modules=ALL_LINEARS, rank_pattern={"q_proj": 7, "v": 1})
    with load(llama, directory, backend="auto", adapters={"a": tmp_path}) as model:
        expected = torch_logits(oracle, np.array(PROMPTS[3]))
        assert relative(model.logits(PROMPTS[3], adapter="a"), expected) < 1e-4


def test_gpt2_holds_its_linears_transposed(tmp_path):
    hf = make("gpt2", vocab_size=VOCABULARY)
    options = {"target_modules": ["c_attn"], "fan_in_fan_out": True}
    oracle = adapted(hf, tmp_path / "adapter", r=4, lora_alpha=8, **options)
    with load(hf, tmp_path, backend="auto", adapters={"a": tmp_path / "adapter"}) as model:
        expected = torch_logits(oracle, np.array(PROMPTS[3]))
        assert relative(model.logits(PROMPTS[3], adapter="a"), expected) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_adapter_in_half_precision(dtype, llama, directory, tmp_path):
    oracle = adapted(llama, tmp_path, dtype=dtype, **OPTIONS["all"])
    with load(llama, directory, backend="auto", adapters={"a": tmp_path}) as model:
        expected = torch_logits(oracle, np.array(PROMPTS[3]))
        assert relative(model.logits(PROMPTS[3], adapter="a"), expected) < (1e-4 if dtype == torch.float16 else 0.03)


def test_a_sparse_int8_base(directory, tmp_path):
    """What is added is exact however the base is stored."""
    hf = make("llama", vocab_size=VOCABULARY)
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            if ".layers." in name and weight.ndim == 2:
                weight.mul_(torch.rand_like(weight) < 0.3)
    stored = packed(hf, directory, "i8")
    oracle = adapted(hf, tmp_path, **OPTIONS["all"])
    with Model(stored, threads=1, cache_bytes=1 << 22, adapters={"a": tmp_path}) as model:
        assert model.sparsity > 0.6
        alone, added = (model.logits(PROMPTS[3], adapter=name) for name in (None, "a"))
        assert relative(alone, torch_logits(hf, np.array(PROMPTS[3]))) < 0.05
        assert relative(added, torch_logits(oracle, np.array(PROMPTS[3]))) < 0.05
        assert relative(added, alone) > 0.2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_batch_of_several_adapters_gives_each_its_own_answer(backend, threads, llama, directory, oracles):
    models, paths = oracles
    wanted = [(prompt, name) for prompt in PROMPTS for name in ("some", None, "all", None)]
    with load(llama, directory, backend=backend, threads=threads, adapters=paths, max_batch=9) as model:
        requests = [
            model.session.add(prompt, max_new_tokens=8, ignore_eos=True, adapter=name) for prompt, name in wanted
        ]
        while model.session.busy:
            model.session.step()
        for (prompt, name), request in zip(wanted, requests, strict=True):
            assert request.tokens == greedy(models.get(name, llama), prompt, 8), name


def test_adapters_do_not_share_what_was_computed(llama, directory, oracles):
    """Keys and values of a prompt depend on the adapter, so only requests with the same one share them."""
    models, paths = oracles
    prompt = PROMPTS[-1]
    with load(llama, directory, backend="auto", adapters=paths) as model:
        for name in ("all", None, "some", "all", None):
            seen = model.generate(prompt, max_new_tokens=6, ignore_eos=True, adapter=name)
            assert seen.tokens == greedy(models.get(name, llama), prompt, 6)
        reused = [
            model.generate(prompt, max_new_tokens=1, ignore_eos=True, adapter=name).timings.reused_tokens
            for name in ("all", "some", None)
        ]
        assert all(reused)
        first = model.generate(prompt[1:], max_new_tokens=1, adapter="all").timings.reused_tokens
        again = model.generate(prompt[1:], max_new_tokens=1, adapter="some").timings.reused_tokens
        assert (first, again) == (0, 0)


@pytest.mark.parametrize("draft", ["ngram", "model"])
def test_guesses_leave_the_answers_of_adapters_alone(draft, llama, directory, oracles, tmp_path):
    models, paths = oracles
    if draft == "model":
        llama.save_pretrained(tmp_path)
        byte_level_tokenizer().save_pretrained(tmp_path)
    options = {"draft": "ngram" if draft == "ngram" else tmp_path, "adapters": paths}
    with load(llama, directory, backend="auto", **options) as model:
        for name in ("all", None, "some"):
            answer = model.generate(PROMPTS[2], max_new_tokens=24, ignore_eos=True, adapter=name)
            assert answer.tokens == greedy(models.get(name, llama), PROMPTS[2], 24)


def test_beams_and_scores_follow_the_adapter(llama, directory, oracles):
    models, paths = oracles
    with load(llama, directory, backend="auto", adapters=paths, cache_dtype="f32") as model:
        options = {"max_new_tokens": 6, "num_beams": 3}
        beams = model.generate(PROMPTS[2], ignore_eos=True, adapter="all", **options).tokens
        with torch.no_grad():
            expected = models["all"].generate(input_ids=torch.tensor([PROMPTS[2]]), do_sample=False, **options)
        assert beams == expected[0, len(PROMPTS[2]) :].tolist()
        [logprobs] = model.token_logprobs(PROMPTS[2], adapter="all")
        expected = torch.log_softmax(torch.tensor(torch_logits(models["all"], np.array(PROMPTS[2]))), -1)
        for place, token in enumerate(PROMPTS[2][1:]):
            assert logprobs[place + 1].logprob == pytest.approx(float(expected[place, token]), abs=1e-3)


def test_a_model_with_adapters_that_nobody_asks_for_is_as_before(llama, directory, oracles):
    with (
        load(llama, directory, backend="auto", adapters=oracles[1]) as model,
        load(llama, directory, backend="auto") as plain,
    ):
        assert np.array_equal(model.logits(PROMPTS[3]), plain.logits(PROMPTS[3]))
        assert model.sparsity == plain.sparsity
        added = model.memory_bytes["weights"] - plain.memory_bytes["weights"]
        sizes = [(path / "adapter_model.safetensors").stat().st_size for path in oracles[1].values()]
        assert 0.7 * sum(sizes) < added <= sum(sizes)


def test_an_unknown_adapter_is_refused(llama, directory, oracles):
    with load(llama, directory, adapters=oracles[1]) as model:
        with pytest.raises(CutworkError, match="no adapter 'other'; it has all, some"):
            model.generate([5], adapter="other")
        with pytest.raises(CutworkError, match="no adapter 'other'"):
            model.logits([5], adapter="other")
    with load(llama, directory) as model, pytest.raises(CutworkError, match="loaded without any"):
        model.generate([5], adapter="all")


REFUSED = {
    "DoRA": {"use_dora": True},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
    "alpha_pattern": {"alpha_pattern": {"q_proj": 3}},
    "biases": {"bias": "all"},
    "began as pissa": {"init_lora_weights": "pissa_niter_4"},
    "'IA3'": {"peft_type": "IA3"},
    "whole number": {"r": "4"},
    "has rank 4": {"r": 5},
    "a number": {"lora_alpha": None},
    "finite|a number": {"lora_alpha": float("inf")},
}


@pytest.fixture
def copied(oracles, tmp_path):
    """A copy of an adapter of which a test changes something."""
    for file in oracles[1]["all"].iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_added_is_refused(said, copied, llama, directory):
    config = json.loads((copied / "adapter_config.json").read_text()) | REFUSED[said]
    (copied / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CutworkError, match=said):
        load(llama, directory, adapters={"a": copied})


def with_tensors(path, change):
    file = path / "adapter_model.safetensors"
    state = safetensors.torch.load_file(file)
    safetensors.torch.save_file({name: t.contiguous() for name, t in change(state).items()}, file)


def renamed(before, after, state):
    return {name.replace(before, after): tensor for name, tensor in state.items()}


LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
DAMAGED = {
    "is not of a linear layer": lambda s: s | {f"{LAYER}.lora_magnitude_vector": torch.ones(3)},
    "is no linear layer of this model": lambda s: s | {"base_model.model.lm_head.lora_A.weight": torch.ones(4, 48)},
    "lacks one of": lambda s: {name: t for name, t in s.items() if name != f"{LAYER}.lora_B.weight"},
    "trained on another model": lambda s: s | {f"{LAYER}.lora_B.weight": torch.ones(47, 4)},
    "on another model": lambda s: s | {f"{LAYER}.lora_A.weight": torch.ones(48)},
    "another model": lambda s: s | {f"{LAYER}.lora_A.weight": torch.ones(0, 48)},
    "holds I8": lambda s: s | {f"{LAYER}.lora_A.weight": torch.ones(4, 48, dtype=torch.int8)},
    "holds no layers": lambda s: {},
}


@pytest.mark.parametrize("said", DAMAGED)
def test_weights_that_do_not_fit_are_refused(said, copied, llama, directory):
    with_tensors(copied, DAMAGED[said])
    with pytest.raises(CutworkError, match=said):
        load(llama, directory, adapters={"a": copied})


def test_directories_that_are_no_adapters_are_refused(copied, llama, directory):
    (copied / "adapter_model.safetensors").rename(copied / "adapter_model.bin")
    with pytest.raises(CutworkError, match="writes safetensors"):
        load(llama, directory, adapters={"a": copied})
    with pytest.raises(CutworkError, match=r"no adapter of PEFT: there is no adapter_config\.json"):
        load(llama, directory, adapters={"a": directory})
    with pytest.raises(CutworkError, match="needs a name"):
        load(llama, directory, adapters={"": copied})


def test_an_activation_that_is_part_of_a_layer_is_refused(tmp_path):
    hf = make("gpt2", vocab_size=VOCABULARY)
    adapted(hf, tmp_path / "a", r=2, lora_alpha=2, target_modules=["mlp.c_fc"], fan_in_fan_out=True)
    with pytest.raises(CutworkError, match="layers with an activation"):
        load(hf, tmp_path, adapters={"a": tmp_path / "a"})
