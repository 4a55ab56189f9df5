# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The server as an ASGI app, for uvicorn, Ray Serve, or a test."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from ... import __version__
from ..engine import Engine
from . import chat, errors, images
from .errors import ApiError
from .middleware import Gate
from .service import Service, going_down
from .settings import ServerSettings


def create_app(engine: Engine, settings: ServerSettings | None = None) -> FastAPI:
    """An app that serves one engine; `app.state.service` has its queue and its counters."""
    service = Service(engine, settings or ServerSettings())

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        service.scheduler.start()
        yield
        await anyio.to_thread.run_sync(service.scheduler.stop)

    app = FastAPI(title="Wallaroo", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.state.service = service
    errors.install(app)
    app.include_router(chat.router)
    app.include_router(images.router)
    _add_about(app, service)
    app.add_middleware(Gate, service=service)
    return app


def _add_about(app: FastAPI, service: Service) -> None:
    """What tells of the server itself."""
    model = {"id": service.name, "object": "model", "created": int(time.time()), "owned_by": "wallaroo"}

    @app.get("/v1/models", summary="The one model of this server")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name:path}", summary="The model by its name")
    async def one_model(name: str) -> dict[str, Any]:
        service.check_model(name)
        return model

    @app.get("/health", summary="Whether the process is of use at all; if not, start it anew")
    async def health() -> dict[str, str]:
        if not service.scheduler.alive:
            raise ApiError(503, "The thread of the model has ended.")
        return {"status": "ok"}

    @app.get("/ready", summary="Whether new requests are taken; if not, send them elsewhere")
    async def ready() -> dict[str, str]:
        if service.scheduler.closing:
            raise going_down()
        return {"status": "ready"}

    @app.get("/metrics", summary="Counters for Prometheus")
    async def metrics(_: Request) -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


__all__ = ["create_app"]
