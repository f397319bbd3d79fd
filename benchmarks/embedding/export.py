"""MODEL WORK: an encoder in float32 for ONNX and OpenVINO, and in int8 as each of them recommends for encoders.

ONNX Runtime: dynamic, a scale per output channel, activations per tensor. OpenVINO: NNCF's static quantisation for
transformers, calibrated with random tokens (speed does not depend on which). Runs in the peers' environment.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel


class Hidden(torch.nn.Module):
    """Last hidden states [B, T, width] of ids and mask [B, T]."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def main() -> None:
    model_dir, work = Path(sys.argv[1]), Path(sys.argv[2])
    model = Hidden(AutoModel.from_pretrained(model_dir, attn_implementation="eager").float().eval())
    ids = torch.randint(1000, 2000, (2, 16))
    example = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    plain = work / "model.onnx"
    torch.onnx.export(
        model,
        (example["input_ids"], example["attention_mask"]),
        str(plain),
        input_names=list(example),
        output_names=["hidden"],
        dynamic_axes={name: {0: "batch", 1: "tokens"} for name in (*example, "hidden")},
        dynamo=False,
    )
    to_onnx_runtime(plain, work / "model-int8.onnx")
    to_openvino(model, example, work / "openvino-int8" / "model.xml")


def to_onnx_runtime(plain: Path, output: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(str(plain), str(output), weight_type=QuantType.QInt8, per_channel=True)


def to_openvino(model: torch.nn.Module, example: dict[str, torch.Tensor], output: Path) -> None:
    import nncf
    import openvino

    converted = openvino.convert_model(model, example_input=example)
    draw = np.random.default_rng(0)
    batches = [draw.integers(1000, 30000, (1, int(length))) for length in draw.integers(8, 128, 64)]
    data = nncf.Dataset([{"input_ids": ids, "attention_mask": np.ones_like(ids)} for ids in batches])
    quantized = nncf.quantize(converted, data, model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(quantized, output, compress_to_fp16=False)


if __name__ == "__main__":
    main()
