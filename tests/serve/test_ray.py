"""Two replicas under Ray Serve, and Ray Data's workers; where Ray is installed."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from ..tiny_checkpoint import write_tiny_checkpoint

ray = pytest.importorskip("ray")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("ray") / "tiny"
    write_tiny_checkpoint(path, seed=0)
    return path


def test_two_replicas_share_the_requests_and_give_the_same_answers(model, monkeypatch):
    # A proxy that is not up within 5 seconds is killed, which a busy machine takes longer for.
    monkeypatch.setenv("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "120")
    from ray import serve

    sys.path.insert(0, str(ROOT))
    from deploy.ray_serve import build

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.run(build({"model": str(model), "threads": "1", "least": "2", "most": "2"}), route_prefix="/")
        states = serve.status().applications["default"].deployments["cutwork"].replica_states
        assert {str(state): count for state, count in states.items()} == {"RUNNING": 2}

        def ask(index):
            body = {"prompt": "the cat", "max_tokens": 20, "temperature": 0, "ignore_eos": True}
            return httpx.post("http://127.0.0.1:8000/v1/completions", json=body, timeout=60).json()

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(24)))
        assert {answer["choices"][0]["text"] for answer in answers} == {answers[0]["choices"][0]["text"]}
        # Which replica tells of itself is the proxy's choice, at times always the same: the rest went to the other.
        page = httpx.get("http://127.0.0.1:8000/metrics").text
        finished = [float(line.split()[-1]) for line in page.splitlines() if "request_success_total{" in line]
        assert 0 < sum(finished) < 24
    finally:
        serve.shutdown()
        ray.shutdown()
        sys.path.remove(str(ROOT))


def test_workers_answer_a_file(model, tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [
        {"custom_id": str(i), "url": "/v1/completions", "body": {"prompt": f"cat {i}", "max_tokens": 4}}
        for i in range(12)
    ]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    program = [
        sys.executable,
        ROOT / "deploy" / "ray_batch.py",
        model,
        source,
        output,
        "--threads",
        "1",
        "--workers",
        "2",
    ]
    subprocess.run([str(part) for part in program], check=True, capture_output=True)
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    assert {answer["custom_id"] for answer in answers} == {line["custom_id"] for line in lines}
    assert {answer["response"]["status_code"] for answer in answers} == {200}
