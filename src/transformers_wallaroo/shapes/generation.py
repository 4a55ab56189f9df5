# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Prompts to draw, of GenEval's six kinds, with the picture that is learned for each. No torch.

Where a prompt leaves open how several things stand, the learned picture has them side by side in the order in which
they are named, somewhere: a small model then has one thing to guess, where to begin. The scorer takes any arrangement.
"""

from collections.abc import Callable

from .asks import STEPS, Ask, Look
from .draw import Draw
from .world import COLORS, GRID, PLACES, SHAPES, Scene, Thing

# Share of prompts that name the background, and of relations and pairs that say more than they need.
BACKGROUND_SHARE = 1 / 3
MORE_SHARE = 1 / 3
# Only these prompts can name shape, colour and place together, so only they can ask for what is held out.
HELD_OUT_KINDS = ("position", "color_attribution")

Built = tuple[Scene, Ask, str]


def build(kind: str, draw: Draw) -> Built | None:
    """Scene, ask and prompt; the scene holds exactly what is asked. With `held_out=True` the prompt names a held-out
    combination of shape, colour and place."""
    if kind == GRID:
        return _grid(draw)
    ask = _KINDS[kind](draw)
    if ask is None or (draw.held_out is True and not any(look.held_out for look in ask.looks)):
        return None
    scene = draw.scene()
    if draw.plan.random() < BACKGROUND_SHARE:
        ask = Ask(ask.looks, ask.relation, scene.background)
    return scene, ask, draw.language.caption(draw.wording, ask)


def _grid(draw: Draw) -> Built:
    draw.fill()
    scene = draw.scene()
    ask = Ask(tuple(Look(thing.shape, thing.color) for thing in scene.things), background=scene.background)
    return scene, ask, draw.language.join(draw.language.grid(scene))


def _ask(*things: Thing | None, colored: bool, **options: str) -> Ask | None:
    looks = [Look(thing.shape, thing.color if colored else None) for thing in things if thing is not None]
    return Ask(tuple(looks), **options) if len(looks) == len(things) else None


def _single_object(draw: Draw) -> Ask | None:
    return _ask(draw.put(), colored=False)


def _colors(draw: Draw) -> Ask | None:
    return _ask(draw.put(), colored=True)


def _counting(draw: Draw) -> Ask | None:
    shape, color, number = draw.rng.choice(SHAPES), draw.rng.choice(tuple(COLORS)), draw.plan.randint(2, 4)
    cells = _side_by_side(draw, number)
    return _ask(*(draw.put(shapes=[shape], colors=[color], cells=[cell]) for cell in cells), colored=False)


def _two_objects(draw: Draw) -> Ask | None:
    pairs = zip(draw.rng.sample(SHAPES, 2), _side_by_side(draw, 2), strict=True)
    return _ask(*(draw.put(shapes=[shape], cells=[cell]) for shape, cell in pairs), colored=False)


def _color_attribution(draw: Draw) -> Ask | None:
    """Two things that differ in shape and colour; a third of the prompts, and all held-out ones, name their places."""
    shapes, colors = draw.rng.sample(SHAPES, 2), draw.rng.sample(tuple(COLORS), 2)
    if draw.plan.random() >= MORE_SHARE and draw.held_out is not True:
        looks = zip(shapes, colors, _side_by_side(draw, 2), strict=True)
        return _ask(
            *(draw.put(shapes=[shape], colors=[color], cells=[cell]) for shape, color, cell in looks), colored=True
        )
    places = draw.rng.sample(PLACES, 2)
    for triple in zip(shapes, colors, places, strict=True):
        if draw.put(shapes=triple[:1], colors=triple[1:2], cells=draw.cells_in(triple[2])) is None:
            return None
    return Ask(tuple(Look(*triple) for triple in zip(shapes, colors, places, strict=True)))


def _position(draw: Draw) -> Ask | None:
    """Half of them places of one thing, half relations of two neighbours; held-out ones are all places."""
    if draw.plan.random() < 0.5 or draw.held_out is True:
        place = draw.rng.choice(PLACES)
        thing = draw.put(cells=draw.cells_in(place))
        return None if thing is None else Ask((Look(thing.shape, thing.color, place),))
    relation = draw.plan.choice(tuple(STEPS))
    down, right = STEPS[relation]
    steps = [((row + down, column + right), (row, column)) for row, column in draw.cells]
    first, second = draw.rng.choice([step for step in steps if step[0] in draw.cells])
    shapes = draw.rng.sample(SHAPES, 2)
    things = draw.put(shapes=shapes[:1], cells=[first]), draw.put(shapes=shapes[1:], cells=[second])
    return _ask(*things, colored=draw.plan.random() < MORE_SHARE, relation=relation)


def _side_by_side(draw: Draw, number: int) -> list[tuple[int, int]]:
    """So many cells in reading order: neighbours in a row where a row has room, else from the start of one."""
    starts = [
        index
        for index, (_, column) in enumerate(draw.cells)
        if (column + number <= draw.columns or column == 0) and index + number <= len(draw.cells)
    ]
    start = draw.rng.choice(starts)
    return list(draw.cells[start : start + number])


_KINDS: dict[str, Callable[[Draw], Ask | None]] = {
    "single_object": _single_object,
    "two_objects": _two_objects,
    "counting": _counting,
    "colors": _colors,
    "position": _position,
    "color_attribution": _color_attribution,
}
KINDS = tuple(_KINDS)
