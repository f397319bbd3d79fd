"""Chains of square layers in Cutwork's kernels."""

import numpy as np
from layers import scale, serve, specification, weights

from cutwork import __version__, _native
from cutwork.pack.encodings import encode


def main() -> None:
    spec = specification()
    chain = []
    for values in weights(spec):
        steps = np.full(spec["size"], scale(spec), np.float32) if spec["dtype"] == "int8" else None
        w = encode(values, steps)
        if w.mask is None:
            chain.append(_native.Weight.dense(values, steps))
        else:
            chain.append(_native.Weight.bitmask(*w.shape, w.values, w.mask, w.offsets, steps))

    def run(x: np.ndarray) -> np.ndarray:
        for weight in chain:
            x = weight.matmul(x, spec["threads"])
        return x

    serve(__version__, spec, run)


if __name__ == "__main__":
    main()
