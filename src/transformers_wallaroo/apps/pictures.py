# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""PNG files that know how they were made, and pictures of others, which may be too large or none at all."""

import contextlib
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from ..image_processing_wallaroo import BROKEN, to_rgb

KEY = "wallaroo"
# What strangers may send: Pillow has readers that start other programs, or that hardly anybody uses.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
KNOWN = "PNG, JPEG, WebP, GIF or BMP"
MAX_PIXELS = 4096 * 4096
# Can be read only by setting it, which is for all threads: so once.
UMASK = os.umask(0)
os.umask(UMASK)


def save_picture(
    picture: Image.Image, path: str | Path, info: Mapping[str, Any] | None = None, *, replace: bool = True
) -> Path:
    """Writes a PNG with `info` as JSON in its text chunk `wallaroo`, under another name first: there is a whole file or
    none. The folder is made where it is missing. Without `replace` a file that is there already is a
    `FileExistsError`."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"`path` must end in .png, which keeps pictures as they are made, but got {path}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            write_png(picture, file, info)
        os.chmod(temporary, 0o666 & ~UMASK)  # `mkstemp` makes it for its owner alone
        if not replace:
            path.touch(exist_ok=False)  # takes the name, or says that somebody has it
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return path


def write_png(picture: Image.Image, file: IO[bytes], info: Mapping[str, Any] | None = None) -> None:
    """Writes a PNG as `save_picture` does, into a file that is open."""
    chunk = PngInfo()
    if info is not None:
        chunk.add_itxt(KEY, json.dumps(dict(info), ensure_ascii=False))
    picture.save(file, format="PNG", pnginfo=chunk)


def read_picture_info(path: str | Path | IO[bytes]) -> dict[str, Any]:
    """What `save_picture` wrote with a picture; a `ValueError` where there is nothing of the kind."""
    with Image.open(path) as picture:
        picture.load()  # text may stand behind the pixels
        text = getattr(picture, "text", {}).get(KEY)
    try:
        info = json.loads(text) if text is not None else None
    except json.JSONDecodeError:
        info = None
    if not isinstance(info, dict):
        raise ValueError(
            f"{path} does not say how it was made: it has no text chunk {KEY!r}. It was not written by wallaroo, or "
            "another program has saved it since."
        )
    return info


class TooManyBytes(ValueError):
    """The file of a picture, called `name` in the sentence, is larger than allowed."""

    def __init__(self, name: str, max_bytes: int):
        super().__init__(f"{name} is larger than the {max_bytes} bytes that a picture may have.")


def check_picture(
    file: bytes | Path, name: str, *, max_bytes: int, max_pixels: int = MAX_PIXELS
) -> Callable[[], Image.Image]:
    """Returns what opens a stranger's picture anew each time, still undecoded: what waits is the file, not its pixels.

    How large it may be is asked of the file and of its header, before anything is decoded. A `ValueError` says what is
    wrong with it, [`TooManyBytes`] where it is that.

    Args:
        file: what the file holds, or where it lies.
        name: what a sentence calls the picture.
        max_bytes, max_pixels: of the picture.
    """
    if (len(file) if isinstance(file, bytes) else file.stat().st_size) > max_bytes:
        raise TooManyBytes(name, max_bytes)

    def opened() -> Image.Image:
        return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS)

    try:
        with opened() as picture:
            width, height = picture.size
    except Image.DecompressionBombError as error:
        raise ValueError(_too_many(name, "more pixels than Pillow opens", max_pixels)) from error
    except BROKEN as error:
        raise ValueError(f"{name} is no picture that can be read. Send {KNOWN}.") from error
    if width * height > max_pixels:
        raise ValueError(_too_many(name, f"{width} x {height} pixels", max_pixels))
    return opened


def _too_many(name: str, seen: str, max_pixels: int) -> str:
    return f"{name} has {seen}, but a picture may have {max_pixels}. Send it smaller."


def transparent_region(mask: Image.Image, name: str = "mask") -> Callable[[], Image.Image]:
    """The region mask of an OpenAI mask, whose fully transparent pixels say where to edit: returns what opens it anew
    each time, in black and white. In the queue it is a few bytes, not a byte a pixel."""
    try:
        mask = ImageOps.exif_transpose(mask)
        has_alpha = mask.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in mask.info
        # Pillow does not go from "La" to "RGBA" at once.
        mask = (mask.convert("LA") if mask.mode == "La" else mask).convert("RGBA" if has_alpha else "RGB")
    except BROKEN as error:
        raise ValueError(f"`{name}` cannot be decoded, it is truncated or corrupt: {error}.") from error
    region = np.asarray(mask.getchannel("A")) == 0 if has_alpha else np.zeros(1, dtype=bool)
    if not region.any():
        raise ValueError(f"`{name}` must have fully transparent pixels, which say where to edit, but has none.")
    file = io.BytesIO()
    Image.fromarray(region).save(file, format="PNG")
    return lambda: Image.open(io.BytesIO(file.getvalue()))


def open_picture(path: str | Path, name: str = "image") -> Image.Image:
    """The upright RGB picture in a file of one's own, up to the pixels that Pillow opens; a `ValueError` that names the
    argument `name` where there is none."""
    if not Path(path).is_file():
        what = "is a folder" if Path(path).is_dir() else "does not exist"
        raise ValueError(f"`{name}` must be the file of a picture, but {path} {what}.")
    try:
        return to_rgb(Path(path), name)
    except ValueError as error:
        reason = "it is broken, or something else." if "no readable picture" in str(error) else str(error)
        if isinstance(error.__cause__, Image.DecompressionBombError):
            reason = "it has more pixels than Pillow opens. Make it smaller first."
        raise ValueError(f"`{name}` must be the file of a picture, but {path} is not: {reason}") from error


def picture_hash(picture: Image.Image) -> str:
    """SHA-256 of a picture's size and RGB pixels, whatever file they come from."""
    picture = to_rgb(picture)
    return hashlib.sha256(f"{picture.size}".encode() + np.asarray(picture).tobytes()).hexdigest()


__all__ = [
    "KNOWN",
    "MAX_PIXELS",
    "TooManyBytes",
    "check_picture",
    "open_picture",
    "picture_hash",
    "read_picture_info",
    "save_picture",
    "transparent_region",
    "write_png",
]
