"""LoRA adapters beside a model: read from PEFT's directories, checked against the plan, chosen by each request.

y = W x + alpha / rank · B A x (arXiv 2106.09685): the model's own weights stay as they are, whatever their encoding.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cutwork.architectures.architecture import Architecture
from cutwork.engine.backend import Weight, WeightType
from cutwork.errors import CutworkError, damaged_if_not_understood
from cutwork.plan.builder import Plan
from cutwork.plan.low_rank import Branch, adaptable, with_branches
from cutwork.store import bfloat16
from cutwork.store.json_file import read_json
from cutwork.store.safetensors import SafetensorsFile, Tensor
from cutwork.store.text_part import WRAPPER, plain_name

NO_ADAPTER = -1
_MOST = 100  # adapters of a model: a plan grows by as many ops for each, and is checked when it is loaded
_LARGEST = 1e6  # alpha: far above any, and finite in float32 whatever it is divided by
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
# What changes more than the linear layers that it names, as PEFT calls it, and how it is said.
_BEYOND = {
    "use_dora": "is a DoRA adapter",
    "modules_to_save": "replaces whole modules (modules_to_save)",
    "trainable_token_indices": "changes embeddings (trainable_token_indices)",
    "target_parameters": "changes parameters that are no layers (target_parameters)",
    "layer_replication": "repeats layers (layer_replication)",
    "alpha_pattern": "scales its layers differently (alpha_pattern)",
    "lora_bias": "has biases (lora_bias)",
    "use_qalora": "is a QALoRA adapter",
}
# And what is not added to every token, which no merge can do.
_AT_TIMES = {
    "alora_invocation_tokens": "is an activated LoRA, which changes the tokens after an invocation alone",
    "arrow_config": "chooses among others for every token (arrow_config)",
}
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # beginnings that alter the base, too
_MERGE = "merge it into its base with `cutwork merge`"


@dataclass(frozen=True)
class Factors:
    """What an adapter adds to a linear layer: x·downᵀ·up. down [rank, inputs] is float32 or the bits of bfloat16; up
    [rank, outputs], scaled, is float32."""

    down: np.ndarray
    up: np.ndarray

    @property
    def nbytes(self) -> int:
        """Of both."""
        return self.down.nbytes + self.up.nbytes


Adapter = Mapping[str, Factors]  # by the weight of the layer, as the plan names it


def read_adapter(path: Path, architecture: Architecture, plan: Plan, config: Mapping[str, Any]) -> Adapter:
    """The adapter in a directory of PEFT's, for the model of a plan and its config, or trained on what wraps that.

    Raises CutworkError for what is no LoRA adapter, is damaged, changes more than linear layers, or belongs to another
    model.
    """
    with damaged_if_not_understood(path):
        return _read(path, architecture, plan, config)


def _read(path: Path, architecture: Architecture, plan: Plan, config: Mapping[str, Any]) -> Adapter:
    scaling = _Scaling.of(path)
    file = path / _WEIGHTS
    if not file.is_file():
        raise CutworkError(f"{path} has no {_WEIGHTS}; save the adapter again with PEFT, which writes safetensors")
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in SafetensorsFile(file).items():
        parts = _NAME.fullmatch(name)
        if parts is None:
            raise CutworkError(f"{file}: '{name}' is not of a linear layer; the engine adds those only, so {_MERGE}")
        pairs.setdefault(parts[1], {})[parts[2]] = tensor
    if not pairs:
        raise CutworkError(f"{file} holds no layers; save the adapter again with PEFT")
    shapes, adapter = adaptable(plan), {}
    for layer, pair in pairs.items():
        stored = f"{layer}.weight"
        plain = plain_name(stored)
        weight = architecture.plan_name(plain or stored)
        if WRAPPER in config and plain is None and weight not in plan.weights:
            raise CutworkError(
                f"{file}: '{layer}' is no layer of the language model, and what sees or hears is left out here; train "
                "the adapter on the language model alone"
            )
        if weight not in shapes:
            raise CutworkError(
                f"{file}: '{layer}' is no linear layer of this model to which something can be added per request "
                f"(embeddings, heads and layers with an activation are none); if the model is right, {_MERGE}"
            )
        if weight in adapter:
            raise CutworkError(f"{file} changes '{layer}' twice; save the adapter again with PEFT")
        adapter[weight] = _factors(file, layer, pair, shapes[weight], scaling)
    return adapter


def with_adapters(
    plan: Plan,
    adapters: Sequence[Adapter],
    weights: Sequence[Weight],
    vectors: Sequence[np.ndarray],
    kind: WeightType[Weight],
) -> tuple[Plan, tuple[list[Weight], list[np.ndarray]]]:
    """A plan with what the adapters add, and its weights and vectors, made of those of the plan without them.

    Their places in the sequence are the numbers that steps name them by.
    """
    named = [
        (Branch(number, weight, len(factors.down)), factors)
        for number, adapter in enumerate(adapters)
        for weight, factors in adapter.items()
    ]
    made = with_branches(plan, [branch for branch, _ in named])
    downs = {f"{branch.name}.down": kind.dense(factors.down) for branch, factors in named}
    ups = {f"{branch.name}.up": factors.up.reshape(-1) for branch, factors in named}
    return made, (
        [*weights, *(downs[name] for name in list(made.weights)[len(plan.weights) :])],
        [*vectors, *(ups[name] for name in list(made.vectors)[len(plan.vectors) :])],
    )


def number_of(adapters: Sequence[str], name: str | None) -> int:
    """The number of an adapter, NO_ADAPTER without a name. Raises CutworkError for one that is not loaded."""
    if name is None:
        return NO_ADAPTER
    if name not in adapters:
        known = f"it has {', '.join(adapters)}" if adapters else "it was loaded without any"
        raise CutworkError(f"this model has no adapter {name!r}; {known}")
    return adapters.index(name)


def check_names(names: Sequence[str]) -> None:
    """Raise CutworkError for too many adapters, or one without a name."""
    if len(names) > _MOST:
        raise CutworkError(f"a model takes at most {_MOST} adapters, not {len(names)}")
    if not all(names):
        raise CutworkError("an adapter needs a name by which requests choose it")


@dataclass(frozen=True)
class _Scaling:
    """How much of B A x is added, by the rank of a layer. rank: of those that nothing is said of."""

    alpha: float
    rank: int
    rooted: bool
    ranks_differ: bool

    @classmethod
    def of(cls, path: Path) -> "_Scaling":
        """What an adapter's configuration says. Raises CutworkError for adapters that are not of this kind."""
        file = path / _CONFIG
        if not file.is_file():
            raise CutworkError(f"{path} holds no adapter of PEFT: there is no {_CONFIG}")
        config = read_json(file)
        if config.get("peft_type") != "LORA":
            raise CutworkError(f"{path} is no LoRA adapter, but {config.get('peft_type')!r}; the engine adds LoRA only")
        for key, what in _BEYOND.items():
            if config.get(key):
                raise CutworkError(f"{path} {what}, which cannot be added per request; {_MERGE}")
        for key, what in _AT_TIMES.items():
            if config.get(key):
                raise CutworkError(f"{path} {what}; the engine adds an adapter to every token of a request")
        if config.get("bias", "none") != "none":
            raise CutworkError(f"{path} changes biases, which cannot be added per request; {_MERGE}")
        begun = config.get("init_lora_weights")
        if isinstance(begun, str) and begun.lower().startswith(_CHANGES_BASE):
            raise CutworkError(
                f"{path} began as {begun}, which alters the base model; convert it with PEFT's "
                "path_initial_model_for_weight_conversion"
            )
        alpha: Any = config.get("lora_alpha")
        rank: Any = config.get("r")
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (alpha, rank))
        if not numbers or not isinstance(rank, int) or rank < 1 or not abs(alpha) <= _LARGEST:
            raise CutworkError(
                f"{file} must say r, a whole number above 0, and lora_alpha, a number of at most {_LARGEST:.0f}"
            )
        return cls(float(alpha), rank, bool(config.get("use_rslora")), bool(config.get("rank_pattern")))

    def scale(self, rank: int) -> float:
        """For a layer of this rank."""
        return self.alpha / (math.sqrt(rank) if self.rooted else rank)


