"""Tiny random models of every architecture, made by transformers, and executors over their weights."""

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import tests.architectures
from cutwork.architectures import build_plan
from cutwork.engine.reference import executor as reference
from cutwork.pack.convert import convert
from cutwork.pack.floats import transposed
from cutwork.pack.int4 import dequantize
from cutwork.pack.manifest import Source
from cutwork.pack.masked import encode
from cutwork.pack.reader import PackedModel
from cutwork.pack.source import SourceWeight
from cutwork.store.safetensors import Tensor

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)  # the models are tiny; more threads only wait for each other

SMALL = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": None,
    "bos_token_id": 1,
}


def _variants() -> dict[str, tuple[str, dict[str, Any]]]:
    """(`model_type`, what its config says apart from SMALL) of each tiny model, from the files of the families."""
    found = {}
    for module in iter_modules(tests.architectures.__path__):
        if not module.name.startswith("test_"):
            family = import_module(f"cutwork.architectures.{module.name}").ARCHITECTURE
            changes = import_module(f"tests.architectures.{module.name}").VARIANTS
            found |= {name: (family.model_type, change) for name, change in changes.items()}
    return found


VARIANTS = _variants()


def make(variant: str, seed: int = 0, **more: Any) -> Any:
    """A transformers model in float32 whose weights are large enough that every part matters to the logits."""
    kind, changes = VARIANTS[variant]
    settings = transformers.AutoConfig.for_model(kind, **{**SMALL, **changes, **more})
    settings._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(settings).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(0.0, 0.3 if parameter.ndim == 1 else parameter.shape[1] ** -0.5)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def runner(model: Any, *, max_tokens: int = 64, blocks: int = 64, block_size: int = 4, weight: Any = None) -> Any:
    """The reference executor over a transformers model's weights; `weight(array)` makes a Weight (default: float32)."""
    plan = build_plan(model.config.to_dict())
    state = {name: _transposed(model, name, tensor.numpy()) for name, tensor in model.state_dict().items()}
    derived = {name: value.compute(state[value.source]) for name, value in plan.derived.items()}
    known = {**state, **derived, **plan.constants}
    make_weight = weight or reference.Weight.dense
    return reference.Executor(
        plan.op_dicts(),
        plan.spans(),
        [make_weight(state[name]) for name in plan.weights],
        [known[name] for name in plan.vectors],
        threads=1,
        max_tokens=max_tokens,
        max_logits=max_tokens,
        cache={
            "layers": plan.cache_layers,
            "kv_heads": plan.kv_heads,
            "head_dim": plan.head_dim,
            "block_size": block_size,
            "blocks": blocks,
            "dtype": "f32",
        },
    )


def _transposed(model: Any, name: str, array: np.ndarray) -> np.ndarray:
    return transposed(model.config.to_dict(), name, Tensor("F32", array)).array


def all_logits(executor: Any, tokens: np.ndarray, chunk: int | None = None) -> np.ndarray:
    """Logits [T, V] of one sequence, fed `chunk` tokens at a time, through a shuffled block table."""
    size = executor.cache["block_size"]
    table = np.random.default_rng(3).permutation(executor.cache["blocks"])[: -(-len(tokens) // size)]
    parts = []
    for start in range(0, len(tokens), chunk or len(tokens)):
        part = np.asarray(tokens[start : start + (chunk or len(tokens))], np.int32)
        count = np.arange(len(part), dtype=np.int32)
        parts.append(executor.step(part, count + start, 0 * count, table[None].astype(np.int32), count))
    return np.concatenate(parts)


def torch_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    """transformers' logits [T, V]."""
    with torch.no_grad():
        return model(torch.tensor(tokens[None].astype(np.int64))).logits[0].numpy()


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference relative to the largest magnitude."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def packed(model: Any, directory: Path, dtype: str = "f32") -> PackedModel:
    """A transformers model as the engine reads it, with `dtype` f32, bf16, i8 or i4 for the linears of the blocks.

    With i4 the embedding too. The transformers model is changed to hold what the rounded weights mean, so that it stays
    the oracle.
    """
    state = model.state_dict()
    weights = {}
    for name, tensor in state.items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        array, scale = tensor.numpy(), None
        if dtype == "bf16":
            array = (tensor.bfloat16().view(torch.int16).numpy()).view(np.uint16)
            tensor.copy_(tensor.bfloat16().float())
        elif dtype == "i8" and array.ndim == 2 and "layer" in name:
            scale = (np.abs(array).max(axis=1) / 127).astype(np.float32)
            scale[scale == 0] = 1  # a row that was pruned as a whole
            codes = np.rint(array / scale[:, None]).astype(np.int8)
            tensor.copy_(torch.from_numpy(codes * scale[:, None]))
            array = codes
        elif dtype == "i4" and array.ndim == 2 and ("layer" in name or "embed" in name):
            weights[name] = convert(name, SourceWeight(Tensor("F32", array)), "i4")
            tensor.copy_(torch.from_numpy(dequantize(weights[name])))
            continue
        weights[name] = encode(np.array(_transposed(model, name, array)), scale)
    return PackedModel(directory, model.config.to_dict(), weights, Source(kind="checkpoint"))


def byte_level_tokenizer() -> Any:
    """Every byte is a token; ids 0 to 2 are special; some pairs are merged."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<pad>", "<s>", "</s>", *alphabet, "th", "the", "Ġthe", "Ġth"]
    bpe = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [("t", "h"), ("th", "e")]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return _wrap(bpe)


def sentencepiece_tokenizer() -> Any:
    """Unknown characters fall back to byte tokens, words begin with ▁, and the first space of a text is dropped."""
    names = ["<pad>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdehlort", "▁a", "▁the"]
    bpe = Tokenizer(
        models.BPE({name: i for i, name in enumerate(names)}, [("▁", "a")], unk_token="<pad>", byte_fallback=True)
    )
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _wrap(bpe)


def _wrap(bpe: Tokenizer) -> Any:
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return tokenizer
