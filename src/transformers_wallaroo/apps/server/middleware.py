# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What every request passes before its route: the count, the key, the number of requests, and the size of the body."""

import hashlib
import hmac
import time
from typing import Any

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import CLIENT_LEFT, ApiError
from .service import Service, too_busy
from .settings import ServerSettings

OPEN = ("/health", "/ready")  # without a key: who watches the process has none
COUNTED = ("/v1/chat/completions", "/v1/images/generations", "/v1/images/edits", "/v1/models", "/metrics", *OPEN)


class Gate:
    """Refuses what is not to be read at all, and reads no more than is allowed."""

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.service = app, service
        key = service.settings.api_key
        # Digests are of one length, so that the time of the comparison tells nothing of the key's.
        self._digest = None if key is None else hashlib.sha256(key.strip().encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in COUNTED else "other"
        started, status = time.monotonic(), CLIENT_LEFT

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.service.open_requests += 1
        try:
            await self._pass(scope, receive, watch)
        except Exception:
            status = 500  # which is said outside of here
            raise
        finally:
            self.service.open_requests -= 1
            self.service.metrics.requests.labels(path, str(status)).inc()
            self.service.metrics.seconds.labels(path).observe(time.monotonic() - started)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        settings = self.service.settings
        headers = dict(scope["headers"])
        try:
            if scope["path"] not in OPEN:
                self._check_key(headers.get(b"authorization", b""))
            if scope["method"] == "POST" and self.service.open_requests > settings.max_requests:
                raise too_busy(1)
            length = headers.get(b"content-length", b"0")
            if length.isdigit() and int(length) > settings.max_body:
                raise _too_large(settings)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        await self.app(scope, _Body(receive, settings), send)

    def _check_key(self, header: bytes) -> None:
        if self._digest is None:
            return
        kind, _, key = header.partition(b" ")
        given = hashlib.sha256(key.strip()).digest()
        if not hmac.compare_digest(given, self._digest) or kind.lower() != b"bearer":
            raise ApiError(
                401,
                "The API key is missing or wrong. Send it as `Authorization: Bearer KEY`.",
                headers={"WWW-Authenticate": "Bearer"},
            )


def _too_large(settings: ServerSettings) -> ApiError:
    return ApiError(413, f"The request is larger than the {settings.max_body} bytes that are allowed.")


class _Body:
    """Hands the body on while it is within its size and its time."""

    def __init__(self, receive: Receive, settings: ServerSettings):
        self._receive, self._settings = receive, settings
        self._size, self._whole = 0, False
        self._deadline = anyio.current_time() + settings.body_timeout

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        try:
            with anyio.fail_after(self._deadline - anyio.current_time()):
                message: dict[str, Any] = dict(await self._receive())
        except TimeoutError:
            raise ApiError(
                408, f"The request had not come whole after {self._settings.body_timeout:g} seconds."
            ) from None
        self._size += len(message.get("body", b""))
        if self._size > self._settings.max_body:
            raise _too_large(self._settings)
        self._whole = not message.get("more_body", False)
        return message


__all__ = ["Gate"]