def _factors(file: Path, layer: str, pair: Mapping[str, Tensor], shape: tuple[int, int], scaling: _Scaling) -> Factors:
    """The two matrices of a layer of this shape, every size checked before anything is copied."""
    if len(pair) != 2:
        raise CutworkError(f"{file}: '{layer}' lacks one of lora_A and lora_B; save the adapter again with PEFT")
    (outputs, inputs), down, up = shape, pair["A"], pair["B"]
    rank = down.shape[0] if len(down.shape) == 2 else 0
    if not 1 <= rank <= max(shape) or (down.shape, up.shape) != ((rank, inputs), (outputs, rank)):
        raise CutworkError(
            f"{file}: '{layer}' has factors of shapes {list(down.shape)} and {list(up.shape)}, but the model's layer "
            f"is [{outputs}, {inputs}]; the adapter was trained on another model"
        )
    if rank != scaling.rank and not scaling.ranks_differ:
        raise CutworkError(f"{file}: '{layer}' has rank {rank}, but {_CONFIG} says {scaling.rank}; save it again")
    with np.errstate(over="ignore"):  # what is not finite ends the requests that meet it
        scaled = bfloat16.widen(_numbers(file, layer, up)).T * np.float32(scaling.scale(rank))
    return Factors(_numbers(file, layer, down), np.ascontiguousarray(scaled, np.float32))


def _numbers(file: Path, layer: str, tensor: Tensor) -> np.ndarray:
    """A copy as the kernels take it."""
    if tensor.dtype == "BF16":
        return np.array(tensor.array, np.uint16, order="C")
    if tensor.dtype in ("F16", "F32"):
        return np.array(tensor.array, np.float32, order="C")
    raise CutworkError(f"{file}: '{layer}' holds {tensor.dtype}; save it as float32, float16 or bfloat16")
