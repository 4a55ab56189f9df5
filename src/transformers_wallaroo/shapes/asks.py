# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What is said of scenes, apart from the words: looks of things, asks and relations. Pure Python."""

from dataclasses import dataclass

from .world import HELD_OUT, Scene, Thing

# (rows, columns) from the second thing to the first, or of one step of a move.
STEPS: dict[str, tuple[int, int]] = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}


@dataclass(frozen=True)
class Look:
    """What is said of a thing; `None` is anything. `place` is one of `PLACES`, a quarter of the picture."""

    shape: str | None = None
    color: str | None = None
    place: str | None = None

    def fits(self, scene: Scene, thing: Thing) -> bool:
        return (
            self.shape in (None, thing.shape)
            and self.color in (None, thing.color)
            and (self.place is None or self.place == scene.place_of(thing))
        )

    def of(self, scene: Scene) -> list[Thing]:
        """The things of a scene it fits."""
        return [thing for thing in scene.things if self.fits(scene, thing)]

    @property
    def held_out(self) -> bool:
        return (self.shape, self.color, self.place) in HELD_OUT


@dataclass(frozen=True)
class Ask:
    """What a prompt asks to draw: exactly these things and no other.

    Attributes:
        looks: one for each thing.
        relation: key of `STEPS`, how the first thing stands to the second.
        background: as asked, `None` where the prompt does not say.
    """

    looks: tuple[Look, ...]
    relation: str | None = None
    background: str | None = None


def stands(first: Thing, relation: str, second: Thing) -> bool:
    """Whether the first thing is, say, to the left of the second: further to the left than it is up or down."""
    rows, columns = first.row - second.row, first.column - second.column
    down, right = STEPS[relation]
    along, across = rows * down + columns * right, rows * right + columns * down
    return along > abs(across)
