"""The server as replicas under Ray Serve, on one machine or many, as many as requests need.

    pip install '.[serve,ray]'        # in a clone
    serve run deploy.ray_serve:build model=/models/packed threads=4 most=8
    serve run deploy.ray_serve:build models=/models/a,/models/b threads=2 least=2

Arguments: model or models (directories, on every machine), threads per replica (Ray keeps so many CPUs for it), least
and most replicas, requests (how many at a time a replica should have before another starts), context, max_batch, pace
and api_key. Every replica has its own metrics.
"""

from pathlib import Path

from fastapi import FastAPI
from ray import serve
from ray.serve import Application

GRACE = 35.0  # seconds that a replica's running requests get when it is taken away


def build(arguments: dict[str, str]) -> Application:
    """The application for `serve run` and for a Serve config file."""
    given = dict(arguments)
    paths = (given.pop("models", "") or given.pop("model")).split(",")
    threads, least, most = (
        int(given.pop(key, default)) for key, default in (("threads", 2), ("least", 1), ("most", 4))
    )
    requests = float(given.pop("requests", 16))
    context, max_batch = given.pop("context", None), int(given.pop("max_batch", 64))
    pace, key = float(given.pop("pace", 0.25)), given.pop("api_key", None)
    if given:
        raise ValueError(f"unknown arguments: {', '.join(given)}; the known ones are in deploy/ray_serve.py")

    def app() -> FastAPI:
        from cutwork import Model
        from cutwork.serve.http.app import make_app
        from cutwork.serve.limits import Limits

        options = {
            "threads": threads,
            "max_batch": max_batch,
            "max_context": None if context is None else int(context),
            "reorder_weights": None,  # as `cutwork serve` has it: where the loader finds room for it
        }
        models = {Path(path).name: Model.load(path, **options) for path in paths}
        return make_app(models, limits=Limits(pace=pace), keys=[] if key is None else [key])

    deployment = serve.deployment(
        name="cutwork",
        ray_actor_options={"num_cpus": threads},
        autoscaling_config={"min_replicas": least, "max_replicas": most, "target_ongoing_requests": requests},
        max_ongoing_requests=1024,  # the server's own queue refuses sooner
        graceful_shutdown_timeout_s=GRACE,
        health_check_period_s=5,
    )
    return deployment(serve.ingress(app)()).bind()
