# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Frames of a video, evenly spread, as pictures."""

import io
from pathlib import Path
from typing import Any

from PIL import Image, ImageSequence

from ...image_processing_wallaroo import BROKEN
from .drops import DroppedSample
from .tars import PICTURES, Member

ANIMATIONS = (".gif", ".webp", ".png", ".apng")


def read_frames(video: Any, count: int, place: str) -> list[Any]:
    """At most `count` frames, evenly spread: of a folder of frames, of an animated picture, or of a video file, which
    PyAV decodes."""
    name = Path(video.name if isinstance(video, Member) else str(video))
    try:
        if isinstance(video, Path) and video.is_dir():
            frames = sorted(file for file in video.iterdir() if file.suffix.lower().removeprefix(".") in PICTURES)
            chosen: list[Any] = [frames[at] for at in _spread(len(frames), count)]
        elif name.suffix.lower() in ANIMATIONS:
            opened = Image.open(io.BytesIO(video.read()) if isinstance(video, Member) else video)
            wanted = set(_spread(getattr(opened, "n_frames", 1), count))
            chosen = [frame.convert("RGB") for at, frame in enumerate(ImageSequence.Iterator(opened)) if at in wanted]
        else:
            chosen = _decoded(io.BytesIO(video.read()) if isinstance(video, Member) else str(video), count)
    except BROKEN as error:
        raise DroppedSample("unreadable", f"{place}: the video {str(video)!r} cannot be read ({error}).") from error
    if not chosen:
        raise DroppedSample("unreadable", f"{place}: the video {str(video)!r} has no frames.")
    return chosen


def _spread(frames: int, count: int) -> list[int]:
    """The frames in the middle of `count` equal parts of a video; all where there are no more than that."""
    if frames <= count:
        return list(range(frames))
    return [int((part + 0.5) * frames / count) for part in range(count)]


def _decoded(file: Any, count: int) -> list[Image.Image]:
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "Videos need PyAV: `pip install av`. Or put the frames of each video into a folder of the video's name."
        ) from error
    try:
        with av.open(file) as container:
            if not container.streams.video:
                raise ValueError("it has no pictures")
            total = container.streams.video[0].frames or sum(1 for _ in container.decode(video=0))
            container.seek(0)
            wanted = set(_spread(total, count))
            frames = (frame for at, frame in enumerate(container.decode(video=0)) if at in wanted)
            return [Image.fromarray(frame.to_ndarray(format="rgb24")) for frame in frames]
    except av.error.FFmpegError as error:
        raise OSError(str(error)) from error


__all__ = ["read_frames"]
