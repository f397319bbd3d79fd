"""Thousands of requests made from the server's own OpenAPI schema, valid and invalid: none may end in a 5xx.

    pip install schemathesis
    python -m benchmarks.serving.fuzz --examples 1200        # more than 10,000 requests, ten minutes

A tiny random model is served. schemathesis is looked for on the PATH, or is `--schemathesis`. Leaves fuzz.json in
results/ and exits with schemathesis's status. Afterwards every block of the KV cache must be free again.
"""

import argparse
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.common.random_checkpoint import write_tiny_llama
from benchmarks.common.results import RESULTS, save


def main() -> int:
    """Serve, fuzz, look at what is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1200, help="per operation")
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
        server = subprocess.Popen([program, "serve", model, "--port", str(port), "--context", "256"])
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
    ]
    began = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    sys.stdout.write(result.stdout)
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
    }
    save(options.results / "fuzz.json", found)
    print(found)
    return result.returncode or int(running > 0 or usage > 0)


def table(result: dict[str, Any]) -> str:
    """Requests, and what was left behind."""
    lines = ["| requests | as they should be | minutes | still running | cache in use |", "|--:|--:|--:|--:|--:|"]
    left = f"{result['running_afterwards']:.0f} | {result['cache_used_afterwards']:.0%}"
    lines.append(f"| {result['requests']:,} | {result['passed']:,} | {result['minutes']:g} | {left} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
