"""llama.cpp's importance matrix of a checkpoint: the mean square of each input of a linear, by GGUF's names.

What its llama-imatrix finds, by the calibration that our own files have, instead of a text file.
"""

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
from rich.console import Console
from torch import nn

from cutwork.prune.calibrate import calibration_batches, survey
from cutwork.prune.input_statistics import MeanSquares
from cutwork.torch_models.load import load_for_surgery
from cutwork.torch_models.model_inputs import Example


def write_importance(checkpoint: Path, data: Sequence[Example], file: Path, console: Console) -> None:
    """An npz of float32 [inputs] for every linear of the blocks."""
    model, _ = load_for_surgery(checkpoint)
    architecture = gguf.MODEL_ARCH[model.config.model_type.upper()]
    names = gguf.get_tensor_name_map(architecture, model.config.num_hidden_layers)
    found: dict[str, np.ndarray] = {}

    def visit(group: dict[str, nn.Module], inputs: MeanSquares) -> None:
        found.update(dict.fromkeys((f"{names.get_name(name)}.weight" for name in group), inputs.squares.numpy()))

    survey(model, calibration_batches(data), visit, console, "importance matrix")
    np.savez(file, **found)  # type: ignore[arg-type]
