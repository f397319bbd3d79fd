"""How compressed-tensors describes quantised weights in a checkpoint's configuration: written, read, and refused.

The description is the `quantization_config` of transformers and vLLM. How codes lie in words: `packed_codes`; zeros
stored as bitmasks, which the same section may describe: `bitmask`. No torch here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cutwork.errors import CutworkError
from cutwork.store import bitmask

INT, PACKED, MIXED = "int-quantized", "pack-quantized", "mixed-precision"

_METHOD = "compressed-tensors"
_INSTEAD = "use the unquantised checkpoint and run: cutwork quantize"


@dataclass(frozen=True)
class Group:
    """Linears that are quantised alike: symmetric codes, with 8 bits `INT` and activations rounded token by token, with
    4 `PACKED` and activations as they are.

    targets: names of linears, or of a class of them. columns: of a row that share a scale; None: all. out_in: whether
    codes are [out, in] where the class keeps its floats the other way round, as GPT-2's `Conv1D`.
    """

    targets: Sequence[str]
    bits: Literal[4, 8]
    columns: int | None = None
    out_in: bool = False

    @property
    def format(self) -> str:
        """compressed-tensors' name of how such codes are stored."""
        return INT if self.bits == 8 else PACKED


def description(groups: Sequence[Group], ignore: Iterable[str] = ()) -> dict[str, Any]:
    """The `quantization_config` of a checkpoint with these groups; `ignore`: linears that a class's target leaves out.

    Never a `sparsity_config`, which vLLM refuses.
    """
    formats = {group.format for group in groups}
    return {
        "quant_method": _METHOD,
        "format": formats.pop() if len(formats) == 1 else MIXED,
        "quantization_status": "compressed",
        "config_groups": {f"group_{number}": _described(group) for number, group in enumerate(groups)},
        "ignore": list(ignore),
    }


def _described(group: Group) -> dict[str, Any]:
    common = {"num_bits": group.bits, "type": "int", "symmetric": True}
    scales = {"strategy": "group", "group_size": group.columns} if group.columns else {"strategy": "channel"}
    # A key that compressed-tensors does not know, so that it refuses the model instead of leaving its weights random.
    orientation = {"orientation": "out-in"} if group.out_in else {}
    return {
        "targets": list(group.targets),
        "format": group.format,
        "weights": {**common, **scales, "dynamic": False, **orientation},
        "input_activations": {**common, "strategy": "token", "dynamic": True} if group.bits == 8 else None,
        "output_activations": None,
    }


def declared(config: Mapping[str, Any], what: Literal["num_bits", "group_size"]) -> set[int]:
    """What the groups in a model's configuration say of their weights, if it is a number that could be true."""
    groups = config["quantization_config"].get("config_groups") or {}
    weights = (group.get("weights") for group in groups.values() if isinstance(group, dict))
    numbers = (each.get(what) for each in weights if isinstance(each, dict))
    return {number for number in numbers if isinstance(number, int) and number > 0}


def refuse_unreadable(path: Path, quantization: Any) -> None:
    """Raise CutworkError unless the `quantization_config` of the model at `path` describes a format that we read."""
    if not isinstance(quantization, dict):
        raise CutworkError(f"{path / 'config.json'}: quantization_config must be an object")
    method = quantization.get("quant_method", _METHOD)
    if method != _METHOD:
        raise CutworkError(f"{path} is quantised by '{method}', which cutwork cannot read; {_INSTEAD}")
    if (quantization.get("transform_config") or {}).get("config_groups"):
        raise CutworkError(f"{path} rotates its activations (transform_config), which cutwork cannot run; {_INSTEAD}")
    sparsity = quantization.get("sparsity_config") or {}
    every = (quantization.get("config_groups") or {}).values()
    groups = [group for group in every if isinstance(group, dict)]
    layouts = [group.get("format") for group in groups]
    readable = ("dense", *bitmask.FORMATS, INT, PACKED)
    for name in [sparsity.get("format", "dense"), quantization.get("format", "dense"), *filter(None, layouts)]:
        if name in readable or (name == MIXED and layouts):
            continue
        advice = "use the checkpoint it was made from" if name == "marlin-24" else _INSTEAD
        raise CutworkError(f"{path} is stored as '{name}' (compressed-tensors), which cutwork cannot read; {advice}")
    weights = [group["weights"] for group in groups if isinstance(group.get("weights"), dict)]
    if any(each.get("strategy") == "block" for each in weights):
        raise CutworkError(f"{path} has scales for blocks of rows and columns, which cutwork cannot read; {_INSTEAD}")
