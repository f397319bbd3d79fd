"""CHECKPOINT TARGET TEXTS.json: a model for OpenVINO in int4, as its documentation recommends where there are data.

Symmetric, a scale for each 128 inputs, or 64 or 32 where a width is no multiple of more, by AWQ and scale estimation;
what NNCF keeps in int8 stays so (the head).
"""

import json
import sys
from pathlib import Path

from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

checkpoint, target, texts = sys.argv[1:]
config = json.loads((Path(checkpoint) / "config.json").read_text())
widths = (config["hidden_size"], config["intermediate_size"])
settings = OVWeightQuantizationConfig(
    bits=4,
    sym=True,
    group_size=next(size for size in (128, 64, 32) if not any(width % size for width in widths)),
    ratio=1.0,
    quant_method="awq",
    scale_estimation=True,
    dataset=json.loads(Path(texts).read_text()),
    tokenizer=checkpoint,
)
OVModelForCausalLM.from_pretrained(checkpoint, export=True, quantization_config=settings).save_pretrained(target)
