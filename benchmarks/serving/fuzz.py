"""Thousands of requests made from the server's own OpenAPI schema, valid and invalid, and as many that are made to do
harm (`hostile.py`): none may end in a 5xx.

    pip install schemathesis
    python -m benchmarks.serving.fuzz --examples 1200        # more than 10,000 requests, ten minutes

A tiny random model is served, and with --speech a Whisper beside it. schemathesis is looked for on the PATH, or is
`--schemathesis`. Leaves fuzz.json in results/ and exits with schemathesis's status. Afterwards every block of the KV
cache must be free again.
"""

import argparse
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.common.random_checkpoint import write_tiny_llama
from benchmarks.common.results import RESULTS, save
from benchmarks.serving.hostile import ask_health, hostile


def main() -> int:
    """Serve, fuzz, look at what is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1200, help="per operation")
    parser.add_argument("--hostile", type=int, default=10_000, help="requests made to do harm")
    parser.add_argument("--seed", type=int, default=0, help="other requests; so it can be done in pieces")
    parser.add_argument("--speech", type=Path, help="a model directory that hears speech")
    parser.add_argument("--schemathesis", default="schemathesis")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        model = Path(work) / "tiny"
        write_tiny_llama(model)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        program = Path(sys.executable).with_name("cutwork")
        models = [model, *([options.speech] if options.speech else [])]
        server = subprocess.Popen([program, "serve", *models, "--port", str(port), "--context", "256"])
        try:
            return fuzz(options, f"http://127.0.0.1:{port}")
        finally:
            server.terminate()
            server.wait()


def fuzz(options: argparse.Namespace, url: str) -> int:
    """Run schemathesis against the server at `url`."""
    for _ in range(600):
        try:
            httpx.get(f"{url}/health/ready").raise_for_status()
            break
        except httpx.HTTPError:
            time.sleep(0.1)
    command = [options.schemathesis, "run", f"{url}/openapi.json", "--checks", "not_a_server_error", "--workers", "4"]
    command += [
        "--phases",
        "coverage,fuzzing",
        "--max-examples",
        str(options.examples),
        "--suppress-health-check",
        "all",
        "--seed",
        str(options.seed),
    ]
    began = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    sys.stdout.write(result.stdout)
    asked: list[float] = []
    stop = threading.Event()
    watch = threading.Thread(target=ask_health, args=(url, stop, asked))
    watch.start()
    harm = hostile(url, options.hostile, options.seed)
    stop.set()
    watch.join()
    time.sleep(2)
    metrics = httpx.get(f"{url}/metrics").text
    running, usage = (
        float(re.search(rf"^cutwork:{name}{{.*?}} (\S+)$", metrics, re.MULTILINE)[1])  # type: ignore[index]
        for name in ("num_requests_running", "kv_cache_usage_perc")
    )
    counted = re.search(r"(\d+) generated, (\d+) passed", result.stdout)
    found = {
        "requests": int(counted[1]) if counted else 0,
        "passed": int(counted[2]) if counted else 0,
        "status": result.returncode,
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "running_afterwards": running,
        "cache_used_afterwards": usage,
        "hostile": harm,
        "health_p99_ms": round(1e3 * sorted(asked)[int(0.99 * (len(asked) - 1))], 1),
    }
    save(options.results / "fuzz.json", found)
    print(found)
    return result.returncode or int(running > 0 or usage > 0 or bool(harm["wrong"]))


def table(result: dict[str, Any]) -> str:
    """Requests, and what was left behind."""
    harm = result.get("hostile")  # which older measurements lack
    names = ["requests", "as they should be", *(["made to do harm"] if harm else []), "minutes"]
    lines = [f"| {' | '.join(names)} | still running | cache in use |", f"|{'--:|' * (len(names) + 2)}"]
    left = f"{result['running_afterwards']:.0f} | {result['cache_used_afterwards']:.0%}"
    sent = f"{result['requests']:,} | {result['passed']:,}" + (f" | {harm['requests']:,}" if harm else "")
    lines.append(f"| {sent} | {result['minutes']:g} | {left} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
