# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Sizes as people write them: width first."""

import re
from collections.abc import Sequence

from ..image_grid_wallaroo import parse_aspect_ratio


def read_size(text: str) -> tuple[int, int] | None:
    """Height and width of `"512x768"`, which is 512 wide and 768 high; `None` where a text is nothing of the kind."""
    match = re.fullmatch(r"\s*(\d{1,6})\s*[x×*]\s*(\d{1,6})\s*", text, flags=re.IGNORECASE)
    return (int(match[2]), int(match[1])) if match else None


def parse_size(
    text: str, cell: int, usual_sizes: Sequence[tuple[int, int]] = (), name: str = "size"
) -> tuple[int, int]:
    """Height and width in pixels as `read_size` has them, checked to be a size that can be made.

    Args:
        cell: pixels along the side of a cell; width and height must be multiples of it.
        usual_sizes: heights and widths that an error proposes.
        name: of the argument, for the error.
    """
    height, width = read_size(text) or (0, 0)
    if min(width, height) <= 0 or width % cell or height % cell:
        proposal = f" The usual ones are {size_list(usual_sizes)}." if usual_sizes else ""
        raise ValueError(
            f"`{name}` must be WIDTHxHEIGHT in pixels, both multiples of {cell}, such as {32 * cell}x{48 * cell} for a "
            f"picture that is higher than wide, but got {text!r}.{proposal}"
        )
    return height, width


def parse_aspect(text: str, name: str = "aspect") -> str:
    """The aspect ratio itself, checked to be one, width first: `"16:9"` is wide."""
    try:
        parse_aspect_ratio(text)
    except ValueError:
        raise ValueError(f"`{name}` must be WIDTH:HEIGHT, such as 16:9 for a wide picture, but got {text!r}.") from None
    return text


def write_size(height: int, width: int) -> str:
    """`WIDTHxHEIGHT`, as `parse_size` reads it."""
    return f"{width}x{height}"


def size_list(sizes: Sequence[tuple[int, int]]) -> str:
    """Heights and widths as `WIDTHxHEIGHT, ...`."""
    return ", ".join(write_size(height, width) for height, width in sizes)


__all__ = ["parse_aspect", "parse_size", "read_size", "size_list", "write_size"]
