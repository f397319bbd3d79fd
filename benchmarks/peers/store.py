"""The results file: every cell with all its samples, written after each, so that nothing measured is ever lost."""

import json
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common.provenance import provenance
from benchmarks.common.results import refuse_mixture
from cutwork.store.atomic import write_atomically

Key = tuple[str, str, int, int, int, str]  # engine, shape, threads, prompt, batch, phase


@dataclass
class Store:
    """`cells` by key; `unavailable` tells why an engine is missing."""

    path: Path
    cells: dict[Key, dict[str, Any]] = field(default_factory=dict)
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)  # by "engine, shape"
    engines: dict[str, dict[str, Any]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)

    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, fresh: bool = False) -> "Store":
        """What is in the file, or nothing."""
        store = cls(path)
        if path.exists() and not fresh:
            data = json.loads(path.read_text())
            store.provenance = data.get("provenance", {})
            store.cells = {_key(cell): cell for cell in data["cells"]}
            store.checks, store.engines = data["checks"], data["engines"]
            store.unavailable, store.layers = data["unavailable"], data["layers"]
        return store

    def refuse_mixture(self) -> None:
        """Raise SystemExit if what is there is of another processor or build, to which nothing can be added."""
        if self.cells or self.layers:
            refuse_mixture(self.path, self.provenance)

    def samples(self, key: Key) -> list[float]:
        """Tokens/s measured so far."""
        return list(self.cells[key]["samples"]) if key in self.cells else []

    def add(self, key: Key, speed: float, about: dict[str, Any]) -> None:
        """One more sample of a cell."""
        samples = [*self.samples(key), speed]
        engine, shape, threads, prompt, batch, phase = key
        self.cells[key] = {
            "engine": engine, "shape": shape, "threads": threads, "prompt": prompt, "batch": batch, "phase": phase,
            **{name: about[name] for name in ("weights", "sparsity", "isa", "version", "decode_tokens")},
            "date": time.strftime("%Y-%m-%d %H:%M:%S"),
            **spread(samples), "samples": [round(sample, 3) for sample in samples],
        }  # fmt: skip

    def save(self) -> None:
        """Write it whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        versions = {name.partition(",")[0]: about["version"] for name, about in self.engines.items()}
        self.provenance = provenance(versions=versions)
        head = {
            "provenance": self.provenance,
            "engines": self.engines,
            "unavailable": self.unavailable,
            "checks": self.checks,
        }
        text = json.dumps(head, indent=1)[:-2]
        cells = ",\n".join("  " + json.dumps(cell) for cell in self.cells.values())
        layers = ",\n".join(f"  {json.dumps(name)}: {json.dumps(cell)}" for name, cell in self.layers.items())
        text += f',\n "layers": {{\n{layers}\n }},\n "cells": [\n{cells}\n ]\n}}\n'
        write_atomically(self.path, text)


def spread(samples: list[float]) -> dict[str, float]:
    """Median and extremes."""
    return {
        "median": round(statistics.median(samples), 3),
        "min": round(min(samples), 3),
        "max": round(max(samples), 3),
    }


def _key(cell: dict[str, Any]) -> Key:
    return cell["engine"], cell["shape"], cell["threads"], cell["prompt"], cell["batch"], cell["phase"]
