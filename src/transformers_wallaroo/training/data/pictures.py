# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Pictures of samples: found by the path that a row gives, opened, judged by their size, decoded."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ...image_processing_wallaroo import BROKEN, MAX_ASPECT_RATIO, to_rgb
from .drops import DroppedSample
from .rows import find_files
from .tars import TAR_ENDINGS, Member, TarFiles

# Longest text that may be a path; what is longer is base64.
LONGEST_PATH = 1024


class PictureFinder:
    """Finds the pictures that rows name by path.

    Args:
        images: folders, tars, folders of tars, or a list of these: where the paths of the rows start. A folder is
            looked into before the tars in it.
    """

    def __init__(self, images: Any = None):
        self.folders: list[Path] = []
        tars: list[Path] = []
        for entry in images if isinstance(images, (list, tuple)) else [] if images is None else [images]:
            path = Path(entry).expanduser()
            if path.is_dir():
                self.folders.append(path)
                tars += sorted(path.glob("*.tar"))
            else:
                tars += find_files(entry, TAR_ENDINGS, "images")
        self.tars = TarFiles(tars) if tars else None

    def find(self, picture: Any, place: str) -> Any:
        """What `open_picture` takes, of what a row holds: a path, bytes, or both as `datasets` has it."""
        if isinstance(picture, Mapping) and ("bytes" in picture or "path" in picture):
            picture = picture["bytes"] if picture.get("bytes") is not None else picture.get("path")
        if isinstance(picture, (bytes, Image.Image)):
            return picture
        if not isinstance(picture, str) or not picture:
            raise DroppedSample("mismatch", f"{place} has no picture where one is expected, but {str(picture)[:60]!r}.")
        # A path that begins with a slash is meant below the folders too, unless it is there as it is.
        inner = picture.lstrip("/")
        for folder in self.folders:
            # Not `Path.exists`, which raises where a name is too long for a path.
            if os.path.exists(folder / inner):
                return folder / inner
        member = self.tars.find(inner) if self.tars is not None else None
        if member is not None:
            return member
        if os.path.exists(picture):
            return Path(picture)
        where = [*map(str, self.folders), *([f"{len(self.tars.files)} tars"] if self.tars is not None else [])]
        raise DroppedSample(
            "missing_file", f"{place} names {picture!r}, which is not in {', '.join(where) or 'place'}."
        )


def open_picture(picture: Any, place: str) -> Image.Image:
    """A picture, opened but not decoded, so that its size is known cheaply; `DroppedSample` where it cannot be."""
    source = picture
    if isinstance(source, str) and _is_path(source):
        source = Path(source)
    if isinstance(source, Path) and not source.is_file():
        raise DroppedSample("missing_file", f"{place} names {str(picture)!r}, which is not there.")
    try:
        opened: Image.Image
        if isinstance(source, Member):
            opened = Image.open(io.BytesIO(source.read()))
        elif isinstance(source, Path):
            opened = Image.open(source)
        elif isinstance(source, (bytes, bytearray)):
            opened = Image.open(io.BytesIO(source))
        else:
            opened = source if isinstance(source, Image.Image) else to_rgb(source, "picture")
    except BROKEN as error:
        shown = f" {str(picture)[:120]!r}" if not isinstance(picture, bytes) else ""
        raise DroppedSample("unreadable", f"{place}: the picture{shown} cannot be read ({error}).") from error
    longest, shortest = max(opened.size), min(opened.size)
    if shortest == 0 or longest > MAX_ASPECT_RATIO * shortest:
        raise DroppedSample(
            "bad_ratio",
            f"{place} has a picture of {opened.width} x {opened.height} pixels, but the ratio of its sides may be at "
            f"most {MAX_ASPECT_RATIO}.",
        )
    return opened


def _is_path(text: str) -> bool:
    """Whether a text means a file, rather than a URL or base64."""
    return len(text) <= LONGEST_PATH and (os.path.isfile(text) or "." in Path(text).name) and "://" not in text


def decode_picture(opened: Image.Image, place: str) -> Image.Image:
    """The upright RGB picture, whatever its mode; `DroppedSample` where it is broken."""
    try:
        return to_rgb(opened, "picture")
    except BROKEN as error:
        raise DroppedSample("unreadable", f"{place}: {error}") from error


__all__ = ["PictureFinder", "decode_picture", "open_picture"]
