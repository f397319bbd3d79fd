import io
from pathlib import Path

import gguf
import numpy as np
import torch
from rich.console import Console

from benchmarks.peers.importance import write_importance
from benchmarks.peers.model_files import convert
from tests.torch_models.tiny import llama


def test_the_importance_of_inputs_goes_by_the_names_of_the_gguf(tmp_path: Path) -> None:
    model = llama(tie_word_embeddings=False).eval()
    model.save_pretrained(tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "model.gguf")
    data = [{"input_ids": ids, "labels": ids} for ids in ([3, 5, 7, 9, 11], [2, 4, 8])]
    write_importance(tmp_path / "model", data, tmp_path / "importance.npz", Console(file=io.StringIO()))
    found = np.load(tmp_path / "importance.npz")
    shapes = {tensor.name: tuple(tensor.shape) for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    linears = {name for name, shape in shapes.items() if name.startswith("blk.") and len(shape) == 2}
    assert set(found) == linears
    assert all(found[name].shape == shapes[name][:1] for name in linears)

    seen: list[torch.Tensor] = []
    model.model.layers[1].mlp.down_proj.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0][0]))
    with torch.no_grad():
        for example in data:
            model(torch.tensor([example["input_ids"]]))
    squares = torch.cat(seen).square().mean(0)
    np.testing.assert_allclose(found["blk.1.ffn_down.weight"], squares, rtol=0.05)  # in bfloat16 where that is fast
