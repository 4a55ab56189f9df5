# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""How much of a picture survives a VQ tokenizer, and how far one folder of pictures is from another."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.utils import logging

from ..embedded import check_path, tiny_path, usable_device, versions
from ..image_processing_wallaroo import WallarooImageProcessor, to_rgb
from ..modeling_wallaroo_vq import WallarooVQModel
from ..shapes.world import CELL, render
from ..training.encoding import load_vq
from ..training.sources import PICTURE_ENDINGS
from ..training.vq_data import VQCollator
from ..training.vq_report import codes_report, report_scenes, to_bytes
from .distances import Distances, Extractor, Inception, missing_libraries
from .picture_metrics import psnr, ssim
from .run_files import checkpoint_hash

SHAPES, SHAPES_SEED, SHAPES_PICTURES = "shapes", 1_000_003, 200
WAITING = 8  # batches of pictures that wait for others of their size


def pictures_in(folder: str | Path) -> list[Path]:
    """The pictures in a folder and in the folders in it, by name."""
    found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in PICTURE_ENDINGS)
    if not found:
        raise ValueError(f"There are no pictures ({', '.join(PICTURE_ENDINGS)}) in {folder}.")
    return found


def readable(files: Iterable[Any], unreadable: list[dict[str, str]]) -> Iterator[Image.Image]:
    """The pictures as RGB; files that cannot be read are added to `unreadable`, each with its `path` and `error`."""
    for file in files:
        try:
            picture = to_rgb(file, name=str(file))
        except ValueError as error:
            unreadable.append({"path": str(file), "error": str(error)})
            continue
        yield picture


def _check_some(count: int, unreadable: Sequence[dict[str, str]], folder: str | Path) -> None:
    if unreadable and count == len(unreadable):
        raise ValueError(f"None of the {count} pictures in {folder} can be read: {unreadable[0]['error']}")


