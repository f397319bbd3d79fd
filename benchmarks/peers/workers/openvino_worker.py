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
        settings["ENABLE_MMAP"] = spec.get("map", True)  # what is read into malloc's memory can be in huge pages
        self._batch = spec["batch"]
        self._compiled = core.compile_model(model, "CPU", settings)
        self._inputs = {name for port in self._compiled.inputs for name in port.names}
        self._request = self._compiled.create_infer_request()

    def about(self) -> dict[str, Any]:
        keys = ("INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION", "DYNAMIC_QUANTIZATION_GROUP_SIZE")
        return {"version": ov.get_version()} | {key.lower(): str(self._compiled.get_property(key)) for key in keys}

    def logits(self, tokens: list[int]) -> np.ndarray:
        self._request.reset_state()
        return self._infer(np.asarray([tokens], np.int64))[0].copy()

    def generate(self, prompts: list[list[int]], count: int) -> tuple[list[list[int]], float, float]:
        self._request.reset_state()
        start = time.perf_counter()
        tokens = self._infer(np.asarray(prompts, np.int64)).argmax(-1)
        between = time.perf_counter()
        results = [tokens]
        for position in range(len(prompts[0]), len(prompts[0]) + count):
            mask = np.ones((len(prompts), position + 1), np.int64)
            results.append(self._infer(results[-1][:, None], mask).argmax(-1))
        return np.stack(results, 1).tolist(), between - start, time.perf_counter() - between

    def answer(self, prompts: list[list[int]], most: int, end: int) -> list[list[int]]:
        """Continue prompts greedily up to an end, batches of similar length, padded on the left."""
        results: list[list[int]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda prompt: len(prompts[prompt]))
        for first in range(0, len(order), self._batch):
            running = np.array(order[first : first + self._batch])
            width = len(prompts[running[-1]])
            ids, mask = np.zeros((2, len(running), width), np.int64)
            for row, prompt in enumerate(running):
                tokens = prompts[prompt]
                ids[row, width - len(tokens) :], mask[row, width - len(tokens) :] = tokens, 1
            self._request.reset_state()
            rows = np.arange(len(running))
            while len(running):
                tokens = self._infer(ids, mask, rows).argmax(-1)
                for prompt, token in zip(running, tokens, strict=True):
                    results[prompt].append(int(token))
                rows = np.flatnonzero([results[p][-1] != end and len(results[p]) < most for p in running])
                running, ids = running[rows], tokens[rows, None]
                mask = np.pad(mask[rows], ((0, 0), (0, 1)), constant_values=1)
        return results

    def _infer(self, ids: np.ndarray, mask: np.ndarray | None = None, rows: np.ndarray | None = None) -> np.ndarray:
        """The logits after the last tokens. mask: of these tokens and all before, [B, past + T]; by default nothing is
        before. rows: of the sequences before that go on, by default all."""
        batch, tokens = ids.shape
        mask = np.ones_like(ids) if mask is None else mask
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": np.maximum(mask.cumsum(1) - 1, 0)[:, -tokens:],
            "beam_idx": np.asarray(np.arange(batch) if rows is None else rows, np.int32),
        }
        given = {name: np.ascontiguousarray(value) for name, value in inputs.items() if name in self._inputs}
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
