# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""PNG files that know how they were made."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..image_processing_wallaroo import to_rgb

KEY = "wallaroo"
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


def open_picture(path: str | Path, name: str = "image") -> Image.Image:
    """The upright RGB picture in a file; a `ValueError` that names the argument `name` where there is none."""
    if not Path(path).is_file():
        what = "is a folder" if Path(path).is_dir() else "does not exist"
        raise ValueError(f"`{name}` must be the file of a picture, but {path} {what}.")
    try:
        return to_rgb(Path(path), name)
    except ValueError as error:
        reason = "it is broken, or something else." if "no readable picture" in str(error) else str(error)
        raise ValueError(f"`{name}` must be the file of a picture, but {path} is not: {reason}") from error


def picture_hash(picture: Image.Image) -> str:
    """SHA-256 of a picture's size and RGB pixels, whatever file they come from."""
    picture = to_rgb(picture)
    return hashlib.sha256(f"{picture.size}".encode() + np.asarray(picture).tobytes()).hexdigest()


__all__ = ["open_picture", "picture_hash", "read_picture_info", "save_picture", "write_png"]
