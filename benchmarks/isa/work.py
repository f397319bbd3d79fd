"""What every engine does with a model: decode after a few tokens, alone and in batches, and one long prompt."""

CONTEXT = 16  # tokens before those that are decoded
STEPS = 24
BATCHES = (4, 16)
PROMPT = 512
WHOLE_PROMPTS = 2

WHAT = ("decode", *(f"batch {batch}" for batch in BATCHES), "prefill")  # all in tokens per second
