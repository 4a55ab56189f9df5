# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""How good a VQ tokenizer is on the shapes world: does a picture survive it, and has a cell one code?"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image

from ..modeling_wallaroo_vq import WallarooVQModel
from ..shapes.world import (
    BACKGROUNDS,
    CELL,
    COLORS,
    MAX_THINGS,
    SHAPES,
    STYLES,
    Scene,
    cell_pixels,
    random_scene,
    render,
)
from .vq_data import VQCollator

PICTURES_AT_ONCE = 64


@dataclass(frozen=True)
class CodesReport:
    """What `codes_report` measured.

    Attributes:
        scenes: how many.
        scenes_right: share of scenes whose every cell, after reconstruction, is nearest to its true cell among all
            cells of the world.
        cells_right: share of such cells.
        noise_bits: entropy of the code given the true cell, in bits a cell; 0 if a cell always has the same code.
        codes_per_cell: mean over the world's cells of the number of codes that were given to it.
        most_codes: the largest such number.
        cells_per_code: mean over the codes in use of the number of the world's cells that were given it.
        codes_used: codes that occurred.
        cells_seen: distinct cells that occurred.
        psnr: of the reconstructed pictures as bytes, in dB.
    """

    scenes: int
    scenes_right: float
    cells_right: float
    noise_bits: float
    codes_per_cell: float
    most_codes: int
    cells_per_code: float
    codes_used: int
    cells_seen: int
    psnr: float


@cache
def world_cells() -> np.ndarray:
    """All distinct cells of the shapes world as fp32 `(cells, CELL * CELL * 3)` in `[0, 255]`; read-only."""
    cells = [cell_pixels(None, "", background, "") for background in BACKGROUNDS]
    cells += [
        cell_pixels(shape, color, background, style)
        for background in BACKGROUNDS
        for style in STYLES
        for shape in SHAPES
        for color in COLORS
    ]
    table = np.stack(cells).reshape(len(cells), -1).astype(np.float32)
    table.setflags(write=False)
    return table


def nearest_cells(pixels: np.ndarray) -> np.ndarray:
    """Index into `world_cells()` of each cell of pictures `(batch, height, width, 3)`, as `(batch, rows, columns)`."""
    batch, height, width, _ = pixels.shape
    rows, columns = height // CELL, width // CELL
    cells = pixels.astype(np.float32).reshape(batch, rows, CELL, columns, CELL, 3).swapaxes(2, 3)
    table = world_cells()
    # Of |a - b|^2 only what depends on b.
    distances = (table**2).sum(axis=1) - 2 * cells.reshape(-1, table.shape[1]) @ table.T
    return distances.argmin(axis=1).reshape(batch, rows, columns)


def report_scenes(seed: int, count: int) -> list[Scene]:
    """Scenes as the language model sees them: 0 to `MAX_THINGS` things, all styles, held-out combinations too."""
    rng = random.Random(f"report-{seed}")
    return [random_scene(rng, num_things=rng.randint(0, MAX_THINGS), style=rng.choice(STYLES)) for _ in range(count)]


def codes_report(model: WallarooVQModel, *, scenes: Sequence[Scene] | int = 1000, seed: int = 1_000_003) -> CodesReport:
    """Encodes and decodes scenes and counts.

    Args:
        model (`WallarooVQModel`): with `CELL` pixels a cell.
        scenes (sequence of `Scene` or `int`): those, or so many of `report_scenes(seed, ...)`.
    """
    if model.downsample_factor != CELL:
        raise ValueError(
            f"`model` must make one code of {CELL}x{CELL} pixels, a cell of the shapes world, but makes one of "
            f"{model.downsample_factor}x{model.downsample_factor}. Give `channel_multiplier` five entries."
        )
    if isinstance(scenes, int):
        scenes = report_scenes(seed, scenes)
    model.eval()
    right: list[bool] = []
    cells_right = squares = values = 0.0
    table = np.zeros((len(world_cells()), model.config.num_embeddings), dtype=np.int64)
    for truth, codes, pixels in _batches(model, scenes):
        cells = nearest_cells(truth)
        same = nearest_cells(pixels) == cells
        right += same.all(axis=(1, 2)).tolist()
        cells_right += same.sum()
        np.add.at(table, (cells.ravel(), codes.ravel()), 1)
        squares += ((pixels.astype(np.float64) - truth) ** 2).sum()
        values += truth.size
    used = table[table.sum(axis=1) > 0]
    codes_per_cell, cells_per_code = (used > 0).sum(axis=1), (used > 0).sum(axis=0)
    return CodesReport(
        scenes=len(right),
        scenes_right=float(np.mean(right)),
        cells_right=float(cells_right / table.sum()),
        noise_bits=_conditional_entropy(used),
        codes_per_cell=float(codes_per_cell.mean()),
        most_codes=int(codes_per_cell.max()),
        cells_per_code=float(cells_per_code[cells_per_code > 0].mean()),
        codes_used=int((cells_per_code > 0).sum()),
        cells_seen=len(used),
        psnr=float(10 * np.log10(255**2 / max(squares / values, 1e-9))),
    )


def _conditional_entropy(counts: np.ndarray) -> float:
    """Entropy in bits of the column given the row, of counts `(rows, columns)` with no empty row."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    return float(-(counts * logs).sum() / counts.sum() + 0.0)


def _batches(model: WallarooVQModel, scenes: Sequence[Scene]):
    """True pictures, codes and reconstructions, as bytes, of scenes of one size at a time."""
    by_size: dict[tuple[int, int], list[Scene]] = {}
    for scene in scenes:
        by_size.setdefault((scene.rows, scene.columns), []).append(scene)
    collate = VQCollator(model.downsample_factor)
    for same_size in by_size.values():
        for start in range(0, len(same_size), PICTURES_AT_ONCE):
            pictures = [render(scene) for scene in same_size[start : start + PICTURES_AT_ONCE]]
            codes = model.encode(collate(pictures)["pixel_values"][0]).codes
            assert codes is not None
            yield np.stack([np.asarray(p) for p in pictures]), codes.cpu().numpy(), to_bytes(model.decode(codes))


def to_bytes(pixel_values: torch.Tensor) -> np.ndarray:
    """Pixels `(batch, 3, height, width)` in `[-1, 1]` to uint8 `(batch, height, width, 3)` (docs/protocol.md 2)."""
    pixels = (127.5 * pixel_values.float() + 128).clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def reconstruction_sheet(
    model: WallarooVQModel, pictures: Sequence[Image.Image], *, scale: int = 4, columns: int = 8
) -> Image.Image:
    """Each picture above its reconstruction, `scale` times as large, `columns` pairs a row."""
    collate, gap = VQCollator(model.downsample_factor), 4
    tile_width = max(picture.width for picture in pictures) * scale + gap
    tile_height = max(picture.height for picture in pictures) * scale + gap
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * tile_width + gap, rows * 2 * tile_height + gap), (128, 128, 128))
    for index, picture in enumerate(pictures):
        again = Image.fromarray(to_bytes(model(collate([picture])["pixel_values"][0]))[0])
        row, column = divmod(index, columns)
        for below, image in enumerate((picture, again)):
            large = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
            sheet.paste(large, (gap + column * tile_width, gap + (2 * row + below) * tile_height))
    return sheet


__all__ = ["CodesReport", "codes_report", "reconstruction_sheet", "report_scenes", "world_cells"]
