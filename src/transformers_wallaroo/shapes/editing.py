# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Instructions to edit, of ImgEdit's nine kinds, with their exact results. No torch."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from .asks import STEPS, Look
from .draw import Draw, other
from .world import BACKGROUNDS, COLORS, HELD_OUT, MAX_THINGS, PLACES, SHAPES, STYLES, Scene, Thing

# Two of these make a composed edit.
COMPOSED = ("remove", "adjust", "replace", "background", "add")
# How many things a source has at least and at most, where it is not 1 to `MAX_THINGS`.
NUM_THINGS: dict[str, tuple[int, int]] = {
    "add": (1, MAX_THINGS - 1),
    "remove": (2, MAX_THINGS),
    "extract": (2, MAX_THINGS),
    "compose": (2, MAX_THINGS - 1),
}
PLEASE_SHARE = 1 / 8
# Share of things that are added next to another; the rest goes into corners.
BESIDE_SHARE = 0.5

# A kind for training alone: the source once more. It shows where in the source each cell of the target is, before there
# is anything to change.
COPY = "copy"
# Another: several changes of a fuller picture. In an edit of few things most cells of the target are the source's, so
# there is little to learn from each.
CHANGES = "changes"
CHANGED = ("remove", "adjust", "replace", "add", "action")
MAX_CHANGES = 6
# How often each of the changes of the whole picture is among them.
WHOLE_SHARE = 0.15

Cell = tuple[int, int]


@dataclass(frozen=True)
class Step:
    """One change: the words, the scene after it, and the cells that it is about (none: the whole picture)."""

    text: str
    scene: Scene
    cells: tuple[Cell, ...] = ()


Built = tuple[Scene, Scene, str]
# Takes the draw, the scenes that words must be clear in (the last one is changed), and cells to leave alone.
Change = Callable[[Draw, tuple[Scene, ...], tuple[Cell, ...]], Step | None]


def build(kind: str, draw: Draw) -> Built | None:
    """Source, target and instruction. With `held_out=True` a thing the edit is about is a held-out combination, before
    or after it; where it is about the whole picture, any thing."""
    if kind in (COPY, CHANGES):
        draw.fill()
    else:
        draw.crowd(*NUM_THINGS.get(kind, (1, MAX_THINGS)))
    style = draw.plan.choice(STYLES) if kind == "style" else draw.style()
    source = draw.scene(style=style)
    step = change(kind, draw, source)
    if step is None or (draw.held_out is False and (source.holds_out() or step.scene.holds_out())):
        return None
    if draw.held_out is True and not _is_about_held_out(source, step):
        return None
    polite = draw.rng.random() < PLEASE_SHARE
    text = draw.language.forms["please"].format(text=step.text) if polite else step.text
    return source, step.scene, draw.language.join(text)


def change(kind: str, draw: Draw, source: Scene) -> Step | None:
    """An edit of a scene, whose things `draw` holds; the words have a space between any two."""
    return _BUILDERS[kind](draw, source) if kind in _BUILDERS else _STEPS[kind](draw, (source,), ())


def _is_about_held_out(source: Scene, step: Step) -> bool:
    return any(
        (thing.shape, thing.color, scene.place_of(thing)) in HELD_OUT
        for scene in (source, step.scene)
        for thing in scene.things
        if not step.cells or (thing.row, thing.column) in step.cells
    )


def _compose(draw: Draw, source: Scene) -> Step | None:
    """Two changes of different kinds and things, the second told in words that are clear before and after the first."""
    first_kind, second_kind = draw.plan.sample(COMPOSED, 2)
    first = _STEPS[first_kind](draw, (source,), ())
    second = first and _STEPS[second_kind](draw, (source, first.scene), first.cells)
    if first is None or second is None:
        return None
    text = draw.language.say(draw.wording, "compose", one=first.text, two=second.text)
    return Step(text, second.scene, first.cells + second.cells)


def _change_many(draw: Draw, source: Scene) -> Step | None:
    """Up to `MAX_CHANGES` changes, and now and then of the background and of the style, in any order. Those that
    cannot be made are left out."""
    kinds = [draw.rng.choice(CHANGED) for _ in range(draw.plan.randint(1, MAX_CHANGES))]
    kinds += [kind for kind in ("background", "style") if draw.rng.random() < WHOLE_SHARE]
    draw.rng.shuffle(kinds)
    scenes: tuple[Scene, ...] = (source,)
    cells: tuple[Cell, ...] = ()
    texts = []
    for kind in kinds:
        step = _STEPS[kind](draw, scenes, cells)
        if step is not None:
            scenes, cells = (*scenes, step.scene), cells + step.cells
            texts.append(step.text)
    return Step(draw.language.list(texts), scenes[-1], cells) if texts else None


def _subject(draw: Draw, scenes: tuple[Scene, ...], avoid: tuple[Cell, ...]) -> tuple[Thing, Look] | None:
    """A random thing that words can mean in all the scenes, and the words."""
    things = [thing for thing in scenes[-1].things if _cell(thing) not in avoid]
    draw.rng.shuffle(things)
    for thing in things:
        look = draw.refer(thing, *scenes)
        if look is not None:
            return thing, look
    return None


def _cell(thing: Thing) -> Cell:
    return thing.row, thing.column


