"""What the server counts, under the names vLLM uses, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

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

        self.running = gauge("num_requests_running", "Sequences in the batch.")
        self.waiting = gauge("num_requests_waiting", "Sequences in the queue.")
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
