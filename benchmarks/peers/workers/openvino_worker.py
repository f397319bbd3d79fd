"""A stateful model in the OpenVINO runtime behind the protocol of this folder: what OpenVINO GenAI's pipeline runs.

Like that pipeline, the output head is applied to the last token only.
"""

import time
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from protocol import serve


class Engine:
    """One compiled model with its default precision hints."""

    def __init__(self, spec: dict[str, Any]) -> None:
        core = ov.Core()
        model = core.read_model(f"{spec['model']}/openvino_model.xml")
        _head_of_last_token_only(model)
        settings = {"INFERENCE_NUM_THREADS": spec["threads"], "PERFORMANCE_HINT": "LATENCY"}
        self._compiled = core.compile_model(model, "CPU", settings)
        self._inputs = {name for port in self._compiled.inputs for name in port.names}
        self._request = self._compiled.create_infer_request()

    def about(self) -> dict[str, Any]:
        keys = ("INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION", "DYNAMIC_QUANTIZATION_GROUP_SIZE")
        return {"version": ov.get_version()} | {key.lower(): str(self._compiled.get_property(key)) for key in keys}

    def logits(self, tokens: list[int]) -> np.ndarray:
        self._request.reset_state()
        return self._infer(np.asarray([tokens], np.int64), 0)[0].copy()

    def generate(self, prompts: list[list[int]], count: int) -> tuple[list[list[int]], float, float]:
        self._request.reset_state()
        start = time.perf_counter()
        tokens = self._infer(np.asarray(prompts, np.int64), 0).argmax(-1)
        between = time.perf_counter()
        results = [tokens]
        for position in range(len(prompts[0]), len(prompts[0]) + count):
            results.append(self._infer(results[-1][:, None], position).argmax(-1))
        return np.stack(results, 1).tolist(), between - start, time.perf_counter() - between

    def _infer(self, ids: np.ndarray, position: int) -> np.ndarray:
        batch, tokens = ids.shape
        inputs = {
            "input_ids": ids,
            "attention_mask": np.ones((batch, position + tokens), np.int64),
            "position_ids": np.tile(np.arange(position, position + tokens), (batch, 1)),
            "beam_idx": np.arange(batch, dtype=np.int32),
        }
        given = {name: value for name, value in inputs.items() if name in self._inputs}
        self._request.infer(given, share_inputs=True)
        return self._request.get_tensor("logits").data[:, -1]


def _head_of_last_token_only(model: ov.Model) -> None:
    node = model.output("logits").get_node()
    while node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node()
    one, last, end = (np.asarray([value], np.int64) for value in (1, -1, 2**31))
    hidden = ops.slice(node.input_value(0), last, end, one, one)
    node.input(0).replace_source_output(hidden.output(0))
    model.validate_nodes_and_infer_types()


if __name__ == "__main__":
    serve(Engine)
