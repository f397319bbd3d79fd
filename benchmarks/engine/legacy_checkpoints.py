"""Checkpoints written by the compressed-tensors releases that could: does cutwork see in them what was put in?

    python -m benchmarks.engine.legacy_checkpoints --tokenizer DIR      # installs two old releases for itself

A tiny sparse Llama goes through compressed-tensors 0.14.0.1 (`sparse-bitmask`, and `sparse-24-bitmask` where the model
is 2:4) and 0.8.1 (the naming before 0.9), alone and after int8 quantisation, in a process of its own. Then the engine's
logits must be those of the checkpoint it was made from, bit for bit, and so must every tensor that training loads.
Leaves legacy_checkpoints.json in build/: it is the same everywhere.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.common.results import BUILD, save
from cutwork import Model
from cutwork.quantize.quantize import quantize
from cutwork.recipe import QuantizeSettings
from cutwork.torch_models.load import load_model

RELEASES = {"0.14.0.1": ["sparse-bitmask", "sparse-24-bitmask"], "0.8.1": ["sparse-bitmask"]}

# Runs with an old compressed-tensors first on its path: source, destination, format.
WRITER = """
import json, shutil, sys, types
source, destination, layout = sys.argv[1:]
import transformers
transformers.file_utils = types.ModuleType("transformers.file_utils")  # gone since; 0.8.1 wants one name of it
transformers.file_utils.CONFIG_NAME = "config.json"
sys.modules["transformers.file_utils"] = transformers.file_utils
from compressed_tensors.compressors import BaseCompressor, ModelCompressor
from compressed_tensors.config import SparsityCompressionConfig
from safetensors.torch import load_file, save_file
import compressed_tensors, inspect
shutil.copytree(source, destination)
state = load_file(f"{source}/model.safetensors")
settings = {"format": layout, "global_sparsity": 0.6,
            "sparsity_structure": "2:4" if "24" in layout else "unstructured"}
fields = SparsityCompressionConfig.model_fields
if "targets" in fields:
    settings |= {"targets": ["Linear"], "ignore": ["lm_head"]}
config = SparsityCompressionConfig.load_from_registry(layout, **settings)
compressor = BaseCompressor.load_from_registry(layout, config=config)
options = {}
if "compression_targets" in inspect.signature(compressor.compress).parameters:
    options = {"compression_targets": {n.removesuffix(".weight") for n in state if n.endswith("proj.weight")}}
save_file({n: t.contiguous() for n, t in compressor.compress(state, **options).items()},
          f"{destination}/model.safetensors", metadata={"format": "pt"})
path = f"{destination}/config.json"
before = json.load(open(path)).get("quantization_config", {})
ModelCompressor(sparsity_config=config, quantization_config=None).update_config(destination)
after = json.load(open(path))
after["quantization_config"] = {**before, **after["quantization_config"]}
json.dump(after, open(path, "w"), indent=1)
print(compressed_tensors.__file__)
"""


def model(directory: Path, tokenizer: Path) -> Path:
    """A tiny Llama in bfloat16 of which two of every four weights are zero, and some more."""
    config = LlamaConfig(
        vocab_size=300, hidden_size=96, intermediate_size=200, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    llama = LlamaForCausalLM(config).bfloat16()
    with torch.no_grad():
        for name, weight in llama.named_parameters():
            if name.endswith("proj.weight"):
                fours = weight.unflatten(1, (-1, 4))
                fours.scatter_(-1, fours.abs().argsort(-1)[..., :2], 0)
                weight.mul_(torch.rand_like(weight) > 0.2)
    llama.save_pretrained(directory)
    tokens: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(tokenizer)
    tokens.save_pretrained(directory)
    return directory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="any model directory with a tokenizer")
    parser.add_argument("--output", type=Path, default=BUILD / "legacy_checkpoints.json")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        plain = model(root / "plain", options.tokenizer)
        quantize(plain, root / "int8", QuantizeSettings(method="rtn"))
        for release, layouts in RELEASES.items():
            install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(root / release)]
            subprocess.run([*install, f"compressed-tensors=={release}"], check=True)
            for layout in layouts:
                for source in (plain, root / "int8"):
                    made = root / f"{source.name}-{layout}-{release}"
                    command = [sys.executable, "-c", WRITER, str(source), str(made), layout]
                    environment = {"PYTHONPATH": str(root / release), "PATH": ""}
                    written = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
                    assert str(root / release) in written.stdout, written.stdout
                    check(source, made)
                    print(f"{made.name}: the same logits and weights as {source.name}")
                    rows.append({"release": release, "format": layout, "source": source.name, "same": True})
    save(options.output, {"rows": rows})


def check(source: Path, made: Path) -> None:
    """Raise AssertionError unless both directories hold the same model."""
    tokens = list(range(1, 200, 3))
    with Model.load(source) as dense, Model.load(made) as legacy:
        np.testing.assert_array_equal(legacy.logits(tokens), dense.logits(tokens))
    if source.name == "plain":
        ours, theirs = load_model(made, "auto").state_dict(), load_model(source, "auto").state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


if __name__ == "__main__":
    main()
