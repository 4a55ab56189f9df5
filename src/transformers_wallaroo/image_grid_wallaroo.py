# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Tasks, token types, sizes and row arithmetic of Wallaroo. Pure Python: no torch, no transformers."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum


class TokenType(IntEnum):
    """Values of `mm_token_type_ids`: the routing table that gives each position its embedding and its head.

    Only `IMAGE` and `VIDEO` get 2-D/3-D rotary positions; every other type counts as text (docs/protocol.md
    section 5).
    """

    TEXT = 0
    IMAGE = 1
    VIDEO = 2
    GENERATED_CODE = 3
    EDITED_CODE = 4
    SOURCE_CELL = 5


@dataclass(frozen=True)
class Task:
    """What tells one task from another.

    Attributes:
        name: `"understand"`, `"generate"` or `"edit"`.
        index: value of `task_ids` for a row of this task.
        head: name of the module that predicts the task's next token.
    """

    name: str
    index: int
    head: str


@dataclass(frozen=True)
class ImageTask(Task):
    """A task that writes codes.

    Attributes:
        code_type: token type of its codes.
        adapter: name of the module that feeds its codes back to the language model.
        has_source: whether it starts from a source image.
    """

    code_type: TokenType
    adapter: str
    has_source: bool = False


UNDERSTAND = Task("understand", 0, "lm_head")
GENERATE = ImageTask("generate", 1, "generation_head", TokenType.GENERATED_CODE, "generation_adapter")
EDIT = ImageTask("edit", 2, "editing_head", TokenType.EDITED_CODE, "editing_adapter", has_source=True)
TASKS: dict[str, Task] = {task.name: task for task in (UNDERSTAND, GENERATE, EDIT)}
# No task of its own: the text head answers, and says where one of the others goes on (`auto_wallaroo.py`).
AUTO = Task("auto", 3, "lm_head")

# (height / width, height, width) in pixels, in the order of the released table: docs/protocol.md, section 9.
BUCKETS_512: tuple[tuple[float, int, int], ...] = (
    (0.5, 352, 704),
    (0.52, 352, 672),
    (0.57, 384, 672),
    (0.6, 384, 640),
    (0.68, 416, 608),
    (0.72, 416, 576),
    (0.78, 448, 576),
    (0.82, 448, 544),
    (0.88, 480, 544),
    (0.94, 480, 512),
    (1.0, 512, 512),
    (1.13, 544, 480),
    (1.21, 544, 448),
    (1.29, 576, 448),
    (1.38, 576, 416),
    (1.46, 608, 416),
    (1.67, 640, 384),
    (1.75, 672, 384),
    (2.0, 704, 352),
)


def get_task(name: str) -> Task:
    """The task called `name`; a `ValueError` names the known ones."""
    if not isinstance(name, str) or name not in TASKS:
        hint = "" if name != AUTO.name else " ('auto' goes by itself, not in a list with others.)"
        raise ValueError(f"`task` must be one of {', '.join(map(repr, TASKS))}, but got {name!r}.{hint}")
    return TASKS[name]


def nearest_bucket(height: float, width: float, buckets: Iterable[Sequence[float]] = BUCKETS_512) -> tuple[int, int]:
    """Size (height, width) in pixels of the bucket whose key is nearest to `height / width`."""
    ratio = height / width
    _, bucket_height, bucket_width = min(buckets, key=lambda bucket: abs(bucket[0] - ratio))
    return int(bucket_height), int(bucket_width)


def parse_aspect_ratio(aspect_ratio: str | float) -> float:
    """Height / width of an aspect ratio written the usual way round, width first: `"16:9"`, `"3x2"` or `1.5`."""
    parts = aspect_ratio.replace("x", ":").split(":") if isinstance(aspect_ratio, str) else [aspect_ratio]
    try:
        width, height = (float(part) for part in (parts if len(parts) == 2 else [*parts, 1]))
        ratio = height / width
    except (ValueError, ZeroDivisionError, TypeError):
        width = height = ratio = 0.0
    if isinstance(aspect_ratio, bool) or width <= 0 or height <= 0 or not 0.01 <= ratio <= 100:
        raise ValueError(
            f"`aspect_ratio` must be width:height, such as '16:9' or 1.78, but got {aspect_ratio!r}. "
            "Give `height` and `width` for an exact size in pixels."
        )
    return ratio


