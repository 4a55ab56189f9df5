# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The server on several machines or GPUs, by Ray Serve: replicas of the same app behind one address.

    pip install 'transformers-wallaroo[serve]' 'ray[serve]'
    serve run --app-dir examples/serving ray_serve:deploy checkpoint=checkpoints/wallaroo-7b replicas=4 gpus=1

Each replica has its own model, queue and batches; Ray sends a request to one of those that have few. docs/scaling.md
says more. The key is taken from the environment variable WALLAROO_API_KEY of this command.
"""

import os
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application

KNOWN = ("checkpoint", "replicas", "gpus", "cpus", "max_batch", "max_queue", "name")


def deploy(arguments: dict[str, Any]) -> Application:
    """The application, from the `key=value` of `serve run` or the `args` of a config file; all may be left out.

    Args:
        arguments: `checkpoint` and `name` as for `wallaroo serve`, `max_batch` and `max_queue` of a replica, how many
            `replicas`, and the `gpus` and `cpus` of each.
    """
    unknown = sorted(set(arguments) - set(KNOWN))
    if unknown:
        raise ValueError(f"The arguments may be {', '.join(KNOWN)}, but got {', '.join(unknown)}.")
    key = os.environ.get("WALLAROO_API_KEY")
    limits = {name: int(arguments[name]) for name in ("max_batch", "max_queue") if name in arguments}
    checkpoint, name = arguments.get("checkpoint"), arguments.get("name")
    gpus, cpus = float(arguments.get("gpus", 0)), float(arguments.get("cpus", 1))

    def build() -> FastAPI:
        """Runs in each replica, where the model is loaded."""
        from transformers_wallaroo.apps import Engine
        from transformers_wallaroo.apps.server import ServerSettings, create_app

        engine = Engine.load(checkpoint, device="cuda" if gpus else "cpu")
        return create_app(engine, ServerSettings(api_key=key, name=name, **limits))

    deployment = serve.deployment(serve.ingress(build)()).options(
        name="wallaroo",
        num_replicas=int(arguments.get("replicas", 1)),
        ray_actor_options={"num_gpus": gpus, "num_cpus": cpus},
        # Beyond this Ray keeps requests itself; the replica is to see them, and to refuse them by 429.
        max_ongoing_requests=256,
        graceful_shutdown_timeout_s=60,
    )
    return deployment.bind()
