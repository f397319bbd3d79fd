"""Chains of square float32 layers in torch."""

import numpy as np
import torch
from layers import serve, specification, weights


def main() -> None:
    spec = specification()
    torch.set_num_threads(spec["threads"])
    torch.set_grad_enabled(False)
    chain = [torch.from_numpy(values) for values in weights(spec)]

    def run(x: np.ndarray) -> np.ndarray:
        y = torch.from_numpy(x)
        for weight in chain:
            y = torch.nn.functional.linear(y, weight)
        return y.numpy()

    serve(torch.__version__, spec, run)


if __name__ == "__main__":
    main()
