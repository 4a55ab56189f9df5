# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What a server allows: its limits, each with the sentence that a wrong value ends in."""

from dataclasses import dataclass

MEGABYTE = 10**6


@dataclass(frozen=True)
class ServerSettings:
    """Limits and manners of a server.

    Attributes:
        name: what clients call the checkpoint in `model`; by default the engine's name.
        api_key: what clients must send as `Authorization: Bearer ...`; `None` lets everybody in.
        max_batch: pictures that are made at once.
        batch_wait: seconds that a picture waits for others to go with it.
        max_queue: pictures and answers that may wait; one more is refused by 429.
        max_requests: requests that are served at once, those in the queue and those being read included.
        timeout: seconds from the arrival of a request to its whole answer; beyond, 504.
        body_timeout: seconds in which a request must have come whole; beyond, 408.
        grace: seconds that running requests get at the end.
        max_images: pictures of one request (`n`).
        max_body: bytes of a whole request.
        max_upload: bytes of one picture that is sent.
        max_pixels: pixels of one picture that is sent, known from its header before it is decoded.
        max_pictures: pictures of one conversation.
        max_new_tokens: tokens of one answer.
        allow_urls: whether pictures may be named by http and https URLs, which the server then fetches.
    """

    name: str | None = None
    api_key: str | None = None
    max_batch: int = 8
    batch_wait: float = 0.02
    max_queue: int = 64
    max_requests: int = 96
    timeout: float = 300.0
    body_timeout: float = 60.0
    grace: float = 30.0
    max_images: int = 10
    max_body: int = 24 * MEGABYTE
    max_upload: int = 10 * MEGABYTE
    max_pixels: int = 4096 * 4096
    max_pictures: int = 8
    max_new_tokens: int = 4096
    allow_urls: bool = False

    def __post_init__(self):
        for name in (
            "max_batch",
            "max_queue",
            "max_requests",
            "timeout",
            "body_timeout",
            "max_images",
            "max_body",
            "max_upload",
            "max_pixels",
            "max_pictures",
            "max_new_tokens",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be more than 0, but got {getattr(self, name)!r}.")
        for name in ("batch_wait", "grace"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be at least 0 seconds, but got {getattr(self, name)!r}.")
        if self.max_images > self.max_queue:
            raise ValueError(
                f"`max_queue` must hold a whole request, `max_images` of {self.max_images}, but got {self.max_queue}."
            )
        if self.api_key is not None and (not self.api_key.isascii() or not self.api_key.strip()):
            raise ValueError("`api_key` must be some ASCII characters, which an HTTP header can carry.")


__all__ = ["ServerSettings"]