def cover_size(height: int, width: int, target_height: int, target_width: int) -> tuple[int, int]:
    """Size (height, width) after resizing to cover the target; the overhanging side is truncated to an integer."""
    if target_height * width > target_width * height:
        return target_height, width * target_height // height
    return height * target_width // width, target_width


def center_crop_box(height: int, width: int, target_height: int, target_width: int) -> tuple[int, int, int, int]:
    """Box (left, top, right, bottom) of a centre crop; halves round to even, as in the released programs."""
    top = round((height - target_height) / 2)
    left = round((width - target_width) / 2)
    return left, top, left + target_width, top + target_height


def fit_size(
    height: int, width: int, target_height: int, target_width: int, stretch: bool = False
) -> tuple[int, int, int, int]:
    """How a picture comes to a size: the size (height, width) that it is resized to, and the place (left, top) of the
    target in that. It covers the target and hangs over, or is stretched to it."""
    if stretch:
        return target_height, target_width, 0, 0
    size = cover_size(height, width, target_height, target_width)
    left, top, _, _ = center_crop_box(*size, target_height, target_width)
    return *size, left, top


def cells_over(cells: int, factor: int, start: int, resized: int, length: int) -> list[tuple[int, int]]:
    """Along one side, the pixels that each cell is made of: from the first to after the last.

    Args:
        cells: of `factor` pixels each.
        start: where the first cell begins in the resized picture.
        resized, length: of the side, after and before resizing.
    """
    edges = [(start + cell * factor) * length for cell in range(cells + 1)]
    return [(low // resized, -(-high // resized)) for low, high in itertools.pairwise(edges)]


def image_turn_length(grid_height: int, grid_width: int, row_ends: bool = True) -> int:
    """Tokens of an image without its start and end marks: the cells, and a row end between two rows."""
    return grid_height * grid_width + (grid_height - 1 if row_ends else 0)


def join_rows(grid_height: int, grid_width: int, cell: str, row_end: str) -> str:
    """The text of `grid_height` rows of `grid_width` cells with a row end between rows and none after the last."""
    return row_end.join([cell * grid_width] * grid_height)


def split_rows(
    ids: Sequence[int], code_offset: int, num_codes: int, row_end_id: int, row_ends: bool = True
) -> list[list[int]]:
    """Reads an image turn back into rows of codes.

    Args:
        ids: ids of one image turn; ids that are neither a code nor a row end (marks, padding) are passed over.
        code_offset: id of code 0.
        num_codes: size of the codebook.
        row_end_id: id of the row end.
        row_ends: whether rows are parted by row ends; without them the image is a square (stages 1 to 3a).

    Returns:
        Rows of codes in `[0, num_codes)`, all of one length.
    """
    rows: list[list[int]] = [[]]
    for token in ids:
        if token == row_end_id and row_ends:
            rows.append([])
        elif token >= code_offset + num_codes:
            raise ValueError(
                f"`sequences` holds id {token}, but the largest code, {num_codes - 1}, is id "
                f"{code_offset + num_codes - 1}. "
                "The sequences come from a checkpoint with a larger codebook or vocabulary."
            )
        elif token >= code_offset:
            rows[-1].append(token - code_offset)
    if not row_ends:
        codes = rows[0]
        side = math.isqrt(len(codes))
        if side * side != len(codes):
            raise ValueError(
                f"`sequences` holds {len(codes)} codes, but an image without row ends is a square: it was cut, or it "
                "comes from a checkpoint with row ends (`config.row_ends`)."
            )
        rows = [codes[start : start + side] for start in range(0, len(codes), max(side, 1))]
    lengths = sorted({len(row) for row in rows})
    if len(lengths) != 1 or lengths[0] == 0:
        raise ValueError(
            f"`sequences` must hold whole images, but one has rows of {lengths or [0]} codes. "
            "It was cut, or it is text: pass what `generate` returned for task 'generate' or 'edit'."
        )
    return rows
