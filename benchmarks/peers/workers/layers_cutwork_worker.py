"""Chains of square layers in Cutwork's executor, as a model's are."""

import numpy as np
from layers import scale, serve, specification, weights

from cutwork import __version__, _native
from cutwork.engine.weights.bind import make_weight
from cutwork.engine.weights.huge_pages import in_huge_pages
from cutwork.pack.masked import encode


def main() -> None:
    spec = specification()
    size, tokens = spec["size"], spec["tokens"]
    steps = np.full(size, scale(spec), np.float32) if spec["dtype"] == "int8" else None
    stored = {str(i): encode(values, steps) for i, values in enumerate(weights(spec))}
    chain = []
    for name, w in in_huge_pages(stored).items():  # as a model's
        chain.append(make_weight(name, w.shape, w, _native.Weight))
        if spec["engine"] == "cutwork ahead":
            chain[-1].reorder()
        if spec["kept"]:
            chain[-1] = chain[-1].in_slots()

    plain = {"biases": [-1], "residual": -1, "activation": "none"}
    last = len(chain) - 1
    linears = [
        {"kind": "linear", "x": i % 2, "outs": [1 - i % 2], "weights": [i], **plain} for i in range(last)
    ]  # from buffer 0 to 1 and back
    ops = [
        {"kind": "input", "out": 0},
        *linears,
        {"kind": "gather_rows", "x": last % 2, "out": 2},
        {"kind": "logits", "x": 2, "weight": last, "bias": -1, "cap": 0.0},
    ]
    buffers = [(0, size, "T"), (size, size, "T"), (2 * size, size, "R")]
    executor = _native.Executor(
        ops, buffers, chain, [], threads=spec["threads"], max_tokens=tokens, max_logits=tokens, cache=None
    )
    rows = np.arange(tokens, dtype=np.int32)
    zeros, table = np.zeros(tokens, np.int32), np.full((1, 1), -1, np.int32)

    def run(x: np.ndarray) -> np.ndarray:
        return executor.step(zeros, rows, zeros, table, rows, features=x)

    serve(__version__, spec, run)


if __name__ == "__main__":
    main()
