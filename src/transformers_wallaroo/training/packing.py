# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Encoded samples to the rows of a batch: padded one a row, or several a row that do not see each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from ..image_grid_wallaroo import Task, TokenType
from ..modeling_wallaroo import IGNORE_INDEX, fold_source_positions


@dataclass
class EncodedSample:
    """One sample as tokens.

    Attributes:
        task: the task of the sample.
        ids, labels: of the one id space; a code that is not known yet is the code placeholder in both.
        types: token type of each id, see `TokenType`.
        seen: pictures for the vision tower, in the order of their placeholders.
        source, target: pictures for the VQ tokenizer, with their size (height, width) in pixels. `target` is `None`
            where `ids` holds the codes already.
        source_latents: float32 `(cells, embed_dim)` instead of the pixels of `source`.
        source_mask: bool a source cell, raster order; `True` cells are hidden from the model.
    """

    task: Task
    ids: list[int]
    labels: list[int]
    types: np.ndarray | None = None
    seen: list[Image.Image] = field(default_factory=list)
    source: Image.Image | None = None
    target: Image.Image | None = None
    size: tuple[int, int] | None = None
    source_latents: torch.Tensor | None = None
    source_mask: torch.Tensor | None = None


def fill_rows(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Indices of samples for each row, at most `row_length` tokens a row: first fit, longest first."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        place = next((row for row, left in enumerate(room) if left >= lengths[index]), None)
        if place is None:
            place = len(rows)
            rows.append([])
            room.append(max(row_length, lengths[index]))
        rows[place].append(index)
        room[place] -= lengths[index]
    return rows


def pad(samples: Sequence[EncodedSample], pad_token_id: int) -> dict[str, torch.Tensor]:
    """One sample a row, padded on the right to the longest."""
    shape = (len(samples), max(len(sample.ids) for sample in samples))
    batch = _blank(shape, pad_token_id)
    batch["attention_mask"] = torch.zeros(shape, dtype=torch.long)
    for row, sample in enumerate(samples):
        _place(batch, sample, row, 0)
        batch["attention_mask"][row, : len(sample.ids)] = 1
    batch["task_ids"] = torch.tensor([sample.task.index for sample in samples])
    return batch


def pack(
    rows: Sequence[Sequence[EncodedSample]],
    grids: Sequence[Sequence[int]],
    merge_size: int,
    pad_token_id: int,
    *,
    source_positions: str = "1d",
) -> dict[str, torch.Tensor]:
    """Several samples a row, each with positions of its own.

    There is no attention mask: transformers sees from the text positions, which start again at 0 with each sample,
    who may attend to whom, for sdpa (a block mask) as for flash attention (variable lengths).

    Args:
        rows: the samples of each row.
        grids: `image_grid_thw` of all pictures that the vision tower sees, row by row and sample by sample.
        merge_size: patches that the vision tower merges into one feature, along each side.
        pad_token_id: what fills a row that is shorter than the longest.
        source_positions: as in the model's config.

    Returns:
        `input_ids`, `labels`, `mm_token_type_ids`, `task_ids`, all `(rows, length)`, and `position_ids`
        `(4, rows, length)`: text positions, then time, height and width.
    """
    shape = (len(rows), max(sum(len(sample.ids) for sample in row) for row in rows))
    batch = _blank(shape, pad_token_id)
    batch["task_ids"] = torch.zeros(shape, dtype=torch.long)
    positions = torch.zeros((4, *shape), dtype=torch.long)
    remaining = iter(grids)
    for index, row in enumerate(rows):
        start = 0
        for sample in row:
            end = start + len(sample.ids)
            _place(batch, sample, index, start)
            batch["task_ids"][index, start:end] = sample.task.index
            of_sample = [next(remaining) for _ in sample.seen]
            of_tokens = torch.from_numpy(sample_positions(sample.types, of_sample, merge_size))
            if source_positions == "2d":
                fold_source_positions(of_tokens[1:], torch.as_tensor(sample.types))
            positions[:, index, start:end] = of_tokens
            start = end
        positions[:, index, start:] = torch.arange(shape[1] - start)
    batch["position_ids"] = positions
    return batch


def sample_positions(types: np.ndarray | None, grids: Sequence[Sequence[int]], merge_size: int) -> np.ndarray:
    """Positions int64 `(4, length)` of one sample: text positions, then M-RoPE's time, height and width.

    The vision tower's features count in 2-D, everything else in 1-D (docs/protocol.md section 5).
    """
    assert types is not None
    length = len(types)
    positions = np.empty((4, length), dtype=np.int64)
    positions[0] = np.arange(length)
    at, position = 0, 0
    starts = np.flatnonzero((types == TokenType.IMAGE) & (np.roll(types, 1) != TokenType.IMAGE))
    for start, (_, grid_height, grid_width) in zip(starts.tolist(), grids, strict=True):
        positions[1:, at:start] = np.arange(position, position + start - at)
        position += start - at
        height, width = int(grid_height) // merge_size, int(grid_width) // merge_size
        at = start + height * width
        positions[1, start:at] = position
        positions[2, start:at] = position + np.repeat(np.arange(height), width)
        positions[3, start:at] = position + np.tile(np.arange(width), height)
        position += max(height, width)
    positions[1:, at:] = np.arange(position, position + length - at)
    return positions


def _blank(shape: tuple[int, int], pad_token_id: int) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.full(shape, pad_token_id),
        "mm_token_type_ids": torch.zeros(shape, dtype=torch.long),
        "labels": torch.full(shape, IGNORE_INDEX),
    }


def _place(batch: dict[str, torch.Tensor], sample: EncodedSample, row: int, start: int) -> None:
    end = start + len(sample.ids)
    batch["input_ids"][row, start:end] = torch.tensor(sample.ids)
    batch["labels"][row, start:end] = torch.tensor(sample.labels)
    assert sample.types is not None
    batch["mm_token_type_ids"][row, start:end] = torch.from_numpy(sample.types)
