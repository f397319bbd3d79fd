"""Checkpoints with random weights of any architecture that transformers knows, and what is made of them by commands."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from benchmarks.common.shapes import Shape
from cutwork.store.directory import copy_side_files
from cutwork.store.output import output_directory


def write_random(directory: Path, config: dict[str, Any], tokenizer: Path) -> None:
    """A bfloat16 language model in one file per block, made a block at a time, with another model's tokenizer.

    `config` is what config.json says. The vocabulary is the tokenizer's where the config has none.
    """
    words = AutoTokenizer.from_pretrained(tokenizer)
    settings = {"vocab_size": len(words), "dtype": "bfloat16", **config}
    settings |= {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    with output_directory(directory) as partial:
        (partial / "config.json").write_text(json.dumps(settings))
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(partial))
        places: dict[str, str] = {}
        files: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, parameter in model.named_parameters():
            number = next((part for part in name.split(".") if part.isdigit()), "rest")
            files.setdefault(f"model-{number}.safetensors", {})[name] = tuple(parameter.shape)
        generator = torch.Generator().manual_seed(0)
        for file, shapes in files.items():
            tensors = {}
            for name, size in shapes.items():
                values = torch.empty(size, dtype=torch.bfloat16)
                if len(size) > 1:
                    values.normal_(0, size[-1] ** -0.5, generator=generator)
                else:
                    values.fill_(1 if "norm" in name else 0)
                tensors[name] = values
            save_file(tensors, partial / file, metadata={"format": "pt"})
            places |= dict.fromkeys(shapes, file)
        (partial / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
        copy_side_files(tokenizer, partial)


def llama(shape: Shape) -> dict[str, Any]:
    """The configuration of a Llama whose vocabulary is the tokenizer's."""
    return {key: value for key, value in shape.config.items() if key != "vocab_size"}


def count_weights(directory: Path) -> int:
    """Parameters of a language model's checkpoint."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
    return sum(parameter.numel() for parameter in model.parameters())


def dense(work: Path, name: str, config: dict[str, Any], tokenizer: Path) -> Path:
    """`write_random`, if it is not there yet."""
    path = work / f"{name}-bf16"
    if not path.exists():
        write_random(path, config, tokenizer)
    return path


def packed(work: Path, name: str, config: dict[str, Any], tokenizer: Path, sparsity: float) -> Path:
    """Pruned by magnitude, rounded to int8 and packed, with the commands that a user has."""
    percent = round(100 * sparsity)
    path = work / f"{name}-int8-{percent}"
    if not path.exists():
        source = dense(work, name, config, tokenizer)
        pruned = source if not sparsity else work / f"{name}-pruned-{percent}"
        rounded = work / f"{name}-rounded-{percent}"
        if sparsity and not pruned.exists():
            _cutwork("prune", source, pruned, "--method", "magnitude", "--sparsity", sparsity)
        if not rounded.exists():
            _cutwork("quantize", pruned, rounded, "--method", "rtn")
        _cutwork("pack", rounded, path, "--head", "i8", "--dtype", "bf16")
    return path


def gguf(
    work: Path, name: str, config: dict[str, Any], tokenizer: Path, kind: str, llama_build: Path, source: Path
) -> Path:
    """Dense, all matrices in one of llama.cpp's types ("Q8_0", "Q4_0").

    llama_build: its build, with bin/llama-quantize. source: its source tree, with convert_hf_to_gguf.py.
    """
    path = work / f"{name}-{kind}.gguf"
    if not path.exists():
        whole = work / f"{name}-BF16.gguf"
        if not whole.exists():
            convert = [sys.executable, source / "convert_hf_to_gguf.py", dense(work, name, config, tokenizer)]
            _run(*convert, "--outtype", "bf16", "--outfile", whole)
        _run(llama_build / "bin" / "llama-quantize", "--pure", whole, path, kind)
    return path


def write_tiny_llama(directory: Path) -> None:
    """Two narrow layers with a tokenizer of bytes and a chat template: all that `tune` and `serve` ask for."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    words = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<end>")
    words.chat_template = "{% for message in messages %}{{ message.content }} {% endfor %}"
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.eos_token_id,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    words.save_pretrained(directory)


def _cutwork(*arguments: object) -> None:
    _run(Path(sys.executable).with_name("cutwork"), *arguments)


def _run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True)
