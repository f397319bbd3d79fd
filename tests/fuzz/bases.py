"""Whole models to damage: checkpoints of every family, and quantised, older and packed ones of every encoding."""

import json
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np

from cutwork.pack import slots
from cutwork.pack.pack import PackWriter, pack
from cutwork.pack.reader import read_packed
from cutwork.pack.record import EncodedWeight, Encoding
from cutwork.store.safetensors import SafetensorsWriter, Tensor, open_tensors
from tests.pack.models import DTYPES, PATTERNS, llama_checkpoint


def make_bases(path: Path) -> Path:
    """Write them into directories of `path`, which appears when all are there. Imports torch."""
    from tests.architectures import test_t5
    from tests.engine import tiny
    from tests.engine.speech import tiny as speech
    from tests.store.gguf_file import write_gguf

    from .attempt import run

    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tokenizer = tiny.byte_level_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
    for variant in tiny.VARIANTS:
        tiny.make(variant, vocab_size=300).save_pretrained(partial / variant)
        tokenizer.save_pretrained(partial / variant)
        (partial / variant / "generation_config.json").write_text(json.dumps({"eos_token_id": [2]}))
    test_t5.save(test_t5.make("v1.1"), partial / "t5")
    speech.save(partial / "whisper", 4)
    for dtype in DTYPES:
        for pattern in PATTERNS:
            name = f"{dtype}-{pattern}"
            tokenizer.save_pretrained(llama_checkpoint(partial / name, dtype, pattern))
            pack(partial / name, partial / f"packed-{name}")
            if pattern == "dense":
                pack(partial / name, partial / f"packed-{name}-head", "bf16", head="i8" if dtype == "F32" else "i4")
    for dtype in ("I8", "I4"):
        for keep in (8, 12):
            _with_empty_slots(partial / f"packed-{dtype}-4:16", partial / f"packed-{dtype}-{keep}:16", keep)
    for name in ("gpt2", "t5", "whisper"):
        pack(partial / name, partial / f"packed-{name}")
    for variant, arch, kind in (("llama", "llama", "F32"), ("qwen3", "qwen3", "BF16"), ("gemma3", "gemma3", "F16")):
        (partial / f"gguf-{arch}").mkdir()
        layers = {"num_hidden_layers": 6, "layer_types": None} if arch == "gemma3" else {}
        write_gguf(
            tiny.make(variant, vocab_size=300, **layers), tokenizer, partial / f"gguf-{arch}" / "m.gguf", arch, kind
        )
    _as_bitmasks(partial / "F32-unstructured", partial / "bitmasks")
    seen = {weight.encoding for packed in partial.glob("packed-*") for weight in read_packed(packed).weights.values()}
    missing = set(get_args(Encoding)) - seen
    if missing:
        sys.exit(f"no base holds the encodings {', '.join(sorted(missing))}; add a pattern to tests/pack/models.py")
    for base in partial.iterdir():  # else what is damaged would be refused for another reason
        run(next(base.glob("*.gguf"), base), random.Random(0))
    partial.rename(path)
    return path


def _with_empty_slots(packed: Path, path: Path, keep: int) -> None:
    """A packed model whose weights in slots have room for `keep` of 16 columns, which is read but never written."""
    model = read_packed(packed)
    shutil.copytree(packed, path, ignore=shutil.ignore_patterns("*.safetensors", "cutwork.json"))
    with PackWriter(path, model.config, len(model.weights), source=model.source) as writer:
        for name, weight in model.weights.items():
            writer.add(name, _roomier(weight, keep) if weight.encoding == "slots" else weight)
        for name in model.source.extras:
            extra = open_tensors(packed)[name]
            writer.add_tensor(name, extra.dtype, extra.array)


def _roomier(weight: EncodedWeight, keep: int) -> EncodedWeight:
    steps = np.full_like(slots.steps_of_weight(weight), keep // slots.TAKE)
    split = slots.split(slots.decode_slots(weight), steps)
    values = slots.bytes_of(*split) if weight.dtype == "i4" else slots.records_of(*split, steps.sum(axis=1, dtype=int))
    return replace(weight, values=values, keep=keep)


def _as_bitmasks(source: Path, path: Path) -> None:
    """A checkpoint as compressed-tensors wrote it up to 0.14."""
    shutil.copytree(source, path)
    tensors = {}
    for name, tensor in open_tensors(source).items():
        if not name.endswith("proj.weight"):
            tensors[name] = Tensor(tensor.dtype, np.array(tensor.array))
            continue
        base, present = name.removesuffix(".weight"), tensor.array != 0
        tensors |= {
            f"{base}.compressed": Tensor(tensor.dtype, tensor.array[present]),
            f"{base}.bitmask": Tensor("U8", np.packbits(present, axis=-1, bitorder="little")),
            f"{base}.shape": Tensor("I64", np.array(tensor.array.shape)),
        }
    with SafetensorsWriter(path, len(tensors), alignment=1) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor.dtype, tensor.array)
    config = json.loads((path / "config.json").read_text())
    sparsity = {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-bitmask"}}
    (path / "config.json").write_text(json.dumps({**config, "quantization_config": sparsity}))


if __name__ == "__main__":
    make_bases(Path(sys.argv[1]))
