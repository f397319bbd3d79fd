"""A Whisper checkpoint as the file that whisper.cpp reads, with its linears in float16 or Q8_0."""

import json
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors.numpy import load_file
from transformers import WhisperFeatureExtractor

_MAGIC = 0x67676D6C
_F32, _F16, _Q8_0 = 0, 1, 8  # types of tensors
_BLOCK = 32  # weights that share a scale in Q8_0
_RENAMED = (
    ("self_attn_layer_norm", "attn_ln"),
    ("encoder_attn_layer_norm", "cross_attn_ln"),
    ("final_layer_norm", "mlp_ln"),
    ("self_attn", "attn"),
    ("encoder_attn", "cross_attn"),
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("out_proj", "out"),
    ("fc1", "mlp.0"),
    ("fc2", "mlp.2"),
    ("layers", "blocks"),
    ("embed_positions.weight", "positional_embedding"),
    ("embed_tokens", "token_embedding"),
)


def write_ggml(checkpoint: Path, path: Path, quantised: bool) -> None:
    """Write a Hugging Face checkpoint with weights in one file; its vocabulary is that of tokenizer.json."""
    config = json.loads((checkpoint / "config.json").read_text())
    tensors = load_file(checkpoint / "model.safetensors")
    with path.open("wb") as file:
        sizes = (
            config["vocab_size"],
            config["max_source_positions"],
            config["d_model"],
            config["encoder_attention_heads"],
            config["encoder_layers"],
            config["max_target_positions"],
            config["d_model"],
            config["decoder_attention_heads"],
            config["decoder_layers"],
            config["num_mel_bins"],
            7 if quantised else 1,  # what most of it is
        )
        file.write(struct.pack("<12i", _MAGIC, *sizes))
        filters = np.asarray(WhisperFeatureExtractor(config["num_mel_bins"]).mel_filters, np.float32).T
        file.write(struct.pack("<2i", *filters.shape) + filters.tobytes())
        _write_vocabulary(file, checkpoint)
        for name, tensor in tensors.items():
            if name != "proj_out.weight":
                _write_tensor(file, _their_name(name), tensor, quantised)


def _write_vocabulary(file: BinaryIO, checkpoint: Path) -> None:
    """Texts without special tokens, in the order of their ids: whisper.cpp knows the rest."""
    model = json.loads((checkpoint / "tokenizer.json").read_text())["model"]
    plain = sorted(model["vocab"], key=model["vocab"].get)
    plain = [token for token in plain if not (token.startswith("<|") and token.endswith("|>"))]
    letters = _bytes_of_letters()
    file.write(struct.pack("<i", len(plain)))
    for token in plain:
        text = bytes(letters[letter] for letter in token)
        file.write(struct.pack("<i", len(text)) + text)


def _bytes_of_letters() -> dict[str, int]:
    """Which byte each letter of GPT-2's vocabularies stands for: printable ones for themselves, then the others."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def _their_name(name: str) -> str:
    name = name.removeprefix("model.")
    for ours, theirs in _RENAMED:
        name = name.replace(ours, theirs)
    if name.startswith("encoder.layer_norm"):
        return name.replace("layer_norm", "ln_post")
    return name.replace("decoder.layer_norm", "decoder.ln")


def _write_tensor(file: BinaryIO, name: str, tensor: np.ndarray, quantised: bool) -> None:
    values = np.asarray(tensor, np.float32)
    if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
        values = values[:, None]
    kind, data = _F32, values.tobytes()
    if values.ndim == 3 or (values.ndim == 2 and name.endswith("weight")):
        kind, data = _F16, values.astype(np.float16).tobytes()
        if quantised and values.ndim == 2:
            kind, data = _Q8_0, _q8_0(values)
    file.write(struct.pack("<3i", values.ndim, len(name), kind))
    file.write(struct.pack(f"<{values.ndim}i", *values.shape[::-1]) + name.encode() + data)


def _q8_0(values: np.ndarray) -> bytes:
    blocks = values.reshape(-1, _BLOCK)
    scale = np.abs(blocks).max(1) / 127
    codes = np.rint(blocks / np.where(scale > 0, scale, 1)[:, None]).astype(np.int8)
    return np.rec.fromarrays([scale.astype(np.float16), codes], dtype=[("d", "<f2"), ("qs", "i1", _BLOCK)]).tobytes()
