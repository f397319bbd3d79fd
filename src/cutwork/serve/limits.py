"""What one client may ask for; every field of a request is held to one of these."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Caps of the server. Counts; `*_bytes` are bytes, `audio_seconds`, `deadline` and `pace` seconds."""

    body_bytes: int = 8 << 20
    audio_bytes: int = 64 << 20  # of a body with a recording
    queue: int = 256  # sequences waiting for a place in the batch, of all requests to a model
    prompts: int = 64  # prompts in one request
    choices: int = 16  # n
    beams: int = 8
    text_length: int = 1 << 14  # characters of a text to translate
    prompt_tokens: int = 1 << 20  # the model's context is a limit too
    max_tokens: int = 1 << 16
    stop_strings: int = 16
    stop_length: int = 256  # characters of one stop string
    messages: int = 1024
    logit_biases: int = 1024
    tools: int = 128
    schema_bytes: int = 1 << 16
    schema_depth: int = 24
    audio_seconds: float = 3600.0
    deadline: float = 600.0
    pace: float = 0.25  # a step's aim while answers stream, by taking in prompts more slowly; 0: none
    connections: int = 1024
