"""What the design promises, as ratios in one run, and what was measured."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.common.shapes import SHAPES
from benchmarks.peers.plan import BANDWIDTH
from benchmarks.peers.store import Store


@dataclass(frozen=True)
class Row:
    """One promise."""

    work: str
    unit: str
    ours: float
    peer: str
    theirs: float
    wanted: float

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs


def target_rows(store: Store) -> Iterator[Row]:
    """Those that can be judged by what is measured."""
    yield from _layers(store)
    yield from _model(store)
    for r in roofline(store):
        if (r["shape"], r["threads"]) == ("1.1b", 2) and r["engine"] in [f"cutwork int8 {s}%" for s in (50, 75, 90)]:
            work = f"1.1B, {r['engine'].removeprefix('cutwork ')}: decode, bytes read, 2 threads"
            yield Row(work, "GB/s", r["gigabytes"], "memory", r["bandwidth"], 0.8)


# (our engine, dtype, sparsity, tokens, peer, sparsity of the peer's cell, ratio)
_LAYERS = (
    ("cutwork", "int8", 0.75, 1, "DeepSparse", 0.75, 1.6),
    ("cutwork", "int8", 0.75, 1, "onnxruntime", 0.0, 2.8),
    ("cutwork", "fp32", 0.75, 1, "DeepSparse", 0.75, 1.5),
    *(("cutwork", "fp32", s, 128, "DeepSparse", s, 1.1) for s in (0.5, 0.75, 0.9)),
    *((ours, "int8", 0.5, 128, "DeepSparse", 0.5, 1.0) for ours in ("cutwork", "cutwork ahead")),
    *((ours, "int8", s, 128, "DeepSparse", s, 1.2) for s in (0.75, 0.9) for ours in ("cutwork", "cutwork ahead")),
    ("cutwork 4:16", "int8", 0.75, 1, "DeepSparse", 0.75, 1.8),
    ("cutwork 4:16", "int8", 0.75, 128, "DeepSparse", 0.75, 1.2),
)
# (our weights, threads, phase, prompt, peer or "" for the best, ratio)
_MODEL = (
    ("cutwork int8 75%", 1, "decode", 16, "llama.cpp Q8_0", 2.7),
    ("cutwork int8 75%", 1, "decode", 16, "llama.cpp Q4_0", 1.6),
    ("cutwork int8 75%", 1, "prefill", 512, "", 1.3),
    ("cutwork int8 75% ahead", 1, "prefill", 512, "", 1.3),
    ("cutwork int8 75%", 2, "decode", 16, "llama.cpp Q8_0", 2.4),
    ("cutwork int8 75%", 2, "decode", 16, "llama.cpp Q4_0", 1.5),
    ("cutwork int4 75%", 1, "decode", 16, "llama.cpp Q4_0", 1.0),
    ("cutwork int4 50%", 1, "decode", 16, "llama.cpp Q4_0", 1.0),
    ("cutwork int4 75%", 2, "decode", 16, "llama.cpp Q4_0", 1.0),
    ("cutwork int4 50%", 2, "decode", 16, "llama.cpp Q4_0", 1.0),
)


def _layers(store: Store) -> Iterator[Row]:
    speeds = {
        (c["engine"], c["dtype"], c["sparsity"], c["tokens"]): c["median"]
        for c in store.layers.values()
        if c["threads"] == 1
    }
    for ours, dtype, sparsity, tokens, peer, theirs, wanted in _LAYERS:
        a, b = speeds.get((ours, dtype, sparsity, tokens)), speeds.get((peer, dtype, theirs, tokens))
        if a and b:
            phase = "decode GEMV" if tokens == 1 else f"prefill {tokens} tokens"
            how = {"cutwork ahead": ", reordered", "cutwork 4:16": ", 4:16"}.get(ours, "")
            yield Row(f"4096², {dtype}, {sparsity:.0%}{how}: {phase}, 1 thread", "G/s", a, peer, b, wanted)


def _model(store: Store) -> Iterator[Row]:
    for name, threads, phase, prompt, peer, wanted in _MODEL:
        cells = {
            c["engine"]: c["median"]
            for c in store.cells.values()
            if (c["shape"], c["threads"], c["phase"], c["prompt"], c["batch"]) == ("1.1b", threads, phase, prompt, 1)
            and c["isa"] == "native"
        }
        peers = {n: v for n, v in cells.items() if not n.startswith("cutwork") and peer in n}
        if name in cells and peers:
            best = max(peers, key=lambda n: peers[n])
            ours = name.removeprefix("cutwork ").replace("ahead", "reordered")
            work = f"1.1B, {ours}: {phase} {prompt}, {threads} thread{'s' * (threads > 1)}"
            yield Row(work, "tok/s", cells[name], best, peers[best], wanted)


def roofline(store: Store) -> Iterator[dict[str, Any]]:
    """Of our engine after a prompt of 16."""
    for (name, shape, threads, prompt, batch, phase), cell in store.cells.items():
        limit = store.cells.get((BANDWIDTH, shape, threads, prompt, batch, "GB/s"))
        about = store.engines.get(f"{name}, {shape}", {})
        if limit and phase == "decode" and "bytes_per_token" in about and cell["isa"] == "native":
            tokens = prompt + cell["decode_tokens"] // 2
            each = SHAPES[shape].cache_bytes(tokens) + int(about["bytes_per_token"])
            speed = each * cell["median"] / 1e9
            yield {
                "shape": shape, "threads": threads, "engine": name, "megabytes": each / 1e6, "gigabytes": speed,
                "bandwidth": limit["median"], "share": speed / limit["median"],
            }  # fmt: skip
