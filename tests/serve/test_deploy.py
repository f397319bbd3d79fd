"""What is shipped for operation fits the server."""

import json
import re
from pathlib import Path

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_the_dashboard_asks_only_for_metrics_there_are(client):
    client.post("/v1/completions", json={"prompt": "the", "max_tokens": 3})
    exposed = set(re.findall(r"^(cutwork:\w+?)(?:_bucket|_sum|_count)?\{", client.get("/metrics").text, re.MULTILINE))
    exposed |= set(re.findall(r"^# TYPE (cutwork:\w+)", client.get("/metrics").text, re.MULTILINE))
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    asked = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            asked |= set(re.findall(r"cutwork:\w+", target["expr"]))
    assert len(asked) > 10
    assert {name.removesuffix("_bucket") for name in asked} <= exposed
