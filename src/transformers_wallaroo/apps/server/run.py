# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The server as a process: uvicorn, and an end in which nobody's request is torn off."""

import asyncio
import ipaddress
import socket

import uvicorn
from transformers.utils import logging

from ..engine import Engine
from .app import create_app
from .service import Service
from .settings import ServerSettings

logger = logging.get_logger(__name__)
CLOSING_SECONDS = 5  # in which what was stopped gets its answer out


class Server(uvicorn.Server):
    """At its end takes nothing new, gives what runs `grace` seconds, and then answers the rest by 503."""

    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        scheduler = self._service.scheduler
        scheduler.refuse()
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._service.settings.grace, loop.run_in_executor, None, scheduler.stop)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()


def make_server(
    engine: Engine, settings: ServerSettings, *, host: str = "127.0.0.1", port: int = 8000, log_level: str = "info"
) -> Server:
    """A server that listens when its `run()` is called; port 0 takes a free one."""
    app = create_app(engine, settings)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level=log_level,
        ws="none",
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=int(settings.grace + CLOSING_SECONDS),
    )
    return Server(config, app.state.service)


def is_local(host: str) -> bool:
    """Whether only this machine reaches a server there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


__all__ = ["Server", "is_local", "make_server"]
