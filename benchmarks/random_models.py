"""Random models of published shapes in three forms: checkpoint, packed with zeros in int8, and GGUF."""

import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from cutwork.store.output import output_directory

SHAPES = {
    "llama-1.1b": {  # TinyLlama-1.1B
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
    "mpt-1.3b": {  # mpt-1b-redpajama-200b's widths in the layout of mpt-7b
        "model_type": "mpt",
        "d_model": 2048,
        "n_heads": 16,
        "n_layers": 24,
        "expansion_ratio": 4,
        "max_seq_len": 2048,
        "no_bias": True,
        "attn_config": {"alibi": True, "attn_type": "multihead_attention"},
    },
}


def checkpoint(work: Path, shape: str, tokenizer: Path) -> Path:
    """A Hugging Face directory in bfloat16 with somebody's tokenizer."""
    path = work / f"{shape}-bf16"
    if not path.exists():
        vocabulary = AutoTokenizer.from_pretrained(tokenizer)
        settings = dict(SHAPES[shape])
        config = AutoConfig.for_model(settings.pop("model_type"), vocab_size=len(vocabulary), **settings)
        config.bos_token_id, config.eos_token_id = vocabulary.bos_token_id, vocabulary.eos_token_id
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        if shape.startswith("mpt"):
            config.architectures = ["MPTForCausalLM"]  # as published models say and llama.cpp expects
        with output_directory(path) as partial:
            model.save_pretrained(partial)
            config.save_pretrained(partial)
            vocabulary.save_pretrained(partial)
    return path


def packed(work: Path, shape: str, tokenizer: Path, sparsity: float) -> Path:
    """Pruned by magnitude, rounded to int8 and packed, with the commands that a user has."""
    percent = round(100 * sparsity)
    path = work / f"{shape}-int8-{percent}"
    if not path.exists():
        dense = checkpoint(work, shape, tokenizer)
        pruned = dense if not sparsity else work / f"{shape}-pruned-{percent}"
        rounded = work / f"{shape}-rounded-{percent}"
        if sparsity and not pruned.exists():
            _cutwork("prune", dense, pruned, "--method", "magnitude", "--sparsity", sparsity)
        if not rounded.exists():
            _cutwork("quantize", pruned, rounded, "--method", "rtn")
        _cutwork("pack", rounded, path, "--head", "i8", "--dtype", "bf16")
    return path


def gguf(work: Path, shape: str, tokenizer: Path, kind: str, llama: Path, source: Path) -> Path:
    """Dense, all matrices in one of llama.cpp's types ("Q8_0", "Q4_0").

    llama: its build, with bin/llama-quantize. source: its source tree, with convert_hf_to_gguf.py.
    """
    path = work / f"{shape}-{kind}.gguf"
    if not path.exists():
        whole = work / f"{shape}-BF16.gguf"
        if not whole.exists():
            convert = [sys.executable, source / "convert_hf_to_gguf.py", checkpoint(work, shape, tokenizer)]
            _run(*convert, "--outtype", "bf16", "--outfile", whole)
        _run(llama / "bin" / "llama-quantize", "--pure", whole, path, kind)
    return path


def _cutwork(*arguments: object) -> None:
    _run(Path(sys.executable).with_name("cutwork"), *arguments)


def _run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True)
