"""How a benchmark talks to an engine in another process: one JSON object per line, each way.

Request: {"prompt": [ids], "tokens": [ids], "threads": n, "logits": bool}. The prompt is one prefill, then every token
is one decode step. Answer: seconds of both, and the last logits if wanted. The first line tells what runs.
"""

import json
import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol


class Engine(Protocol):
    """What a worker offers."""

    def about(self) -> dict[str, Any]: ...

    def forget(self) -> None: ...

    def feed(self, tokens: list[int], start: int, threads: int) -> Sequence[float]: ...


def serve(engine: Engine) -> None:
    """Answer requests until the input ends."""
    print(json.dumps(engine.about()), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        prompt, tokens, threads = request["prompt"], request["tokens"], request["threads"]
        engine.forget()
        start = time.perf_counter()
        logits = engine.feed(prompt, 0, threads)
        between = time.perf_counter()
        for i, token in enumerate(tokens):
            logits = engine.feed([token], len(prompt) + i, threads)
        answer: dict[str, Any] = {"prefill": between - start, "decode": time.perf_counter() - between}
        if request["logits"]:
            answer["logits"] = [float(value) for value in logits]
        print(json.dumps(answer), flush=True)
