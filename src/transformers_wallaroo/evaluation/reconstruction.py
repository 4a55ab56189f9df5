# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""How much of a picture survives a VQ tokenizer, and how far one folder of pictures is from another."""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.utils import logging

from ..embedded import check_path, checkpoint_hash, tiny_path, usable_device, versions
from ..image_processing_wallaroo import WallarooImageProcessor
from ..modeling_wallaroo_vq import WallarooVQModel
from ..shapes.world import CELL, render
from ..training.encoding import load_vq
from ..training.sources import PICTURE_ENDINGS
from ..training.vq_data import VQCollator
from ..training.vq_report import codes_report, report_scenes, to_bytes
from .distances import FEATURES, Distances, Extractor, Inception, check_weights, features_of, missing_libraries
from .measuring import REPORT, SIZE, Measure, MeasureStore, Pictures, measure_pictures
from .picture_metrics import psnr, ssim
from .processes import Processes
from .run_files import PARTIAL, file_hash, write_json, write_whole
from .run_notes import check_resume, note_end

SHAPES, SHAPES_SEED, SHAPES_PICTURES = "shapes", 1_000_003, 200
ROWS = "pictures.jsonl"  # what was measured of each picture, a line each
# Features of the pictures before and after.
BEFORE, AFTER = "before", "after"


def pictures_in(folder: str | Path) -> list[Path]:
    """The pictures in a folder and in the folders in it, by name."""
    found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in PICTURE_ENDINGS)
    if not found:
        raise ValueError(f"There are no pictures ({', '.join(PICTURE_ENDINGS)}) in {folder}.")
    return found


def evaluate_vq(
    checkpoint: str | Path | None = None,
    pictures: str | Path = SHAPES,
    output: str | Path | None = None,
    *,
    size: tuple[int, int] | None = None,
    limit: int | None = None,
    resume: bool = False,
    batch_size: int = 16,
    device: str | None = None,
    weights: str | Path | None = None,
    extractor: Extractor | None = None,
    show_progress: bool | None = None,
) -> dict[str, Any]:
    """Encodes pictures, decodes their codes, and compares.

    Processes that `accelerate launch` starts share the pictures; the numbers are the same whatever their number and
    however often the run was stopped.

    Args:
        checkpoint: a Wallaroo or a VQ tokenizer, folder or Hub name; the embedded one by default.
        pictures: a folder, or `"shapes"` for the shapes world.
        output: folder of the run: `run.json`, `report.json` with what this gives, `pictures.jsonl` with the numbers of
            each picture, and `measured/` for going on. Without it nothing is kept.
        size: (height, width) in pixels that each is fitted to; by default the trained size nearest to its shape.
        limit: only the first so many; of the shapes world 200 by default. It may be another one when the run goes on.
        resume: go on with the run in `output`, if there is one.
        weights: of the Inception network, for rFID and the like, see `Inception`.
        extractor: in its place.

    Returns:
        `pictures`, how many were read, and `unreadable`, the files that were not, each with its `path` and `error`;
        `psnr` (dB) and `ssim`, means over those that were read; `checkpoint_sha256` and `versions`; `codes_used`;
        `sizes`; with `weights` `rfid`, `rsfid` and the Inception Score of the reconstructions; of the shapes world what
        `codes_report` gives, where it applies.
    """
    _check_counts(limit, batch_size)
    path = tiny_path() if checkpoint is None else checkpoint
    check_path(path)
    if weights is not None:
        check_weights(weights)
    with Processes() as processes, _folder(output, processes, resume) as folder:
        started = time.perf_counter()
        target = usable_device(processes.device(device))
        distances = None if extractor is None and weights is None else Distances()
        model = _load_vq(path).to(target)
        scenes = report_scenes(SHAPES_SEED, limit or SHAPES_PICTURES) if str(pictures) == SHAPES else None
        given = _pictures_of_vq(pictures, scenes, size, limit, _image_processor(path, model))

        def load() -> Measure:
            network = extractor if extractor is not None or weights is None else Inception(weights).to(target)
            return lambda batch: _reconstruct(model, batch, network)

        settings = {"size": None if size is None else list(size), "inception": _inception_hash(weights, extractor)}
        checkpoint_sha256 = processes.first_does(lambda: checkpoint_hash(path))
        unreadable = measure_pictures(
            given,
            folder,
            load,
            processes,
            identity={"benchmark": "vq", "checkpoint_sha256": checkpoint_sha256, "settings": settings},
            noted={"checkpoint": str(path), "dtype": "float32", "from": str(pictures), "limit": limit},
            resume=resume,
            batch_size=batch_size,
            device=target,
            title="reconstruction",
            show_progress=show_progress,
        )

        def report() -> dict[str, Any]:
            readable = len(given.wanted) - len(unreadable)
            _check_some(readable, len(given.wanted), unreadable, pictures)
            found: dict[str, Any] = {
                "checkpoint": str(path),
                "checkpoint_sha256": checkpoint_sha256,
                "versions": versions(),
                "pictures": readable,
                "unreadable": unreadable,
                "from": str(pictures),
                **_numbers_of_vq(given, folder, model.config.num_embeddings, distances),
            }
            if scenes and model.downsample_factor == CELL:
                found["shapes"] = asdict(codes_report(model, scenes=scenes))
            return _ended(folder, found, started)

        return processes.first_does(report)


