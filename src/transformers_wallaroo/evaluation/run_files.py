# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The files of a run: pictures that are whole or not there, and `run.json`."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ..image_processing_wallaroo import BROKEN

# In the folder of a run: what the scorer reads stands in a folder of its own, since one of the scorers takes every file
# that it finds for a picture.
PICTURES, RUN, FAILURES, PARTIAL = "images", "run.json", "failures.json", ".partial"
CHUNK = 1 << 24  # bytes


def write_whole(path: Path, content: bytes | str, *, partial: Path) -> None:
    """Writes a file that appears whole, or not at all where the process or the machine stops.

    Args:
        partial: folder for the unfinished file, on the same disk.
    """
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.mkdir(parents=True, exist_ok=True)
    temporary = partial / f"{os.environ.get('RANK', 0)}-{os.getpid()}-{path.name}"
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_whole(path, text, partial=path.parent / PARTIAL)


def remove_partial(folder: Path) -> None:
    """Removes what a run that was stopped has begun to write."""
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels of a picture that is read to its end; a `ValueError` says why it cannot be."""
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.size
    except BROKEN as error:
        raise ValueError(f"{path} is no readable picture: {error}.") from error


def is_readable(path: Path) -> bool:
    try:
        return path.is_file() and bool(picture_size(path))
    except ValueError:
        return False


def picture_hash(picture: Image.Image) -> str:
    """SHA-256 of a picture's pixels and size."""
    return hashlib.sha256(picture.tobytes() + repr(picture.size).encode()).hexdigest()


def read_run(folder: Path) -> dict[str, Any] | None:
    """What `run.json` says; `None` where there is none."""
    path = folder / RUN
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): it is not as a run wrote it. Take another folder.") from error


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def changes_between(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, in words."""
    changed = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    return [f"`{name}` was {before.get(name)!r} and is {now.get(name)!r}" for name in changed]


__all__ = [
    "FAILURES",
    "PARTIAL",
    "PICTURES",
    "RUN",
    "changes_between",
    "file_hash",
    "is_readable",
    "picture_hash",
    "picture_size",
    "read_run",
    "remove_partial",
    "write_json",
    "write_whole",
]
