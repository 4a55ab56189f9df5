# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Pictures that clients send, and what they hear of one that is too large or none."""

import base64
import binascii
from collections.abc import Callable

from PIL import Image

from .. import pictures
from .errors import ApiError
from .settings import ServerSettings


def check_picture(data: bytes, settings: ServerSettings, param: str) -> Callable[[], Image.Image]:
    """What opens the picture anew each time, as that of `pictures`; an `ApiError` for what is wrong with it."""
    limits = {"max_bytes": settings.max_upload, "max_pixels": settings.max_pixels}
    try:
        return pictures.check_picture(data, f"`{param}`", **limits)
    except pictures.TooManyBytes as error:
        raise too_large(settings, param) from error
    except ValueError as error:
        raise ApiError(400, str(error), param=param) from error


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
    return ApiError(413, str(pictures.TooManyBytes(f"`{param}`", settings.max_upload)), param=param)


__all__ = ["check_picture", "decode_data_url", "too_large"]
