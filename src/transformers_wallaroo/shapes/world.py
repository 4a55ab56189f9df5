# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The shapes world: scenes of a few things on a plain background, and how they look. No torch.

A scene stands on a grid of cells of `CELL` pixels, the cells of the VQ tokenizer: one thing fills one cell.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

CELL = 16  # pixels
# (height / width, height, width) in pixels, as `WallarooImageProcessor.buckets`.
BUCKETS: tuple[tuple[float, int, int], ...] = (
    (0.5, 32, 64),
    (0.75, 48, 64),
    (1.0, 64, 64),
    (4 / 3, 64, 48),
    (2.0, 64, 32),
)
SHAPES = ("circle", "square", "triangle", "star")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (222, 45, 45),
    "green": (40, 165, 75),
    "blue": (55, 105, 240),
    "yellow": (240, 190, 25),
    "purple": (165, 75, 205),
    "orange": (245, 125, 20),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {"white": (250, 250, 250), "black": (24, 26, 32)}
STYLES = ("filled", "outlined")
PLACES = ("top left", "top right", "bottom left", "bottom right")
MAX_THINGS = 4
# A kind of samples for training alone: a picture told cell by cell, by the one who looks or by the one who asks. There
# is something to learn from each cell, and pictures may be full.
GRID = "grid"

# Combinations of shape, colour and place that no training scene holds. Each shape and each colour is seen in every
# place and with each other; only these sixteen triples are kept back and scored apart.
HELD_OUT: frozenset[tuple[str, str, str]] = frozenset(
    {
        ("circle", "red", "top left"),
        ("circle", "blue", "bottom right"),
        ("circle", "purple", "top right"),
        ("circle", "orange", "bottom left"),
        ("square", "green", "top right"),
        ("square", "yellow", "bottom left"),
        ("square", "red", "bottom right"),
        ("square", "purple", "top left"),
        ("triangle", "blue", "bottom left"),
        ("triangle", "orange", "top right"),
        ("triangle", "yellow", "top left"),
        ("triangle", "green", "bottom right"),
        ("star", "yellow", "bottom right"),
        ("star", "purple", "bottom left"),
        ("star", "red", "top right"),
        ("star", "blue", "top left"),
    }
)


@dataclass(frozen=True)
class Thing:
    """A coloured shape in a cell; rows count from the top, columns from the left."""

    shape: str
    color: str
    row: int
    column: int


@dataclass(frozen=True)
class Scene:
    """What a picture shows.

    Attributes:
        rows, columns: size in cells.
        background: key of `BACKGROUNDS`.
        things: in raster order, one a cell.
        style: one of `STYLES`, for all things together.
    """

    rows: int
    columns: int
    background: str
    things: tuple[Thing, ...] = ()
    style: str = "filled"

    def __post_init__(self) -> None:
        object.__setattr__(self, "things", tuple(sorted(self.things, key=lambda thing: (thing.row, thing.column))))

    @property
    def height(self) -> int:
        """In pixels."""
        return self.rows * CELL

    @property
    def width(self) -> int:
        """In pixels."""
        return self.columns * CELL

    def free_cells(self) -> list[tuple[int, int]]:
        """(row, column) of the cells without a thing, in raster order."""
        taken = {(thing.row, thing.column) for thing in self.things}
        cells = ((row, column) for row in range(self.rows) for column in range(self.columns))
        return [cell for cell in cells if cell not in taken]

    def place_of(self, thing: Thing) -> str | None:
        """The quarter of the picture a thing is in; `None` on a middle row or column."""
        vertical, horizontal = 2 * thing.row + 1 - self.rows, 2 * thing.column + 1 - self.columns
        if vertical == 0 or horizontal == 0:
            return None
        return f"{'top' if vertical < 0 else 'bottom'} {'left' if horizontal < 0 else 'right'}"

    def holds_out(self) -> bool:
        """Whether it holds a combination that is never in training."""
        return any((thing.shape, thing.color, self.place_of(thing)) in HELD_OUT for thing in self.things)

    def with_things(self, things: Sequence[Thing]) -> "Scene":
        return replace(self, things=tuple(things))


@cache
def cell_pixels(shape: str | None, color: str, background: str, style: str) -> np.ndarray:
    """One cell as uint8 `(CELL, CELL, 3)`; `shape` `None` is the bare background. Drawn eight times as large."""
    scale = 8
    side = CELL * scale
    image = Image.new("RGB", (side, side), BACKGROUNDS[background])
    if shape is not None:
        _draw(ImageDraw.Draw(image), shape, side, COLORS[color], style)
    pixels = np.asarray(image.resize((CELL, CELL), Image.Resampling.BOX))
    pixels.setflags(write=False)
    return pixels


def _draw(draw: ImageDraw.ImageDraw, shape: str, side: int, color: tuple[int, int, int], style: str) -> None:
    margin, middle, stroke = side / 16, side / 2, side // 8
    fill, outline, width = (color, None, 0) if style == "filled" else (None, color, stroke)
    if shape == "circle":
        draw.ellipse((margin, margin, side - margin, side - margin), fill=fill, outline=outline, width=width)
        return
    if shape == "square":
        inset = 1.6 * margin
        draw.rectangle((inset, inset, side - inset, side - inset), fill=fill, outline=outline, width=width)
        return
    if shape == "triangle":
        points = [(middle, margin), (side - margin, side - 1.5 * margin), (margin, side - 1.5 * margin)]
    else:
        radius = middle - margin / 2
        radii = [radius, 0.45 * radius] * 5
        angles = [pi * (index / 5 - 0.5) for index in range(10)]
        points = [(middle + r * cos(a), middle * 1.05 + r * sin(a)) for r, a in zip(radii, angles, strict=True)]
    draw.polygon(points, fill=fill, outline=outline, width=width)


def render(scene: Scene) -> Image.Image:
    """The picture of a scene, RGB, exactly the same each time."""
    canvas = np.tile(cell_pixels(None, "", scene.background, ""), (scene.rows, scene.columns, 1))
    for thing in scene.things:
        top, left = thing.row * CELL, thing.column * CELL
        pixels = cell_pixels(thing.shape, thing.color, scene.background, scene.style)
        canvas[top : top + CELL, left : left + CELL] = pixels
    return Image.fromarray(canvas)


def random_size(rng: random.Random) -> tuple[int, int]:
    """Rows and columns of a random bucket."""
    _, height, width = rng.choice(BUCKETS)
    return height // CELL, width // CELL


def random_scene(
    rng: random.Random,
    *,
    size: tuple[int, int] | None = None,
    num_things: int | None = None,
    style: str = "filled",
) -> Scene:
    """A scene of 1 to `MAX_THINGS` random things in random cells; it may hold held-out combinations."""
    rows, columns = random_size(rng) if size is None else size
    count = rng.randint(1, MAX_THINGS) if num_things is None else num_things
    cells = rng.sample([(row, column) for row in range(rows) for column in range(columns)], count)
    things = [Thing(rng.choice(SHAPES), rng.choice(tuple(COLORS)), row, column) for row, column in cells]
    return Scene(rows, columns, rng.choice(tuple(BACKGROUNDS)), tuple(things), style)