def _swap(scene: Scene, old: Thing, *new: Thing) -> Scene:
    return scene.with_things([thing for thing in scene.things if thing != old] + list(new))


def _about(kind: str, change: Callable[[Draw, Scene, Thing], tuple[Scene, dict[str, str]] | None]) -> Change:
    """A change of one thing that is there: `change` gives the scene after it and what else the words need."""

    def apply(draw: Draw, scenes: tuple[Scene, ...], avoid: tuple[Cell, ...]) -> Step | None:
        subject = _subject(draw, scenes, avoid)
        changed = subject and change(draw, scenes[-1], subject[0])
        if subject is None or changed is None:
            return None
        thing, look = subject
        after, values = changed
        moved = tuple(_cell(new) for new in after.things if new not in scenes[-1].things)
        text = draw.language.say(draw.wording, kind, x=draw.language.the(look), **values)
        return Step(text, after, (_cell(thing), *moved))

    return apply


def _remove(_: Draw, scene: Scene, thing: Thing) -> tuple[Scene, dict[str, str]]:
    return _swap(scene, thing), {}


def _extract(_: Draw, scene: Scene, thing: Thing) -> tuple[Scene, dict[str, str]]:
    return replace(scene, things=(thing,), background="white"), {}


def _adjust(draw: Draw, scene: Scene, thing: Thing) -> tuple[Scene, dict[str, str]]:
    color = other(draw.rng, tuple(COLORS), thing.color)
    return _swap(scene, thing, replace(thing, color=color)), {"color": draw.language.words["color"][color]}


def _replace(draw: Draw, scene: Scene, thing: Thing) -> tuple[Scene, dict[str, str]]:
    """The new thing has another shape; the colour is a random one."""
    new = replace(thing, shape=other(draw.rng, SHAPES, thing.shape), color=draw.rng.choice(tuple(COLORS)))
    return _swap(scene, thing, new), {"a": draw.language.one(Look(new.shape, new.color))}


def _action(draw: Draw, scene: Scene, thing: Thing) -> tuple[Scene, dict[str, str]] | None:
    free = scene.free_cells()
    steps = [name for name, (down, right) in STEPS.items() if (thing.row + down, thing.column + right) in free]
    if not steps:
        return None
    name = draw.rng.choice(steps)
    down, right = STEPS[name]
    after = _swap(scene, thing, replace(thing, row=thing.row + down, column=thing.column + right))
    return after, {"step": draw.language.words["step"][name]}


def _add(draw: Draw, scenes: tuple[Scene, ...], avoid: tuple[Cell, ...]) -> Step | None:
    """In a corner cell, or half of the time in the cell next to a thing."""
    scene = scenes[-1]
    beside: tuple[Cell, ...] = ()
    corners = {
        name: (scene.rows - 1 if "bottom" in name else 0, scene.columns - 1 if "right" in name else 0)
        for name in PLACES
    }
    wheres = [(cell, draw.language.words["corner"][name]) for name, cell in corners.items()]
    if draw.plan.random() < BESIDE_SHARE:
        subject = _subject(draw, scenes, avoid)
        if subject is None:
            return None
        thing, look = subject
        beside = (_cell(thing),)
        wheres = [
            ((thing.row + down, thing.column + right), draw.language.neighbor(name, look))
            for name, (down, right) in STEPS.items()
        ]
    free = [cell for cell in scene.free_cells() if cell not in avoid]
    wheres = [where for where in wheres if where[0] in free]
    if not wheres:
        return None
    cell, where = draw.rng.choice(wheres)
    new = draw.put(cells=[cell])
    if new is None:
        return None
    text = draw.language.say(draw.wording, "add", a=draw.language.one(Look(new.shape, new.color)), where=where)
    return Step(text, scene.with_things([*scene.things, new]), (cell, *beside))


def _background(draw: Draw, scenes: tuple[Scene, ...], _: tuple[Cell, ...]) -> Step:
    color = other(draw.rng, tuple(BACKGROUNDS), scenes[-1].background)
    text = draw.language.say(draw.wording, "background", color=draw.language.words["color"][color])
    return Step(text, replace(scenes[-1], background=color))


def _style(draw: Draw, scenes: tuple[Scene, ...], _: tuple[Cell, ...]) -> Step:
    style = other(draw.rng, STYLES, scenes[-1].style)
    return Step(draw.language.say(draw.wording, style), replace(scenes[-1], style=style))


def _copy(draw: Draw, scenes: tuple[Scene, ...], _: tuple[Cell, ...]) -> Step:
    return Step(draw.language.say(draw.wording, "copy"), scenes[-1])


_STEPS: dict[str, Change] = {
    "add": _add,
    "remove": _about("remove", _remove),
    "replace": _about("replace", _replace),
    "adjust": _about("adjust", _adjust),
    "background": _background,
    "extract": _about("extract", _extract),
    "style": _style,
    "action": _about("action", _action),
    COPY: _copy,
}
# Those of several steps.
_BUILDERS: dict[str, Callable[[Draw, Scene], Step | None]] = {"compose": _compose, CHANGES: _change_many}
KINDS = ("add", "remove", "replace", "adjust", "background", "extract", "style", "compose", "action")
