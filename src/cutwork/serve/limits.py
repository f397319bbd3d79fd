"""What one client may ask for; every field of a request is held to one of these."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Limits:
    """Caps of the server. Counts; `*_bytes` are bytes, `*_seconds`, `deadline` and `pace` seconds.

    What belongs to the class is no choice of the server's owner.
    """

    messages: ClassVar[int] = 1024
    tools: ClassVar[int] = 128
    prompt_length: ClassVar[int] = 1 << 21  # characters of a text; a tokenizer that has begun cannot be interrupted
    template_seconds: ClassVar[float] = 10.0  # of a chat template, which is a program that came with the model
    token_ids: ClassVar[int] = 1 << 20  # in one prompt; the model's context is a limit too
    depth: ClassVar[int] = 64  # levels of nesting in a body
    keys: ClassVar[int] = 1 << 16  # of all objects in a body; it has no more lists and objects either
    values: ClassVar[int] = token_ids + keys  # in a body

    body_bytes: int = 8 << 20
    audio_bytes: int = 64 << 20  # of a body with a recording
    audio_queue_bytes: int = 256 << 20  # of all recordings that wait for a model
    unfinished_bytes: int = 64 << 20  # of all bodies that have not arrived whole
    held_bytes: int = 512 << 20  # of all bodies whose requests have no answer yet
    body_seconds: float = 60.0  # from a request's headers to the end of its body
    unread_bytes: int = 256 << 20  # of all answers that their clients do not read
    unread_seconds: float = 120.0  # in which a client reads at least something of its answer
    header_seconds: float = 10.0  # from the opening of a connection, or a request's first byte, to its last header
    queue: int = 256  # sequences waiting for a place in the batch, of all requests to a model
    prompts: int = 64  # prompts, or texts to translate, in one request
    inputs: int = 2048  # texts to embed, classify or rank in one request
    queue_tokens: int = 1 << 20  # of all texts that wait to be read by a model
    choices: int = 16  # n
    beams: int = 8
    text_length: int = 1 << 14  # characters of a text to translate
    max_tokens: int = 1 << 16
    logprobs: int = 1 << 20  # in one answer, each token's own and its alternatives, of about 130 bytes
    echo_tokens: int = 1 << 20  # of prompts that one answer repeats, for each of n
    stop_strings: int = 16
    stop_length: int = 256  # characters of one stop string
    logit_biases: int = 1024
    schema_bytes: int = 1 << 16
    schema_depth: int = 24
    audio_seconds: float = 3600.0
    deadline: float = 600.0
    pace: float = 0.25  # a step's aim while answers stream, by taking in prompts more slowly; 0: none
    requests: int = 1024  # at a time; health is answered beyond
    idle_connections: int = 512  # that have not sent their headers; the oldest goes
    priority: bool = False  # whether clients may say who is served first
    loaded: int = 0  # models that are loaded on demand, at a time; 0: all
    idle: float = 0.0  # seconds after which one of them that nobody asks for is unloaded; 0: never
