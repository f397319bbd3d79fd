"""Prefill and decode speed of one or several models: interleaved in one run, medians, spreads."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console

from cutwork.engine.decoding.options import GenerateOptions
from cutwork.engine.encoder import EncodedInput, Encoder
from cutwork.engine.model import Model
from cutwork.errors import CutworkError
from cutwork.progress import progress_bar


@dataclass
class Speed:
    """What was measured of one model; every run of every repeat is kept.

    first_token_ms: from a prompt to its first token. step_ms: decode steps, one list per repeat; of a batch those in
    which all sequences go on. decoded: tokens of these steps, by repeat. batch: sequences at a time.
    """

    prompt_tokens: int
    decode_tokens: int
    batch: int
    first_token_ms: list[float] = field(default_factory=list)
    step_ms: list[list[float]] = field(default_factory=list)
    decoded: list[int] = field(default_factory=list)

    @property
    def prefill(self) -> float:
        """Prompt tokens per second, median over the repeats."""
        return median(self.prefill_runs)

    @property
    def decode(self) -> float:
        """Tokens per second of all sequences together after the first token, median over the repeats."""
        return median(self.decode_runs)

    @property
    def prefill_runs(self) -> list[float]:
        """Prompt tokens per second of each repeat."""
        return [1e3 * self.batch * self.prompt_tokens / ms for ms in self.first_token_ms]

    @property
    def decode_runs(self) -> list[float]:
        """Decoded tokens per second of each repeat."""
        return [1e3 * tokens / sum(steps) for tokens, steps in zip(self.decoded, self.step_ms, strict=True)]

    def step_percentile(self, percent: float) -> float:
        """Milliseconds between tokens at a percentile of all decode steps."""
        return float(np.percentile(np.concatenate([np.asarray(steps) for steps in self.step_ms]), percent))

    def as_json(self) -> dict[str, object]:
        """Medians, spreads and percentiles as plain numbers."""
        return {
            "prefill_tokens_per_second": self.prefill,
            "prefill_runs": self.prefill_runs,
            "decode_tokens_per_second": self.decode,
            "decode_runs": self.decode_runs,
            "first_token_ms": median(self.first_token_ms),
            "step_ms_p50": self.step_percentile(50),
            "step_ms_p95": self.step_percentile(95),
            "step_ms_p99": self.step_percentile(99),
        }


def measure(
    models: Mapping[str, Model],
    prompt_tokens: int,
    decode_tokens: int,
    repeats: int,
    *,
    batch: int = 1,
    seconds: float = 0.0,
    console: Console | None = None,
) -> dict[str, Speed]:
    """Time `repeats` rounds over all models, more until `seconds` are over, after one of warm-up that is not counted.

    An encoder, where there is one, reads the prompt; its time then is that of the first token. Prompts are random
    tokens, new ones each round, so that nothing is reused, or a silent spectrogram of so many entries; decoding is
    greedy and goes on past the end of a sequence.
    Says so on `console`, standard error by default, where memory sufficed for the weights of some models only.
    Raises CutworkError where a model's context is too short or its batch too small.
    """
    for name, model in models.items():
        decoded = decode_tokens + 1 + (0 if model.encoder else prompt_tokens)
        if decoded > model.max_context:
            raise CutworkError(f"{name}: {decoded} tokens do not fit the context of {model.max_context}; measure fewer")
        if batch > model.max_batch:
            raise CutworkError(f"{name}: a batch of {batch} exceeds the model's {model.max_batch}")
        cache = model.session.scheduler.cache
        if batch * cache.blocks_for(decoded) > cache.blocks:
            raise CutworkError(
                f"{name}: the KV cache does not hold {batch} sequences of {decoded} tokens; measure fewer, or give it "
                "more memory"
            )
    left = [name for name, model in models.items() if model.weights_left]
    if 0 < len(left) < len(models):
        (console or Console(stderr=True)).print(
            f"memory is short: the weights of {', '.join(left)} are not in huge pages, as those of the others are, so "
            "these speeds do not compare; free memory and measure again",
            highlight=False,
        )
    random = np.random.default_rng(0)
    speeds = {name: Speed(prompt_tokens, decode_tokens, batch) for name in models}
    end = time.perf_counter() + seconds
    with progress_bar(console, transient=True) as progress:
        bar = progress.add_task("measuring speed", total=(repeats + 1) * len(models))
        for round_ in count():
            if round_ > repeats and time.perf_counter() >= end:
                break
            for name, model in models.items():
                progress.update(bar, description=f"measuring {name}")
                first, steps, decoded = _once(model, random, prompt_tokens, decode_tokens, batch)
                if round_ > 0:
                    speeds[name].first_token_ms.append(first)
                    speeds[name].step_ms.append(steps)
                    speeds[name].decoded.append(decoded)
                progress.advance(bar)
    return speeds


def measure_directories(
    directories: Mapping[str, Path], prompt_tokens: int, decode_tokens: int, repeats: int, *, threads: int
) -> dict[str, Speed]:
    """`measure` of the models in directories of any kind, all in memory at once. threads: 0 is every CPU."""
    longest = prompt_tokens + decode_tokens + 1
    with ExitStack() as stack:
        models = {
            name: stack.enter_context(Model.load(path, threads=threads, max_context=longest, max_batch=1))
            for name, path in directories.items()
        }
        return measure(models, prompt_tokens, decode_tokens, repeats)


def _once(
    model: Model, random: np.random.Generator, prompt_tokens: int, decode_tokens: int, batch: int
) -> tuple[float, list[float], int]:
    """(milliseconds until every sequence has its first token, those of decode steps after that, their tokens).

    Sequences of a batch are read one after the other and end likewise, so what counts is the steps of all of them
    together; where these are few, for long prompts of many sequences, all steps.
    """
    options: GenerateOptions = {"max_new_tokens": decode_tokens + 1, "ignore_eos": True}
    prompts = [random.integers(0, model.plan.vocabulary, prompt_tokens).tolist() for _ in range(batch)]
    requests = [
        model.session.add(model.start_tokens, _encoded(model.encoder, prompt), **options)
        if model.encoder
        else model.session.add(prompt, **options)
        for prompt in prompts
    ]
    start = time.perf_counter()
    while any(not request.tokens for request in requests):
        model.session.step()
        for request in requests:
            request.raise_error()
    times, going = [time.perf_counter()], []
    while model.session.busy:
        going.append(sum(len(request.tokens) <= decode_tokens for request in requests))
        model.session.step()
        times.append(time.perf_counter())
    for request in requests:
        request.raise_error()
    steps = [1e3 * float(step) for step in np.diff(times)]
    together = going.count(batch)  # these come first
    if 4 * together < decode_tokens:
        together = len(steps)
    return 1e3 * (times[0] - start), steps[:together], sum(going[:together])


def _encoded(encoder: Encoder, prompt: list[int]) -> EncodedInput:
    return encoder.example(len(prompt)) if encoder.frames else encoder.input(prompt)
