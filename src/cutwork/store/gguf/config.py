"""A GGUF file's metadata as a Hugging Face configuration."""

from typing import Any

import numpy as np

from cutwork.errors import CutworkError
from cutwork.store import bfloat16
from cutwork.store.gguf.file import GgufFile

# `general.architecture`: model_type, class. Llama's covers Mistral, SmolLM and many others.
ARCHITECTURES = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "gemma2": ("gemma2", "Gemma2ForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
}
ROPE_FACTORS = "rope_freqs.weight"  # what Llama 3.1's RoPE divides each frequency by
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
GEMMA = ("gemma2", "gemma3")
_27B = {"gemma2": 46, "gemma3": 62}  # layers of the one Gemma that scales queries by its width


def architecture(file: GgufFile) -> str:
    """The name that a file gives its architecture. Raises CutworkError if cutwork does not read that."""
    name = file.metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        raise CutworkError(
            f"{file.path} is a GGUF of architecture {name!r}, and cutwork reads {', '.join(ARCHITECTURES)}; use the "
            "Hugging Face checkpoint it was made from"
        )
    if file.metadata.get("split.count", 1) != 1:
        raise CutworkError(f"{file.path} is one part of a GGUF; join them with llama.cpp's llama-gguf-split --merge")
    return str(name)


def hugging_face_config(file: GgufFile) -> dict[str, Any]:
    """The config.json of the model in a file. Raises CutworkError if something is missing or is not as it should be."""
    arch = architecture(file)
    model_type, class_name = ARCHITECTURES[arch]

    def value(key: str, kind: type, default: Any = None) -> Any:
        found = file.metadata.get(f"{arch}.{key}", default)
        if isinstance(found, bool) or not isinstance(found, (int, float) if kind is float else kind):
            raise CutworkError(f"{file.path} is damaged: {arch}.{key} is {found!r}; get it again")
        return found

    heads = value("attention.head_count", int)
    width = value("embedding_length", int)
    if heads < 1:
        raise CutworkError(f"{file.path} is damaged: {arch}.attention.head_count is {heads}; get it again")
    layers = value("block_count", int)
    if not 1 <= layers <= len(file.tensors):  # a list of so many is made
        raise CutworkError(f"{file.path} is damaged: {arch}.block_count is {layers}; get it again")
    if "token_embd.weight" not in file.tensors:
        raise CutworkError(f"{file.path} is damaged: it has no token_embd.weight; get it again")
    rope = {"rope_type": "default", "rope_theta": float(value("rope.freq_base", float, 10000.0))}
    config: dict[str, Any] = {
        "architectures": [class_name],
        "model_type": model_type,
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "hidden_size": width,
        "intermediate_size": value("feed_forward_length", int),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": value("attention.head_count_kv", int, heads),
        "head_dim": value("attention.key_length", int, value("rope.dimension_count", int, width // heads)),
        "max_position_embeddings": value("context_length", int),
        "rms_norm_eps": value("attention.layer_norm_rms_epsilon", float),
        "rope_parameters": rope,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": file.metadata.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": file.metadata.get("tokenizer.ggml.padding_token_id"),
    }
    _scale_rope(file, arch, rope, config["head_dim"])
    if arch in GEMMA:
        by_width = layers == _27B[arch]
        config |= {
            "hidden_activation": "gelu_pytorch_tanh",
            "sliding_window": value("attention.sliding_window", int),
            "query_pre_attn_scalar": width // heads if by_width else config["head_dim"],
        }
        del config["attention_bias"]
    if arch == "gemma2":
        config |= {
            "attn_logit_softcapping": float(value("attn_logit_softcapping", float)),
            "final_logit_softcapping": float(value("final_logit_softcapping", float)),
        }
    if arch == "gemma3":
        config |= {
            "rope_parameters": {
                "full_attention": {**rope, "rope_theta": float(value("rope.freq_base", float, 1e6))},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
            "layer_types": [
                "full_attention" if (layer + 1) % 6 == 0 else "sliding_attention" for layer in range(layers)
            ],
        }
    return config


def _scale_rope(file: GgufFile, arch: str, rope: dict[str, Any], head_dim: int) -> None:
    """Note how a file stretches its positions. Raises CutworkError if that is none of the ways that are known."""
    factor = file.metadata.get(f"{arch}.rope.scaling.factor", file.metadata.get(f"{arch}.rope.scale_linear", 1.0))
    usual = "none" if factor in (0, 1) else "linear"  # of older files
    kind = file.metadata.get(f"{arch}.rope.scaling.type", usual)
    original = file.metadata.get(f"{arch}.rope.scaling.original_context_length")
    if kind == "linear" and isinstance(factor, int | float) and factor > 0:
        rope |= {"rope_type": "linear", "factor": float(factor)}
    elif kind == "yarn" and isinstance(factor, int | float) and factor > 0 and isinstance(original, int):
        rope |= {"rope_type": "yarn", "factor": float(factor), "original_max_position_embeddings": original}
    elif kind != "none":
        raise CutworkError(f"{file.path} stretches positions by {kind!r}, which is not read from a GGUF")
    if ROPE_FACTORS not in file.tensors:
        return
    factors = bfloat16.widen(file.array(ROPE_FACTORS)).astype(np.float64).reshape(-1)
    rope |= {"rope_type": "llama3", "factor": float(factors.max()), **_LLAMA3}
    if len(factors) != head_dim // 2 or not np.allclose(factors, _llama3_factors(rope, head_dim), rtol=1e-3):
        raise CutworkError(f"{file.path}: {ROPE_FACTORS} is not Llama 3's; use the checkpoint that it was made from")


def _llama3_factors(rope: dict[str, Any], head_dim: int) -> np.ndarray:
    """What `_LLAMA3` divides frequencies by: nothing short waves, `factor` long ones, and between something between."""
    wave = 2 * np.pi * rope["rope_theta"] ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    turns = rope["original_max_position_embeddings"] / wave
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / rope["factor"] + smooth))