def evaluate_vq(
    checkpoint: str | Path | None = None,
    pictures: str | Path = SHAPES,
    *,
    size: tuple[int, int] | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    device: str | None = None,
    weights: str | Path | None = None,
    extractor: Extractor | None = None,
    show_progress: bool | None = None,
) -> dict[str, Any]:
    """Encodes pictures, decodes their codes, and compares.

    Args:
        checkpoint: a Wallaroo or a VQ tokenizer, folder or Hub name; the embedded one by default.
        pictures: a folder, or `"shapes"` for the shapes world.
        size: (height, width) in pixels that each is fitted to; by default the trained size nearest to its shape.
        limit: only the first so many; of the shapes world 200 by default.
        weights: of the Inception network, for rFID and the like, see `Inception`.
        extractor: in its place.

    Returns:
        `pictures`, how many were read, and `unreadable`, the files that were not, each with its `path` and `error`;
        `psnr` (dB) and `ssim`, means over those that were read; `checkpoint_sha256` and `versions`; `codes_used`;
        `sizes`; with `weights` `rfid`, `rsfid` and the Inception Score of the reconstructions; of the shapes world what
        `codes_report` gives, where it applies.
    """
    for name, value in (("limit", limit), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1, but got {value}.")
    path = tiny_path() if checkpoint is None else checkpoint
    check_path(path)
    target = usable_device(device)
    if extractor is None and weights is not None:
        extractor = Inception(weights).to(target)
    distances = None if extractor is None else Distances(extractor)
    logging.disable_progress_bar()
    try:
        model = load_vq(path).to(target)
    finally:
        logging.enable_progress_bar()
    processor = _image_processor(path, model)
    scenes = report_scenes(SHAPES_SEED, limit or SHAPES_PICTURES) if str(pictures) == SHAPES else None
    files: Sequence[Any] = [render(scene) for scene in scenes] if scenes else pictures_in(pictures)[:limit]
    counts: dict[str, int] = defaultdict(int)
    values: dict[str, list[float]] = {"psnr": [], "ssim": []}
    unreadable: list[dict[str, str]] = []
    used = torch.zeros(model.config.num_embeddings, dtype=torch.bool)
    disable = None if show_progress is None else not show_progress
    with logging.tqdm(total=len(files), desc="reconstruction", unit="picture", disable=disable) as bar:
        for batch in batches_of_a_size(_fitted(readable(files, unreadable), processor, size), batch_size):
            before, after, codes = _through(model, batch)
            values["psnr"] += psnr(before, after).tolist()
            values["ssim"] += ssim(before, after).tolist()
            used[codes.flatten().cpu()] = True
            counts[f"{batch[0].height}x{batch[0].width}"] += len(batch)
            if distances is not None:
                distances.add(before.to(target), real=True)
                distances.add(after.to(target), real=False)
            bar.update(len(batch))
    _check_some(len(files), unreadable, pictures)
    report: dict[str, Any] = {
        "checkpoint": str(path),
        "checkpoint_sha256": checkpoint_hash(path),
        "versions": versions(),
        "pictures": len(files) - len(unreadable),
        "unreadable": unreadable,
        "from": str(pictures),
        "sizes": dict(counts),
        **{name: float(np.mean(each)) for name, each in values.items()},
        "codes_used": int(used.sum()),
        "codebook": len(used),
    }
    if distances is not None:
        named = distances.compute()
        report.update(rfid=named.pop("fid"), rsfid=named.pop("sfid"), **named)
    if scenes and model.downsample_factor == CELL:
        report["shapes"] = asdict(codes_report(model, scenes=scenes))
    return report


def _image_processor(path: str | Path, model: WallarooVQModel) -> WallarooImageProcessor:
    """That of the checkpoint; of a tokenizer alone, one with the released sizes."""
    if Path(path).is_dir() and not (Path(path) / "processor_config.json").is_file():
        return WallarooImageProcessor(downsample_factor=model.downsample_factor)
    return WallarooImageProcessor.from_pretrained(path)


def _fitted(
    pictures: Iterable[Image.Image], processor: WallarooImageProcessor, size: tuple[int, int] | None
) -> Iterator[Image.Image]:
    for picture in pictures:
        height, width = (
            processor.bucket_of(picture.height, picture.width) if size is None else processor.check_size(*size)
        )
        yield processor.fit(picture, height, width)


def batches_of_a_size(pictures: Iterable[Image.Image], batch_size: int) -> Iterator[list[Image.Image]]:
    """Pictures of one size together, at most so many at once. Where sizes are many the fullest batch goes early, so
    that only `WAITING` batches are held."""
    waiting: dict[tuple[int, int], list[Image.Image]] = defaultdict(list)
    for picture in pictures:
        waiting[picture.size].append(picture)
        if len(waiting[picture.size]) == batch_size:
            yield waiting.pop(picture.size)
        elif sum(map(len, waiting.values())) > WAITING * batch_size:
            yield waiting.pop(max(waiting, key=lambda size: len(waiting[size])))
    yield from waiting.values()


@torch.no_grad()
def _through(model: WallarooVQModel, batch: Sequence[Image.Image]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures before and after, as uint8 `(batch, 3, height, width)`, and their codes."""
    pixels = VQCollator(model.downsample_factor)(batch)["pixel_values"][0].to(model.device)
    codes = model.encode(pixels).codes
    assert codes is not None
    return as_bytes(batch), torch.from_numpy(to_bytes(model.decode(codes))).permute(0, 3, 1, 2), codes


def as_bytes(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """uint8 of shape `(batch, 3, height, width)` of pictures of one size."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)


def compare_folders(
    generated: str | Path,
    reference: str | Path,
    *,
    weights: str | Path | None = None,
    extractor: Extractor | None = None,
    batch_size: int = 32,
    device: str | None = None,
    show_progress: bool | None = None,
) -> dict[str, Any]:
    """FID and sFID between two folders of pictures, and the Inception Score of the first.

    Args:
        weights: of the Inception network, see `Inception`.
        extractor: in its place.

    Returns:
        `pictures`, how many were read of each folder; `unreadable`, the files that were not, each with its `path` and
        `error`; `versions`; `fid`, `sfid` and the Inception Score.
    """
    target = usable_device(device)
    if extractor is None:
        if weights is None:
            raise ValueError("`weights` must be the file of the Inception network. " + (missing_libraries() or ""))
        extractor = Inception(weights).to(target)
    distances = Distances(extractor)
    folders = {False: pictures_in(generated), True: pictures_in(reference)}
    unreadable: dict[bool, list[dict[str, str]]] = {False: [], True: []}
    total = sum(map(len, folders.values()))
    disable = None if show_progress is None else not show_progress
    with logging.tqdm(total=total, desc="FID", unit="picture", disable=disable) as bar:
        for real, files in folders.items():
            for batch in batches_of_a_size(readable(files, unreadable[real]), batch_size):
                distances.add(as_bytes(batch).to(target), real=real)
                bar.update(len(batch))
            _check_some(len(files), unreadable[real], reference if real else generated)
    return {
        "generated": str(generated),
        "reference": str(reference),
        "versions": versions(),
        "pictures": [len(folders[real]) - len(unreadable[real]) for real in (False, True)],
        "unreadable": unreadable[False] + unreadable[True],
        **distances.compute(),
    }


__all__ = ["compare_folders", "evaluate_vq", "pictures_in"]
