# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Pictures that clients send: limits of bytes and pixels, before anything is decoded."""

import base64
import struct
import zlib

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the server needs the extra `serve`")

from transformers_wallaroo.apps.server.errors import ApiError
from transformers_wallaroo.apps.server.settings import ServerSettings
from transformers_wallaroo.apps.server.uploads import check_picture, decode_data_url

from live import data_url, png

SETTINGS = ServerSettings(max_upload=20_000, max_pixels=100 * 100)
PICTURE = Image.effect_noise((100, 100), 80).convert("RGB")


def refused(call, *arguments) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call(*arguments)
    return caught.value


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises that many pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_known_formats_open_anew_each_time(format):
    data = png(PICTURE.crop((0, 0, 60, 40)), format)
    opened = check_picture(data, SETTINGS, "image")
    first, second = opened(), opened()
    assert first is not second and first.size == second.size == (60, 40)
    first.load()
    assert first.tobytes() == Image.open(opened().fp).tobytes()


def test_what_is_checked_is_not_decoded(monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("decoded"))
    assert check_picture(bomb(100, 100), SETTINGS, "image")().size == (100, 100)


def test_too_many_pixels_by_the_header():
    error = refused(check_picture, bomb(101, 100), SETTINGS, "image")
    assert error.status_code == 400 and error.param == "image"
    assert error.detail == "`image` has 101 x 100 pixels, but a picture may have 10000. Send it smaller."


def test_bombs_that_pillow_does_not_open():
    error = refused(check_picture, bomb(50_000, 50_000), SETTINGS, "image")
    assert error.status_code == 400
    assert error.detail == ("`image` has more pixels than Pillow opens, but a picture may have 10000. Send it smaller.")


def test_too_many_bytes():
    error = refused(check_picture, b"x" * 20_001, SETTINGS, "image")
    assert error.status_code == 413
    assert error.detail == "`image` is larger than the 20000 bytes that a picture may have."


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"%PDF-1.4", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG\r\n"]
)
def test_no_picture(data):
    error = refused(check_picture, data, SETTINGS, "image")
    assert (
        error.status_code == 400 and "is no picture that can be read. Send PNG, JPEG, WebP, GIF or BMP" in error.detail
    )


def test_formats_whose_readers_do_more_are_not_opened():
    """Pillow has readers that start other programs (EPS) or are rarely used; none of them is asked."""
    for format in ("EPS", "TIFF", "ICO"):
        assert (
            "no picture that can be read"
            in refused(check_picture, png(PICTURE.crop((0, 0, 8, 8)), format), SETTINGS, "image").detail
        )


def test_data_urls():
    data = png(PICTURE.crop((0, 0, 8, 8)))
    assert decode_data_url(data_url(PICTURE.crop((0, 0, 8, 8))), SETTINGS, "image") == data


@pytest.mark.parametrize(
    ("url", "status", "words"),
    [
        ("data:image/png,abc", 400, "must be a data URL with base64"),
        ("/etc/passwd", 400, "must be a data URL with base64"),
        ("file:///etc/passwd", 400, "must be a data URL with base64"),
        ("data:image/png;base64,a*b", 400, "holds base64 that cannot be read"),
        ("data:image/png;base64,ü", 400, "holds base64 that cannot be read"),
        ("data:image/png;base64," + base64.b64encode(b"x" * 20_010).decode(), 413, "larger than the 20000 bytes"),
    ],
)
def test_bad_data_urls(url, status, words):
    error = refused(decode_data_url, url, SETTINGS, "image")
    assert error.status_code == status and words in error.detail
