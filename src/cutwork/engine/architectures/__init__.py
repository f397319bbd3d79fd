"""One short file per model family, named after its `model_type`, that emits the plan of a forward pass."""
