"""The models whose speed is compared: dense and sparse, as they are and in int8, packed."""

import json
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.common.shapes import T5_BASE, T5_SMALL
from cutwork.pack.pack import pack
from cutwork.quantize.quantize import quantize
from cutwork.recipe import QuantizeSettings
from cutwork.store.output import output_directory

SPARSITY = 0.75
# sentences: how many are translated in one round. length: tokens of an answer, exactly so many but for the trained one.
SHAPES: dict[str, dict[str, Any]] = {
    "trained": {"sentences": 64, "length": 64},
    "t5-small": {"sentences": 32, "length": 32, "config": T5_SMALL},
    "t5-base": {"sentences": 32, "length": 32, "config": T5_BASE},
}
VARIANTS = ("dense f32", "sparse f32", "dense int8", "sparse int8", "dense int8 all", "sparse int8 all")
AHEAD = "sparse int8 all, planned ahead"  # packed as `sparse int8 all`
APART = ("dense int8 all, a process a core", "sparse int8 all, a process a core")  # loaded as `cutwork translate` does


def prepare(shape: str, work: Path, dense: Path | None, sparse: Path | None, console: Console) -> None:
    """Make what is missing of a shape's models in `work`."""
    if shape == "trained":
        if not (dense and sparse):
            raise SystemExit("--dense and --sparse say where the trained models are")
        for name, source in (("dense-f32", dense), ("sparse-f32", sparse)):
            if not (work / name).exists():
                work.mkdir(parents=True, exist_ok=True)
                shutil.copytree(source, work / name)
    else:
        random_models(work, SHAPES[shape]["config"])
    for variant in VARIANTS:
        kind, *how = variant.split()
        target, source = work / f"packed-{variant}", work / f"{kind}-f32"
        if target.exists():
            continue
        console.print(f"{shape}: packing {variant}")
        if how[0] == "int8":
            overrides = {"*.wo": "w8a8"} if how[-1] == "all" else {}
            quantize(source, work / "int8", QuantizeSettings(method="rtn", overrides=overrides), overwrite=True)
            source = work / "int8"
        pack(source, target, "bf16" if how[0] == "int8" else "f32", head="i8" if how[-1] == "all" else "auto")
    shutil.rmtree(work / "int8", ignore_errors=True)


def random_models(work: Path, settings: dict[str, Any]) -> None:
    """A T5 v1.0 with random weights, and the same with zeros, each with a tokenizer of made-up words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import T5Config, T5ForConditionalGeneration

    from cutwork.torch_models.blocks import block_linears

    torch.manual_seed(0)
    config = T5Config(**settings, decoder_start_token_id=0)
    model: Any = None
    for name in ("dense-f32", "sparse-f32"):
        if (work / name).exists():
            continue
        model = model or T5ForConditionalGeneration(config)
        if name == "sparse-f32":
            with torch.no_grad():
                for linear in block_linears(model).values():
                    kept = torch.rand_like(linear.weight) >= SPARSITY
                    linear.weight *= kept * (1 - SPARSITY) ** -0.5  # so that activations are as large as before
        with output_directory(work / name) as partial:
            model.save_pretrained(partial)
            words = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>"])}
            words |= {f"t{i}": i for i in range(3, config.vocab_size)}
            tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
            tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
            tokenizer.save(str(partial / "tokenizer.json"))
            about = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "</s>"}
            (partial / "tokenizer_config.json").write_text(json.dumps({**about, "unk_token": "<unk>"}))
