"""The head of a classifier: from hidden states to a number for each class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cutwork.architectures import classifies
from cutwork.architectures.architecture import Architecture, Classified
from cutwork.engine.embedding.pooling import Dense, Norm, pool
from cutwork.engine.weights.bind import floats_of
from cutwork.errors import CutworkError
from cutwork.pack.record import EncodedWeight

Function = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True)
class Head:
    """Classes of a text, or of each of its tokens. `pooling` of a text's hidden states comes before the `layers`.

    function: what makes scores of the last layer's numbers. padding: the token that is never taken for a text's last.
    """

    of: Classified
    pooling: str
    layers: tuple[Dense, ...]
    labels: tuple[str, ...]
    function: Function
    padding: int | None = None

    @property
    def last_only(self) -> bool:
        """Whether it looks at the last token's hidden states only."""
        return self.of == "text" and self.pooling == "lasttoken"

    def end(self, ids: np.ndarray) -> int:
        """How many of a text's tokens are read: no padding behind the last one, or one of it if there is nothing else,
        as by transformers."""
        if self.padding is None or not self.last_only:
            return len(ids)
        return int(np.flatnonzero(ids != self.padding).max(initial=0)) + 1

    def logits(self, states: np.ndarray) -> np.ndarray:
        """Hidden states [T, width] → float32 [1, labels], or [T, labels] of a head for tokens."""
        rows = states if self.of == "token" else pool(states, (self.pooling,))[None]
        for layer in self.layers:
            rows = layer(rows)
        return rows

    def scores(self, logits: np.ndarray, function: Function | None = None) -> np.ndarray:
        """From 0 to 1, of the same shape, unless the function is none."""
        match function or self.function:
            case "softmax":
                weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
                return np.asarray(weights / weights.sum(axis=-1, keepdims=True))
            case "sigmoid":
                return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))
        return logits


def read_head(
    architecture: Architecture,
    config: Mapping[str, Any],
    weights: Mapping[str, EncodedWeight],
    activation: str | None = None,
) -> Head | None:
    """The head of a model's stored weights; None if its configuration says that it is no classifier.

    activation: what makes a score of a single class's number, if something beside the configuration says so.

    Raises CutworkError if there is none that this engine knows, or it is damaged.
    """
    of = classifies(config)
    if of is None:
        return None
    stored = {architecture.plan_name(name): weight for name, weight in weights.items()}

    def dense(name: str, activation: str = "none", norm: Norm | None = None) -> Dense:
        if f"{name}.weight" not in stored:
            raise CutworkError(f"weight '{name}.weight' is missing from the model; the checkpoint is incomplete")
        weight = floats_of(f"{name}.weight", stored[f"{name}.weight"])
        bias = floats_of(f"{name}.bias", stored[f"{name}.bias"]) if f"{name}.bias" in stored else None
        if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
            raise CutworkError(f"'{name}' must be a matrix, and its bias must have a number for each row")
        return Dense(weight, bias, activation, norm)

    layers: tuple[Dense, ...]
    pooling, padding = "cls", None
    if "score.weight" in stored:
        layers, pooling, padding = (dense("score"),), "lasttoken", config.get("pad_token_id")
    elif "classifier.out_proj.weight" in stored:
        layers = (dense("classifier.dense", "tanh"), dense("classifier.out_proj"))
    elif "head.dense.weight" in stored:
        scale = floats_of("head.norm.weight", stored["head.norm.weight"])
        shift = floats_of("head.norm.bias", stored["head.norm.bias"]) if "head.norm.bias" in stored else None
        norm = Norm(scale, shift, float(config.get("norm_eps", 1e-5)))
        layers = (dense("head.dense", str(config.get("classifier_activation", "gelu")), norm), dense("classifier"))
        pooling = str(config.get("classifier_pooling", "cls"))
    elif of == "text" and "pre_classifier.weight" in stored:
        layers = (dense("pre_classifier", "relu"), dense("classifier"))
    elif of == "text" and "pooler.dense.weight" in stored:
        layers = (dense("pooler.dense", "tanh"), dense("classifier"))
    else:
        layers = (dense("classifier"),)
    labels = len(layers[-1].weight)
    padding = padding if isinstance(padding, int) else None
    return Head(of, pooling, layers, _labels(config, labels), _function(config, of, labels, activation), padding)


def _labels(config: Mapping[str, Any], count: int) -> tuple[str, ...]:
    named = config.get("id2label")
    names = named if isinstance(named, dict) else {}
    return tuple(str(names.get(str(i), names.get(i, f"LABEL_{i}"))) for i in range(count))


def _function(config: Mapping[str, Any], of: Classified, labels: int, activation: str | None) -> Function:
    """As transformers' pipelines have it; of a single class as sentence-transformers' cross-encoders."""
    if of == "text" and config.get("problem_type") == "regression":
        return "none"
    if labels == 1:
        newer = config.get("sentence_transformers")
        name = newer.get("activation_fn") if isinstance(newer, dict) else None
        name = activation or name or config.get("sbert_ce_default_activation_function") or "Sigmoid"
        return "none" if str(name).endswith("Identity") else "sigmoid"
    return "sigmoid" if of == "text" and config.get("problem_type") == "multi_label_classification" else "softmax"
