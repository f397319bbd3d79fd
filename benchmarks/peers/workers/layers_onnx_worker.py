"""Chains of square layers as one ONNX graph, in DeepSparse or in ONNX Runtime.

int8 is QuantizeLinear (static scale, uint8 with zero point 128) and MatMulInteger, which both engines run as such:
DeepSparse crashes on DynamicQuantizeLinear, and runs QDQ graphs at the speed of float32.
"""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from layers import ACTIVATION_SCALE, scale, serve, specification, weights
from onnx import TensorProto, helper, numpy_helper


def main() -> None:
    spec = specification()
    folder = Path(spec["directory"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{spec['engine']}-{spec['dtype']}-{spec['sparsity']}-{spec['tokens']}.onnx"
    onnx.save(graph(spec), str(path))
    run = {"DeepSparse": deepsparse, "onnxruntime": onnxruntime}[spec["engine"]](path, spec)
    path.unlink()
    serve(version(spec["engine"].lower()), spec, run)


def deepsparse(path: Path, spec: dict[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    from deepsparse import Engine

    engine = Engine(model=str(path), batch_size=spec["tokens"], num_cores=spec["threads"])
    return lambda x: engine.run([x])[0]


def onnxruntime(path: Path, spec: dict[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = spec["threads"]
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]


def graph(spec: dict[str, Any]) -> onnx.ModelProto:
    """x [tokens, size] -> y."""
    nodes, constants = [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    current = "x"
    quantised = spec["dtype"] == "int8"
    if quantised:
        step = constant("step", np.float32(ACTIVATION_SCALE))
        zero = constant("zero", np.uint8(128))
        none = constant("none", np.int8(0))  # DeepSparse crashes without it
        back = constant("back", np.float32(ACTIVATION_SCALE * scale(spec)))
    for i, w in enumerate(weights(spec)):
        weight = constant(f"w{i}", np.ascontiguousarray(w.T))
        result = "y" if i == spec["layers"] - 1 else f"x{i}"
        if quantised:
            nodes.append(helper.make_node("QuantizeLinear", [current, step, zero], [f"q{i}"]))
            nodes.append(helper.make_node("MatMulInteger", [f"q{i}", weight, zero, none], [f"s{i}"]))
            nodes.append(helper.make_node("Cast", [f"s{i}"], [f"f{i}"], to=TensorProto.FLOAT))
            nodes.append(helper.make_node("Mul", [f"f{i}", back], [result]))
        else:
            nodes.append(helper.make_node("MatMul", [current, weight], [result]))
        current = result
    size = [spec["tokens"], spec["size"]]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name in ("x", "y")]
    body = helper.make_graph(nodes, "chain", ends[:1], ends[1:], constants)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


if __name__ == "__main__":
    main()
