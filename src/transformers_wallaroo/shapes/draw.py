# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Random choices behind a sample: where things go, how they look, and which of them words can name. No torch."""

import random
from collections.abc import Sequence
from functools import cache

from .asks import Look
from .language import Language
from .world import BACKGROUNDS, COLORS, HELD_OUT, MAX_THINGS, SHAPES, STYLES, Scene, Thing

Cells = tuple[tuple[int, int], ...]
_LOOKS = tuple((shape, color) for shape in SHAPES for color in COLORS)
# Share of scenes that are outlined, where a task has both.
OUTLINED_SHARE = 0.2
# Share of references like "the circle", where the shape alone is enough.
SHORT_SHARE = 0.3


@cache
def cells_of(rows: int, columns: int) -> Cells:
    """(row, column) of all cells, in raster order."""
    return tuple((row, column) for row in range(rows) for column in range(columns))


@cache
def place_of(rows: int, columns: int, cell: tuple[int, int]) -> str | None:
    """The quarter of the picture a cell is in; see `Scene.place_of`."""
    return Scene(rows, columns, "white").place_of(Thing("circle", "red", *cell))


@cache
def looks_at(place: str | None, held_out: bool | None) -> tuple[tuple[str, str], ...]:
    """(shape, colour) that may be, or with `held_out` must be, in a place; `None` is any."""
    if held_out is None:
        return _LOOKS
    return tuple(look for look in _LOOKS if ((*look, place) in HELD_OUT) == held_out)


class Draw:
    """One attempt at a sample. A builder that cannot finish gives `None`, and a new attempt is made.

    Args:
        rng: for all that may differ between attempts.
        plan: for what must not, or rejecting attempts would favour the simple: how many things, which answer.
        wording: for the phrasing alone, so that the languages tell of the same scenes.
        language: of the texts.
        size: rows and columns.
        held_out: `False` never puts a held-out combination, `True` often does, `None` pays no attention.
        most: things in a scene, beyond those that the kind itself asks for.
    """

    def __init__(
        self,
        rng: random.Random,
        plan: random.Random,
        wording: random.Random,
        language: Language,
        size: tuple[int, int],
        held_out: bool | None,
        most: int = MAX_THINGS,
    ):
        self.rng, self.plan, self.wording, self.language = rng, plan, wording, language
        self.rows, self.columns = size
        self.held_out = held_out
        # A cell stays free, for what is to move or to be added.
        self.most = min(most, self.rows * self.columns - 1)
        self.things: list[Thing] = []

    @property
    def cells(self) -> Cells:
        return cells_of(self.rows, self.columns)

    def cells_in(self, place: str) -> Cells:
        return tuple(cell for cell in self.cells if place_of(self.rows, self.columns, cell) == place)

    def looks(
        self, cell: tuple[int, int], shapes: Sequence[str] = SHAPES, colors: Sequence[str] = tuple(COLORS)
    ) -> list[tuple[str, str]]:
        """(shape, colour) that a thing in a cell may have."""
        place = place_of(self.rows, self.columns, cell)
        rules: tuple[bool | None, ...] = (False,) if self.held_out is False else (None,)
        if self.held_out is True and self.rng.random() < 0.5:
            rules = (True, None)
        for rule in rules:
            found = [look for look in looks_at(place, rule) if look[0] in shapes and look[1] in colors]
            if found:
                return found
        return []

    def put(
        self,
        *,
        shapes: Sequence[str] = SHAPES,
        colors: Sequence[str] = tuple(COLORS),
        cells: Sequence[tuple[int, int]] | None = None,
    ) -> Thing | None:
        """Adds a thing of these shapes and colours in one of these cells; `None` where no free cell may hold one."""
        taken = {(thing.row, thing.column) for thing in self.things}
        free = [cell for cell in (self.cells if cells is None else cells) if cell not in taken]
        self.rng.shuffle(free)
        for cell in free:
            looks = self.looks(cell, shapes, colors)
            if looks:
                thing = Thing(*self.rng.choice(looks), *cell)
                self.things.append(thing)
                return thing
        return None

    def scene(self, *, background: str | None = None, style: str = "filled") -> Scene:
        """The things put so far as a scene."""
        background = self.plan.choice(tuple(BACKGROUNDS)) if background is None else background
        return Scene(self.rows, self.columns, background, tuple(self.things), style)

    def crowd(self, low: int, high: int = MAX_THINGS) -> None:
        """Puts from `low` to `high` more things."""
        self.more(self.plan.randint(low, high), least=low)

    def more(
        self,
        number: int,
        *,
        least: int = 0,
        shapes: Sequence[str] = SHAPES,
        colors: Sequence[str] = tuple(COLORS),
    ) -> None:
        """Puts so many more things of these shapes and colours, as long as there are not too many."""
        for _ in range(max(least, min(number, self.most - len(self.things)))):
            self.put(shapes=shapes, colors=colors)

    def fill(self) -> None:
        """Puts from one to as many things as there are cells, each number with the same chance."""
        for _ in range(self.plan.randint(1, len(self.cells))):
            self.put()

    def style(self) -> str:
        return STYLES[self.plan.random() < OUTLINED_SHARE]

    def refer(self, thing: Thing, *scenes: Scene) -> Look | None:
        """Words that mean this thing alone in each of the scenes; `None` where there are none."""
        short = self.rng.random() < SHORT_SHARE
        for look in (Look(thing.shape),) * short + (Look(thing.shape, thing.color),):
            if all(look.of(scene) == [thing] for scene in scenes):
                return look
        return None


def other(rng: random.Random, options: Sequence[str], *excluded: str) -> str:
    """A random option but these."""
    return rng.choice([option for option in options if option not in excluded])