def _check_counts(limit: int | None, batch_size: int) -> None:
    for name, value in (("limit", limit), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1, but got {value}.")


@contextmanager
def _folder(output: str | Path | None, processes: Processes, resume: bool) -> Iterator[Path]:
    """The folder of a run; without one, one that is gone at the end."""
    if output is not None:
        yield Path(output)
        return
    if processes.count > 1:
        raise ValueError(
            f"`output` must be given where several processes share the pictures, but {processes.count} were started "
            "without it (--output DIR): there they put together what each has measured."
        )
    check_resume(output, resume=resume)
    with tempfile.TemporaryDirectory(prefix="wallaroo-eval-") as folder:
        yield Path(folder)


def _load_vq(path: str | Path) -> WallarooVQModel:
    logging.disable_progress_bar()
    try:
        return load_vq(path)
    finally:
        logging.enable_progress_bar()


def _image_processor(path: str | Path, model: WallarooVQModel) -> WallarooImageProcessor:
    """That of the checkpoint; of a tokenizer alone, one with the released sizes."""
    if Path(path).is_dir() and not (Path(path) / "processor_config.json").is_file():
        return WallarooImageProcessor(downsample_factor=model.downsample_factor)
    return WallarooImageProcessor.from_pretrained(path)


def _pictures_of_vq(
    pictures: str | Path,
    scenes: Sequence[Any] | None,
    size: tuple[int, int] | None,
    limit: int | None,
    processor: WallarooImageProcessor,
) -> Pictures:
    fixed = None if size is None else processor.check_size(*size)
    if scenes is not None:
        items: list[Any] = [render(scene) for scene in scenes]
        names = [f"{SHAPES}/{index}" for index in range(len(items))]
    else:
        items = list(pictures_in(pictures))
        names = [file.relative_to(pictures).as_posix() for file in items]
    return Pictures(
        names=names,
        items=items,
        wanted=range(len(items))[:limit],
        # The shapes world has no end: how many of it were asked for first does not tell runs apart.
        known_as=None if scenes is None else f"{SHAPES} {SHAPES_SEED}",
        size_of=lambda height, width: fixed or processor.bucket_of(height, width),
        fit=processor.fit,
    )


@torch.no_grad()
def _reconstruct(
    model: WallarooVQModel, batch: Sequence[Image.Image], extractor: Extractor | None
) -> dict[str, torch.Tensor]:
    """What is measured of pictures of one size: `psnr`, `ssim`, `codes`, and features before and after."""
    pixels = VQCollator(model.downsample_factor)(batch)["pixel_values"][0].to(model.device)
    codes = model.encode(pixels).codes
    assert codes is not None
    before, after = as_bytes(batch), torch.from_numpy(to_bytes(model.decode(codes))).permute(0, 3, 1, 2)
    found = {"psnr": psnr(before, after), "ssim": ssim(before, after), "codes": codes.flatten(1).int().cpu()}
    if extractor is not None:
        for name, each in ((BEFORE, before), (AFTER, after)):
            features = features_of(extractor, each.to(model.device))
            found.update({f"{name}_{kind}": values for kind, values in features.items()})
    return found


def as_bytes(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """uint8 of shape `(batch, 3, height, width)` of pictures of one size."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)


def _numbers_of_vq(given: Pictures, folder: Path, codebook: int, distances: Distances | None) -> dict[str, Any]:
    """Means over what was measured, which is also written down a line a picture."""
    counts: Counter[str] = Counter()
    used = torch.zeros(codebook, dtype=torch.bool)
    rows: dict[int, dict[str, Any]] = {}
    for batch in MeasureStore(folder).read(given.wanted):
        used[batch["codes"].flatten()] = True
        for index, (height, width), one, other in zip(
            *(batch[name].tolist() for name in ("index", SIZE, "psnr", "ssim")), strict=True
        ):
            counts[f"{height}x{width}"] += 1
            rows[index] = {"path": given.names[index], "size": [height, width], "psnr": one, "ssim": other}
        if distances is not None:
            for name, real in ((BEFORE, True), (AFTER, False)):
                features = {kind: batch[f"{name}_{kind}"] for kind in FEATURES}
                distances.add({**features, "index": batch["index"]}, real=real)
    ordered = [rows[index] for index in sorted(rows)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ordered)
    write_whole(folder / ROWS, lines, partial=folder / PARTIAL)
    found: dict[str, Any] = {
        "sizes": dict(counts),
        **{name: float(np.mean([row[name] for row in ordered])) for name in ("psnr", "ssim")},
        "codes_used": int(used.sum()),
        "codebook": codebook,
    }
    if distances is not None:
        named = distances.compute()
        found.update(rfid=named.pop("fid"), rsfid=named.pop("sfid"), **named)
    return found


def compare_folders(
    generated: str | Path,
    reference: str | Path,
    output: str | Path | None = None,
    *,
    weights: str | Path | None = None,
    extractor: Extractor | None = None,
    limit: int | None = None,
    resume: bool = False,
    batch_size: int = 32,
    device: str | None = None,
    show_progress: bool | None = None,
) -> dict[str, Any]:
    """FID and sFID between two folders of pictures, and the Inception Score of the first.

    Processes share the pictures, and a run goes on, as with `evaluate_vq`.

    Args:
        output: folder of the run: `run.json`, `report.json`, and `measured/` with the features of the pictures, about
            20 kB each. Without it nothing is kept.
        weights: of the Inception network, see `Inception`.
        extractor: in its place.
        limit: only the first so many of each folder.
        resume: go on with the run in `output`, if there is one.

    Returns:
        `pictures`, how many were read of each folder; `unreadable`, the files that were not, each with its `path` and
        `error`; `versions`; `fid`, `sfid` and the Inception Score.
    """
    _check_counts(limit, batch_size)
    if extractor is None and weights is None:
        raise ValueError("`weights` must be the file of the Inception network. " + (missing_libraries() or ""))
    if weights is not None:
        check_weights(weights)
    with Processes() as processes, _folder(output, processes, resume) as folder:
        started = time.perf_counter()
        target = usable_device(processes.device(device))
        distances = Distances()
        given, first_real = _pictures_of_folders(generated, reference, limit)

        def load() -> Measure:
            network = extractor if extractor is not None or weights is None else Inception(weights).to(target)
            assert network is not None
            return lambda batch: features_of(network, as_bytes(batch).to(target))

        unreadable = measure_pictures(
            given,
            folder,
            load,
            processes,
            identity={"benchmark": "fid", "settings": {"inception": _inception_hash(weights, extractor)}},
            noted={"generated": str(generated), "reference": str(reference), "limit": limit},
            resume=resume,
            batch_size=batch_size,
            device=target,
            title="FID",
            show_progress=show_progress,
        )

        def report() -> dict[str, Any]:
            bad, counts = {entry["path"] for entry in unreadable}, []
            for name, real in ((generated, False), (reference, True)):
                wanted = [index for index in given.wanted if (index >= first_real) == real]
                readable = sum(str(given.items[index]) not in bad for index in wanted)
                _check_some(readable, len(wanted), unreadable, name)
                counts.append(readable)
                for batch in MeasureStore(folder).read(wanted):
                    distances.add(batch, real=real)
            found = {
                "generated": str(generated),
                "reference": str(reference),
                "versions": versions(),
                "pictures": counts,
                "unreadable": unreadable,
                **distances.compute(),
            }
            return _ended(folder, found, started)

        return processes.first_does(report)


def _pictures_of_folders(generated: str | Path, reference: str | Path, limit: int | None) -> tuple[Pictures, int]:
    """The pictures of both, and which is the first of the second."""
    made, real = pictures_in(generated), pictures_in(reference)
    names = [f"generated/{file.relative_to(generated).as_posix()}" for file in made]
    names += [f"reference/{file.relative_to(reference).as_posix()}" for file in real]
    wanted = [*range(len(made))[:limit], *range(len(made), len(names))[:limit]]
    return Pictures(names=names, items=[*made, *real], wanted=wanted), len(made)


def _inception_hash(weights: str | Path | None, extractor: Extractor | None) -> str | None:
    """What tells features of one network from those of another."""
    if extractor is not None:
        return "given"
    return None if weights is None else file_hash(Path(weights))


def _check_some(readable: int, count: int, unreadable: Sequence[Mapping[str, str]], folder: str | Path) -> None:
    if not readable:
        names = {str(path) for path in Path(folder).rglob("*")}
        error = next(entry["error"] for entry in unreadable if entry["path"] in names)
        raise ValueError(f"None of the {count} pictures in {folder} can be read: {error}")


def _ended(folder: Path, report: dict[str, Any], started: float) -> dict[str, Any]:
    """Writes the report, and that the run has come to its end."""
    write_json(folder / REPORT, report)
    note_end(folder, report["unreadable"], seconds=time.perf_counter() - started)
    return report


__all__ = ["compare_folders", "evaluate_vq", "pictures_in"]
