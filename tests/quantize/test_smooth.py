"""Smoothing changes no output, moves outliers out of activations, and refuses what it cannot do."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from cutwork.errors import CutworkError
from cutwork.quantize.quantize import quantize
from cutwork.quantize.smooth import smooth
from cutwork.recipe import QuantizeSettings
from cutwork.torch_models.data import collate
from cutwork.torch_models.model_inputs import inputs_of
from tests.quantize.test_quantize import QUIET
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import FAMILIES, cut, gpt2, llama, opt, random_examples, sums


@pytest.mark.parametrize("make", [llama, opt, gpt2])
def test_outputs_and_zeros_stay(make: Callable[[], nn.Module]) -> None:
    model, batch = cut(make()).eval(), collate(random_examples(8))
    norm = next(m for name, m in model.named_modules() if ".0." in name and ("norm" in name or "ln_" in name))
    with torch.no_grad():
        norm.weight[3] = 40.0  # an outlier
    zeros = {name: p == 0 for name, p in model.named_parameters() if p.ndim == 2}
    before = model(input_ids=batch["input_ids"]).logits
    found = smooth(model, [batch], 0.5)
    after = model(input_ids=batch["input_ids"]).logits
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)
    assert len(found) == 2 * model.config.num_hidden_layers
    assert all(torch.equal(p == 0, zeros[name]) for name, p in model.named_parameters() if name in zeros)
    assert norm.weight.abs().max() < 20


@pytest.mark.parametrize("family", ["t5", "whisper"])
def test_every_block_that_reads_the_encoder_is_smoothed(family: str) -> None:
    """The encoder's last norm feeds the cross attention of all decoder blocks, long after it was computed."""
    model, batch = FAMILIES[family]().eval(), collate(random_examples(8, family=family))
    inputs = inputs_of(model.config)
    before = model(**inputs.keywords(batch)).logits
    smooth(model, [batch], 0.5)
    torch.testing.assert_close(model(**inputs.keywords(batch)).logits, before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "t5", "whisper"])
def test_padding_is_not_smoothed_for(family: str) -> None:
    examples = random_examples(8, family=family)
    padded, alone = (FAMILIES[family]().eval() for _ in range(2))
    smooth(padded, [collate(examples)], 0.5)
    smooth(alone, [collate([example]) for example in examples], 0.5)
    for name, weight in alone.state_dict().items():
        torch.testing.assert_close(padded.state_dict()[name], weight, rtol=1e-3, atol=1e-4, msg=name)


def test_a_norm_that_feeds_more_than_linears_is_noticed() -> None:
    model = llama().eval()
    layer = model.model.layers[0]
    forward = layer.mlp.forward
    layer.mlp.forward = lambda x: forward(x) + x  # reads the norm past the linears
    with pytest.raises(CutworkError, match="smoothing changed what LlamaForCausalLM computes"):
        smooth(model, [collate(random_examples(8))], 0.5)


def test_smoothing_and_pruning_while_quantising(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "dense")
    settings = QuantizeSettings(calibration_samples=8, smoothing=0.5, sparsity=0.6)
    report = quantize(source, tmp_path / "out", settings, sums(12), console=QUIET)
    assert 0.6 <= report["sparsity"] < 0.62
    assert report["smoothed"]["model.layers.0.post_attention_layernorm"] == [
        "model.layers.0.mlp.gate_proj",
        "model.layers.0.mlp.up_proj",
    ]
    with pytest.raises(ValueError, match="only method gptq prunes"):
        QuantizeSettings(method="rtn", sparsity=0.5)
