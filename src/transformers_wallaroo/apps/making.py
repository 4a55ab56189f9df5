# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Many pictures, batch by batch: a bar with the time that is left, and a look at the rows that are finished."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from transformers.utils import logging

from .engine import Engine, ImageJob, MadeImage
from .pictures import read_picture_info, save_picture

GAP = 4  # pixels between two pictures of a preview
PAPER = (128, 128, 128)


def make_in_batches(
    engine: Engine,
    jobs: Sequence[ImageJob],
    *,
    batch_size: int = 4,
    show_progress: bool | None = None,
    preview: Path | None = None,
    stop: Callable[[], bool] | None = None,
) -> Iterator[tuple[int, MadeImage]]:
    """The pictures of some jobs with their indices, as they are finished.

    Args:
        batch_size: pictures that are made at once, or fewer where the next one has other sampling settings.
        show_progress: a bar with the time that is left; by default where stderr is a terminal.
        preview: a PNG file that is written anew with each row that is finished, see `Preview`.
        stop: as for `Engine.make`.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, but got {batch_size}.")
    facts = [(engine.size_of(job), dict(job.sampling)) for job in jobs]
    sizes = [size for size, _ in facts]
    batches: list[range] = []
    for index, (_, sampling) in enumerate(facts):
        if batches and len(batches[-1]) < batch_size and facts[index - 1][1] == sampling:
            batches[-1] = range(batches[-1].start, index + 1)
        else:
            batches.append(range(index, index + 1))
    codes = sum(max(_cells(sizes[index], engine.cell) for index in batch) for batch in batches)
    disable = None if show_progress is None else not show_progress
    title = f"{len(jobs)} picture{'s' * (len(jobs) != 1)}"
    with logging.tqdm(total=codes, desc=title, unit="code", disable=disable, leave=False) as bar:
        for batch in batches:
            part = list(jobs[batch.start : batch.stop])
            options: dict[str, Any] = {"stop": stop, "on_code": lambda *_: bar.update(1)}
            if preview is not None:
                options["on_rows"] = Preview(preview, sizes[batch.start : batch.stop])
            made = engine.make(part, **options)
            if preview is not None:
                options["on_rows"]([one.picture for one in made])
            yield from zip(batch, made, strict=True)


def _cells(size: tuple[int, int], cell: int) -> int:
    return (size[0] // cell) * (size[1] // cell)


class Preview:
    """The pictures of a batch side by side in one file, as far as they are. It is always a whole file, so that a
    viewer may read it at any time.

    Args:
        path: file that ends in .png.
        sizes: height and width of each picture in pixels.
    """

    def __init__(self, path: Path, sizes: Sequence[tuple[int, int]]):
        self.path, self.sizes = path, list(sizes)

    def __call__(self, pictures: Sequence[Image.Image | None]) -> None:
        height = max(height for height, _ in self.sizes)
        sheet = Image.new("RGB", (sum(width + GAP for _, width in self.sizes) - GAP, height), PAPER)
        left = 0
        for picture, (own_height, width) in zip(pictures, self.sizes, strict=True):
            if picture is not None:
                # An edit that came back in its source's size keeps to its place.
                fits = picture.size == (width, own_height)
                sheet.paste(picture if fits else picture.resize((width, own_height)), (left, 0))
            left += width + GAP
        save_picture(sheet, self.path, {"preview": True})


def check_preview(path: Path, *, force: bool = False) -> Path:
    """The path, checked to be one that a preview may be written to: new, or an earlier preview."""
    if path.suffix.lower() != ".png" or path.is_dir():
        raise ValueError(f"`--preview` must be a file that ends in .png, but got {path}.")
    if path.exists() and not force:
        try:
            earlier = read_picture_info(path).get("preview") is True
        except (ValueError, OSError):
            earlier = False
        if not earlier:
            raise ValueError(f"`--preview`: {path} is there already and is no preview. Take another name, or --force.")
    return path


__all__ = ["Preview", "check_preview", "make_in_batches"]
