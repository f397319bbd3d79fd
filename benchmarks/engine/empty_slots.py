"""How many slots real masks leave empty, beside masks of as many zeros at random.

    python -m benchmarks.engine.empty_slots out/pruned-75 ...      # pruned checkpoints; a minute each

Every linear's mask is laid out in slots as the loader would, in int8 and in int4. Leaves empty_slots.json in results/.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from safetensors import safe_open

from benchmarks.common.results import RESULTS, save
from cutwork._native import Weight
from cutwork.pack.int4 import GROUP, encode_int4
from cutwork.pack.masked import encode

DTYPES = ("int8", "int4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", help="pruned checkpoints, as safetensors")
    parser.add_argument("--names", nargs="+", help="what they are called in the table")
    parser.add_argument("--output", type=Path, default=RESULTS / "empty_slots.json")
    options = parser.parse_args()
    console, rows = Console(stderr=True), []
    for model, name in zip(options.models, options.names or map(str, options.models), strict=True):
        for dtype in DTYPES:
            rows.append({"model": name, "dtype": dtype, **counted(model, dtype)})
            console.print(rows[-1], highlight=False)
    result = save(options.output, {"rows": rows})
    print(table(result))


def counted(model: Path, dtype: str) -> dict[str, Any]:
    """Of all linears of a checkpoint: zeros, forms, and the share of slots that is empty, with random masks too."""
    rng, weights, zeros = np.random.default_rng(0), 0, 0
    stored, nonzeros, forms = Counter[str](), Counter[str](), Counter[str]()
    for mask in masks(model):
        at_random = rng.permutation(mask.ravel()).reshape(mask.shape)
        weights, zeros = weights + mask.size, zeros + int((~mask).sum())
        for kind, each in (("real", mask), ("random", at_random)):
            weight = in_slots(each, dtype)
            stored[kind] += weight.stored
            nonzeros[kind] += weight.nonzeros
            forms[weight.form] += kind == "real"
    empty = {kind: 1 - nonzeros[kind] / stored[kind] for kind in stored}
    return {"zeros": zeros / weights, "forms": dict(forms), "empty": empty}


def masks(model: Path) -> Iterator[np.ndarray]:
    """Where the linears of a checkpoint's blocks are not zero, [rows, cols] each."""
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118, it is no dictionary
                if "layers." in name and name.endswith("_proj.weight"):
                    yield (tensors.get_tensor(name) != 0).numpy()


def in_slots(mask: np.ndarray, dtype: str) -> Weight:
    """A weight whose nonzeros are where a mask is."""
    codes = mask.astype(np.int8)
    if dtype == "int4":
        scales = np.ones((len(codes), -(-codes.shape[1] // GROUP)), np.float32)
        e = encode_int4(codes, scales, GROUP)
        whole = Weight.int4(*e.shape, e.values, e.scale, e.group, e.mask, e.offsets)
    else:
        e = encode(codes, np.ones(len(codes), np.float32))
        whole = Weight.masked("bitmask", *e.shape, e.values, e.mask, e.offsets, e.scale)
    laid_out = whole.in_slots()
    if laid_out is None:
        raise SystemExit("a linear is too dense for slots; give a model with half zeros or more")
    return laid_out


def table(result: dict[str, Any]) -> str:
    """Empty slots by model and dtype."""
    lines = [
        "| masks | in | zeros | linears in strips, in wide ones | empty | random ones' |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for row in result["rows"]:
        forms = f"{row['forms'].get('strips', 0)}, {row['forms'].get('wide', 0)}"
        real, other = row["empty"]["real"], row["empty"]["random"]
        lines.append(f"| {row['model']} | {row['dtype']} | {row['zeros']:.0%} | {forms} | {real:.0%} | {other:.0%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
