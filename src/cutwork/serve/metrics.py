"""What the server counts, under the names vLLM uses, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cutwork.engine.decoding.blocks import BlockCache
from cutwork.engine.decoding.requests import Generation
from cutwork.engine.decoding.scheduler import Scheduler

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The collectors of one server; every one has the label `model_name`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        model = ("model_name",)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"cutwork:{name}", text, (*model, *labels), registry=self.registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"cutwork:{name}", text, model, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return Histogram(f"cutwork:{name}", text, model, registry=self.registry, buckets=buckets)

        self.running = gauge("num_requests_running", "Sequences in the batch; recordings or requests being read.")
        self.waiting = gauge("num_requests_waiting", "Those in the queue.")
        self.cache_usage = gauge("kv_cache_usage_perc", "Used part of the KV cache, 0 to 1.")
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens of finished requests.")
        self.generation_tokens = counter("generation_tokens", "Tokens generated.")
        self.cache_queries = counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        self.cache_hits = counter("prefix_cache_hits", "Prompt tokens found in the prefix cache.")
        self.preemptions = counter("num_preemptions", "Sequences that had to wait again because the cache was full.")
        self.finished = counter("request_success", "Finished sequences by reason.", "finished_reason")
        self.cancelled = counter("request_cancelled", "Sequences ended because the client left.")
        self.expired = counter("request_timeout", "Sequences ended by their deadline.")
        self.rejected = counter("request_rejected", "Requests refused because the queue was full.")
        self.failed = counter("request_failed", "Sequences lost to an error of the server.")
        self.audio_seconds = counter("audio_seconds", "Seconds of recordings taken in.")
        self.queue_time = histogram("request_queue_time_seconds", "From arrival to the first step.")
        self.first_token = histogram("time_to_first_token_seconds", "From arrival to the first token.")
        self.inter_token = histogram("inter_token_latency_seconds", "Between one token and the next.", SHORT)
        self.per_token = histogram(
            "request_time_per_output_token_seconds", "Mean time per token after the first, per request.", SHORT
        )
        self.latency = histogram("e2e_request_latency_seconds", "From arrival to the last token.")
        self.step_time = histogram("step_duration_seconds", "One forward pass.", SHORT)
        self.batch_size = histogram("step_batch_size", "Sequences that got a token in a step.", SIZES)


class ModelMetrics:
    """What the server counts of one model, by what happens."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.name, self._all = name, metrics
        self._preemptions = 0  # of the scheduler, counted so far

    def refused(self) -> None:
        """A request found the queue full."""
        self._all.rejected.labels(self.name).inc()

    def ended(self, status: int, places: int) -> None:
        """A job ended with an error's HTTP status while so many of its places were unfinished."""
        counter = {499: self._all.cancelled, 504: self._all.expired}.get(status, self._all.failed)
        if status in (499, 504) or status >= 500:
            counter.labels(self.name).inc(places)

    def step(self, sequences: int, tokens: int, seconds: float, scheduler: Scheduler) -> None:
        """A step of a scheduler brought so many sequences so many tokens."""
        m = self._all
        if sequences:
            m.step_time.labels(self.name).observe(seconds)
            m.batch_size.labels(self.name).observe(sequences)
            m.generation_tokens.labels(self.name).inc(tokens)
        m.preemptions.labels(self.name).inc(scheduler.preemptions - self._preemptions)
        self._preemptions = scheduler.preemptions

    def first_token(self, seconds: float) -> None:
        """A sequence's first token came, so long after its request."""
        self._all.first_token.labels(self.name).observe(seconds)

    def next_token(self, seconds: float) -> None:
        """A sequence's next token came, so long after the one before."""
        self._all.inter_token.labels(self.name).observe(seconds)

    def sequence(self, result: Generation, latency: float) -> None:
        """A sequence is finished, so long after its request."""
        m, timings = self._all, result.timings
        m.finished.labels(self.name, result.finish_reason).inc()
        m.prompt_tokens.labels(self.name).inc(result.prompt_tokens)
        m.cache_queries.labels(self.name).inc(result.prompt_tokens)
        m.cache_hits.labels(self.name).inc(timings.reused_tokens)
        m.queue_time.labels(self.name).observe(timings.queued)
        m.latency.labels(self.name).observe(latency)
        if len(result.tokens) > 1:
            m.per_token.labels(self.name).observe(timings.decode / (len(result.tokens) - 1))

    def audio(self, seconds: float) -> None:
        """A recording of so many seconds was taken in."""
        self._all.audio_seconds.labels(self.name).inc(seconds)

    def transcript(self, latency: float) -> None:
        """A transcript is finished, so long after its request."""
        self._all.finished.labels(self.name, "stop").inc()
        self._all.latency.labels(self.name).observe(latency)

    def read_step(self, texts: int, seconds: float) -> None:
        """A step read so many texts."""
        self._all.step_time.labels(self.name).observe(seconds)
        self._all.batch_size.labels(self.name).observe(texts)

    def read(self, tokens: int, latency: float) -> None:
        """All texts of a request, of so many tokens, have been read, so long after it came."""
        self._all.finished.labels(self.name, "stop").inc()
        self._all.prompt_tokens.labels(self.name).inc(tokens)
        self._all.latency.labels(self.name).observe(latency)

    def load(self, running: int, waiting: int, cache: BlockCache) -> None:
        """What the engine holds now; from any thread."""
        m = self._all
        m.running.labels(self.name).set(running)
        m.waiting.labels(self.name).set(waiting)
        m.cache_usage.labels(self.name).set(1 - cache.free / cache.blocks)
