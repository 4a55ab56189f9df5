# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""A server in a thread, on a free port, and engines that wait for the test."""

import base64
import io
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
from PIL import Image

from transformers_wallaroo.apps import Engine, Stopped
from transformers_wallaroo.apps.server import Server, ServerSettings, make_server

SECONDS = 120  # that anything may take on a busy machine


@dataclass
class Live:
    """A running server and its clients."""

    server: Server
    url: str

    @property
    def service(self) -> Any:
        return self.server.config.app.state.service

    def client(self, api_key: str = "none", **options: Any) -> openai.OpenAI:
        """OpenAI's client, which tries nothing twice."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, timeout=SECONDS, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=SECONDS, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, timeout=SECONDS, **options)


@contextmanager
def live(engine: Engine, **settings: Any):
    server = make_server(engine, ServerSettings(**settings), port=0, log_level="warning")
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Live(server, f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join(SECONDS)
        assert not thread.is_alive()


def until(condition) -> None:
    """Waits for what another thread does."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class HeldEngine(Engine):
    """Makes and answers nothing before `go` is set; notes the batches that it was asked for."""

    def __init__(self, engine: Engine):
        super().__init__(engine.model, engine.processor, name=engine.name, path=engine.path)
        self.go = threading.Event()
        self.batches: list[list[int]] = []
        self.stopped = 0

    def _hold(self, stop) -> None:
        while not self.go.wait(0.01):
            if stop is not None and stop():
                self.stopped += 1
                raise Stopped

    def make(self, jobs, *, stop=None, **options):
        self.batches.append([job.seed for job in jobs])
        self._hold(stop)
        return super().make(jobs, stop=stop, **options)

    def stream_answer(self, messages, *, stop=None, **options):
        self.batches.append([-1])
        self._hold(stop)
        yield from super().stream_answer(messages, stop=stop, **options)


def png(picture: Image.Image, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture.save(file, format=format)
    return file.getvalue()


def data_url(picture: Image.Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(picture)).decode()}"


def in_thread(call, *arguments, **options) -> tuple[threading.Thread, list[Any]]:
    """Runs a call beside the test; the list gets what it returns or raises."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(call(*arguments, **options))
        except Exception as error:  # noqa: BLE001 (the test looks at it)
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, results
