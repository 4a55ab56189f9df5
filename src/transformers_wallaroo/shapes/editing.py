# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Instructions to edit, of ImgEdit's nine kinds, with their exact results. No torch."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from .asks import STEPS
from .draw import Draw, other
from .world import BACKGROUNDS, COLORS, HELD_OUT, MAX_THINGS, PLACES, SHAPES, STYLES, Scene, Thing

# Parts of a composed edit.
COMPOSED = ("remove", "adjust", "replace", "background", "add")
# How many things the source has at least and at most.
NUM_THINGS: dict[str, tuple[int, int]] = {
    "add": (1, MAX_THINGS - 1),
    "remove": (2, MAX_THINGS),
    "extract": (2, MAX_THINGS),
    "compose": (2, MAX_THINGS - 1),
}

Built = tuple[Scene, Scene, str]


@dataclass(frozen=True)
class Step:
    """One edit of a scene: the words, the scene after it, and the cell it speaks of (`None` is the whole picture)."""

    text: str
    scene: Scene
    cell: tuple[int, int] | None = None


def build(kind: str, draw: Draw) -> Built | None:
    """Source, target and instruction. With `held_out=True` a thing that the edit speaks of is a held-out combination,
    before or after; where it speaks of the whole picture, any thing."""
    draw.crowd(*NUM_THINGS.get(kind, (1, MAX_THINGS)))
    style = STYLES[draw.plan.random() < 0.5] if kind == "style" else draw.style()
    source = draw.scene(style=style)
    steps = _compose(draw, source) if kind == "compose" else [_KINDS[kind](draw, source)]
    if any(step is None for step in steps):
        return None
    done = [step for step in steps if step is not None]
    text, target = done[0].text, done[-1].scene
    if len(done) > 1:
        text = draw.language.say(draw.rng, "compose", one=text, two=done[1].text)
    if draw.held_out is False and (source.holds_out() or target.holds_out()):
        return None
    if draw.held_out is True and not _speaks_of_held_out(source, target, done):
        return None
    if draw.rng.random() < 0.125:
        text = draw.language.forms["please"].format(text=text)
    return source, target, draw.language.join(text)


def _speaks_of_held_out(source: Scene, target: Scene, steps: list[Step]) -> bool:
    changed = set(source.things) ^ set(target.things)
    cells = {step.cell for step in steps} | {(thing.row, thing.column) for thing in changed if len(steps) == 1}
    whole = cells == {None}
    ...


_KINDS: dict = {}
