# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Pictures that clients send: how large they may be is asked of their header, before anything is decoded."""

import base64
import binascii
import io
from collections.abc import Callable

from PIL import Image

from .errors import ApiError
from .settings import ServerSettings

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
BROKEN = (OSError, SyntaxError, RuntimeError, ValueError)  # what Pillow raises for broken files: its decoders differ
KNOWN = "PNG, JPEG, WebP, GIF or BMP"


def check_picture(data: bytes, settings: ServerSettings, param: str) -> Callable[[], Image.Image]:
    """Returns what opens the picture anew each time, still undecoded: what waits in the queue is the file, not its
    pixels."""
    if len(data) > settings.max_upload:
        raise too_large(settings, param)

    def opened() -> Image.Image:
        return Image.open(io.BytesIO(data), formats=FORMATS)

    try:
        width, height = opened().size
    except Image.DecompressionBombError as error:
        raise _too_many(settings, param, "more pixels than Pillow opens") from error
    except BROKEN as error:
        raise ApiError(400, f"`{param}` is no picture that can be read. Send {KNOWN}.", param=param) from error
    if width * height > settings.max_pixels:
        raise _too_many(settings, param, f"{width} x {height} pixels")
    return opened


def decode_data_url(url: str, settings: ServerSettings, param: str) -> bytes:
    """The bytes of `data:image/png;base64,...`."""
    head, comma, encoded = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ApiError(400, f"`{param}` must be a data URL with base64: `data:image/png;base64,...`.", param=param)
    if len(encoded) > settings.max_upload * 4 / 3 + 4:
        raise too_large(settings, param)
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"`{param}` holds base64 that cannot be read.", param=param) from error


def too_large(settings: ServerSettings, param: str) -> ApiError:
    return ApiError(
        413, f"`{param}` is larger than the {settings.max_upload} bytes that a picture may have.", param=param
    )


def _too_many(settings: ServerSettings, param: str, seen: str) -> ApiError:
    return ApiError(
        400, f"`{param}` has {seen}, but a picture may have {settings.max_pixels}. Send it smaller.", param=param
    )


__all__ = ["check_picture", "decode_data_url", "too_large"]
