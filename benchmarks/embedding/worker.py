"""An engine in a process of its own, behind one JSON object per line each way: vectors of these token ids.

Started with {"engine", "model", "threads"}; then each line {"batches": lists of lists of ids} gets {"seconds": s,
"vectors": of the last batch, "huge": the part of its memory in huge pages}. Batches are padded by who needs it, and
given in the order of their lengths, so that little is padding.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


class Cutwork:
    """A packed model."""

    def __init__(self, model: str, threads: int) -> None:
        import cutwork

        self._model = cutwork.Model.load(model, threads=threads, reorder_weights=None)  # as `cutwork embed` does
        self.version = f"cutwork {cutwork.__version__}"

    def vectors(self, batch: list[list[int]]) -> np.ndarray:
        return self._model.embed(batch)


class OnnxRuntime:
    """A quantised .onnx."""

    def __init__(self, model: str, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.version = f"onnxruntime {onnxruntime.__version__}"

    def vectors(self, batch: list[list[int]]) -> np.ndarray:
        ids, mask = padded(batch)
        return mean(self._session.run(None, {"input_ids": ids, "attention_mask": mask})[0], mask)


class OpenVino:
    """A quantised .xml."""

    def __init__(self, model: str, threads: int) -> None:
        import openvino

        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        self._request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
        self.version = f"openvino {openvino.__version__}"

    def vectors(self, batch: list[list[int]]) -> np.ndarray:
        ids, mask = padded(batch)
        return mean(self._request.infer({"input_ids": ids, "attention_mask": mask})[0], mask)


def padded(batch: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask int64 [B, T]."""
    lengths = np.array([len(ids) for ids in batch])
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    ids = np.zeros_like(mask)
    ids[mask.astype(bool)] = np.concatenate(batch)
    return ids, mask


def mean(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mean over real tokens, of length 1."""
    pooled = (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    return np.asarray(pooled / np.linalg.norm(pooled, axis=1, keepdims=True))


def huge_share() -> float:
    """The part of this process's private memory in transparent huge pages."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split()[0].rstrip(":"): int(line.split()[1]) for line in lines}
    return round(sizes.get("AnonHugePages", 0) / max(1, sizes.get("Anonymous", 0)), 3)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to standard error

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    spec = json.loads(sys.argv[1])
    kinds = {"cutwork": Cutwork, "onnxruntime": OnnxRuntime, "openvino": OpenVino}
    engine = kinds[spec["engine"]](spec["model"], spec["threads"])
    answer({"version": engine.version})
    for line in sys.stdin:
        batches = json.loads(line)["batches"]
        start = time.perf_counter()
        for batch in batches:
            found = engine.vectors(batch)
        answer({"seconds": time.perf_counter() - start, "vectors": found.tolist(), "huge": huge_share()})


if __name__ == "__main__":
    main()
