"""What the server tells of a model, and its page shows."""

import time
from typing import Any

from cutwork.engine.speech.vocabulary import vocabulary_of
from cutwork.serve.served_model import ServedModel
from cutwork.store.examples import read_examples


def model_facts(served: ServedModel) -> dict[str, Any]:
    """How a model is stored and run, and what it can do."""
    model, abilities = served.model, served.abilities
    return {
        "created": int(time.time()),
        "architecture": model.config.get("model_type"),
        "sparsity": round(model.sparsity, 4),
        "megabytes": round(model.memory_bytes["weights"] / 1e6, 1),
        "encodings": sorted({f"{weight.encoding} {weight.dtype}" for weight in model.weights.values()}),
        "context": model.max_context,
        "threads": model.threads,
        "isa": model.isa,
        "cache_dtype": model.cache_dtype,
        "transcribe": abilities.hears,
        "multilingual": abilities.hears and vocabulary_of(model.path, model.config, model.tokenizer).multilingual,
        "translate": abilities.translates,
        "embed": abilities.embeds,
        "classify": abilities.classifies,
        "chat": bool(getattr(model.tokenizer, "chat_template", None)),
        "thinks": model.chat_template.form.thought is not None,
        "examples": read_examples(model.path),
        "tools": model.chat_template.form.calls is not None,
        "sampling": model.usual_sampling,
    }
