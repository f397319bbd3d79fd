"""What is shipped for operation fits the server."""

import json
import re
import runpy
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import yaml

from cutwork import Model

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


def test_the_image_is_built_from_what_is_pinned():
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert bases and all(re.fullmatch(r"[\w.:/-]+@sha256:[0-9a-f]{64}", base) for base in bases)
    installs = [line for line in lines if "pip install" in line]
    assert installs and all("--require-hashes" in line or "--no-index" in line for line in installs)


@pytest.mark.parametrize("lock", ["requirements.lock", "build.lock", "development.lock"])
def test_every_package_of_a_lock_has_its_version_and_hashes_and_comes_from_anywhere(lock):
    text = (DEPLOY / lock).read_text()
    packages = re.split(r"\n(?=\S)", text)
    pinned = [re.match(r"([\w.-]+)==\S+", package) for package in packages]
    assert len(packages) > 5 and all(pinned) and all("--hash=sha256:" in package for package in packages)
    assert "//" not in text and not {"torch", "triton"} & {match[1] for match in pinned}


def test_the_image_is_built_without_what_the_repository_ignores():
    patterns = (DEPLOY.parent / ".dockerignore").read_text().splitlines()
    assert patterns[1] == "*"
    assert not {"!.git", "!.venv", "!."} & set(patterns)


def test_kubernetes_gives_the_server_nothing_it_does_not_need():
    documents = {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["securityContext"]["runAsNonRoot"] is True
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert "@sha256:" in container["image"]
    assert any(entry["name"] == "CUTWORK_API_KEY" for entry in container["env"])
    assert all("sizeLimit" in volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume)
    assert documents["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == pod_labels(documents["Deployment"])
    assert set(documents["NetworkPolicy"]["spec"]["policyTypes"]) == {"Ingress", "Egress"}


def pod_labels(deployment):
    return deployment["spec"]["template"]["metadata"]["labels"]


@pytest.mark.parametrize("script", ["ray_serve", "ray_batch"])
def test_with_ray_weights_are_reordered_as_the_commands_do(script, monkeypatch):
    ray, loaded = MagicMock(), []
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.serve", ray.serve)
    monkeypatch.setattr(Model, "load", lambda path, **options: loaded.append(options) or MagicMock())
    monkeypatch.setattr("cutwork.serve.http.app.make_app", MagicMock())
    module = runpy.run_path(str(DEPLOY / f"{script}.py"))
    if script == "ray_batch":
        module["Answers"]("model", 2, 4)
    else:
        module["build"]({"model": "model"})
        [app] = ray.serve.ingress.call_args.args  # which a replica calls
        app()
    assert [options["reorder_weights"] for options in loaded] == [None]
