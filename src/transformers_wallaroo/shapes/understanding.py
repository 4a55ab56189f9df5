# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Questions about scenes, of six kinds, with answers; and conversations, several about one scene. No torch."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

from .asks import STEPS, Look, stands
from .draw import Draw, looks_at, other
from .world import COLORS, GRID, HELD_OUT, MAX_THINGS, PLACES, SHAPES, Scene, Thing

# A kind for training alone, and how many questions it asks about its picture.
CONVERSATION = "conversation"
TURNS = 8
# Another: one question about several things, each named again in the answer, so that there is more to learn from than a
# single word.
LIST = "list"
ENTRIES = 5


@dataclass(frozen=True)
class Exchange:
    """A scene, what is asked, what is answered (both with a space between words), and the things it is about."""

    scene: Scene
    question: str
    answer: str
    about: tuple[Thing, ...]


def build(kind: str, draw: Draw) -> Exchange | None:
    """With `held_out=True` one of the things asked about is a held-out combination; where the answer is that there is
    none of them, one of the others."""
    exchange = _KINDS[kind](draw)
    if exchange is None:
        return None
    scene = exchange.scene
    about = exchange.about or scene.things
    if draw.held_out is True and not any((t.shape, t.color, scene.place_of(t)) in HELD_OUT for t in about):
        return None
    language = draw.language
    return Exchange(scene, language.join(exchange.question), language.join(exchange.answer), about)


def converse(draw: Draw) -> list[Exchange]:
    """Several questions about one scene, no two of them the same: for training, where they share a picture's tokens.
    Each kind but descriptions, which are long, is as likely, but the answers are as likely as the scene makes them."""
    draw.crowd(1)
    scene = draw.scene(style=draw.style())
    exchanges: dict[str, Exchange] = {}
    while len(exchanges) < TURNS:
        exchange = draw.rng.choice(_ABOUT)(draw, scene)
        if exchange is not None:
            question, answer = draw.language.join(exchange.question), draw.language.join(exchange.answer)
            exchanges.setdefault(question, Exchange(scene, question, answer, exchange.about))
    return list(exchanges.values())


def ask(draw: Draw, scene: Scene) -> Exchange | None:
    """A question about a scene, of any kind."""
    exchange = draw.rng.choice((*_ABOUT, _describe))(draw, scene)
    if exchange is None:
        return None
    language = draw.language
    return Exchange(scene, language.join(exchange.question), language.join(exchange.answer), exchange.about)


def _grid(draw: Draw) -> Exchange:
    draw.fill()
    scene = draw.scene(style=draw.style())
    return Exchange(scene, _say(draw, "grid"), draw.language.grid(scene), ())


def _list(draw: Draw) -> Exchange | None:
    """How many there are of each look, where each thing is, or how each pair stands; half of the scenes have a shape or
    a colour more than once, mostly."""
    if draw.plan.random() < 0.5:
        thing = draw.put()
        if thing is not None:
            look = draw.plan.choice((Look(shape=thing.shape), Look(color=thing.color)))
            _fill(draw, look, draw.plan.randint(1, MAX_THINGS - 1))
    draw.crowd(0 if draw.things else 1, MAX_THINGS - len(draw.things))
    scene = draw.scene(style=draw.style())
    return draw.rng.choice((_list_numbers, _list_numbers, _list_places, _list_relations))(draw, scene)


def _list_numbers(draw: Draw, scene: Scene) -> Exchange | None:
    looks: dict[Look, None] = {}
    while len(looks) < ENTRIES:
        thing = draw.rng.choice(scene.things)
        shape, color = (thing.shape, thing.color) if draw.rng.random() < 0.5 else draw.rng.choice(looks_at(None, None))
        looks.setdefault(draw.rng.choice((Look(shape, color), Look(shape=shape), Look(color=color))))
    numbers = draw.language.words["number"]
    entries = {draw.language.name(look, many=True): numbers[str(len(look.of(scene)))] for look in looks}
    return _say_list(draw, scene, "counting", "names", {name: (name, number) for name, number in entries.items()})


def _list_places(draw: Draw, scene: Scene) -> Exchange | None:
    entries: dict[str, tuple[str, str]] = {}
    for thing in draw.rng.sample(scene.things, len(scene.things)):
        place, look = scene.place_of(thing), draw.refer(thing, scene)
        if place is not None and look is not None:
            name = draw.language.the(look)
            entries[name] = name, draw.language.words["place"][place]
    return _say_list(draw, scene, "where", "x", entries)


def _list_relations(draw: Draw, scene: Scene) -> Exchange | None:
    entries: dict[str, tuple[str, str]] = {}
    for first, second in draw.rng.sample([*permutations(scene.things, 2)], len(scene.things) * (len(scene.things) - 1)):
        looks = draw.refer(first, scene), draw.refer(second, scene)
        relations = [relation for relation in STEPS if stands(first, relation, second)]
        if relations and looks[0] is not None and looks[1] is not None and len(entries) < ENTRIES - 2:
            names = [draw.language.the(look) for look in looks if look is not None]
            pair = draw.language.forms["and"].format(first=names[0], last=names[1])
            entries[pair] = names[0], draw.language.beside(relations[0], looks[1])
    return _say_list(draw, scene, "where", "x", entries)


def _say_list(draw: Draw, scene: Scene, kind: str, name: str, entries: dict[str, tuple[str, str]]) -> Exchange | None:
    """`entries` holds, for each text in the question, a name and a value for the answer."""
    if len(entries) < 2:  # the answer about one alone is its value
        return None
    comma, entry = draw.language.forms["comma"], draw.language.forms["entry"]
    question = _say(draw, kind, **{name: comma.join(entries)})
    answer = comma.join(entry.format(name=name, value=value) for name, value in entries.values())
    return Exchange(scene, question, answer, ())


def _presence(draw: Draw) -> Exchange | None:
    draw.crowd(1)
    return _ask_presence(draw, draw.scene(style=draw.style()))


def _ask_presence(draw: Draw, scene: Scene) -> Exchange | None:
    """Yes or no with the same chance; things that are not there share shape or colour with one that is."""
    there, form = draw.plan.random() < 0.5, draw.plan.choice(("both", "both", "both", "shape", "color"))
    thing = draw.rng.choice(scene.things)
    shape, color = thing.shape, thing.color
    if not there and (form == "shape" or (form == "both" and draw.rng.random() < 0.5)):
        shape = other(draw.rng, SHAPES, shape)
    elif not there:
        color = other(draw.rng, tuple(COLORS), color)
    look = Look(None if form == "color" else shape, None if form == "shape" else color)
    if bool(look.of(scene)) != there:
        return None
    question = _say(draw, "presence", a=draw.language.one(look), name=draw.language.name(look))
    return Exchange(scene, question, _yes(draw, "presence", there), tuple(look.of(scene)))


def _say(draw: Draw, kind: str, **values: str) -> str:
    return draw.language.say(draw.wording, kind, **values)


def _yes(draw: Draw, table: str, true: bool) -> str:
    return draw.language.words[table]["yes" if true else "no"]


def _fill(draw: Draw, look: Look, number: int) -> None:
    """Puts a number of things of a look."""
    shapes = SHAPES if look.shape is None else (look.shape,)
    colors = tuple(COLORS) if look.color is None else (look.color,)
    for _ in range(number):
        draw.put(shapes=shapes, colors=colors)


def _surround(draw: Draw, low: int, high: int, *looks: Look) -> None:
    """Puts from `low` to `high` things that no look fits; looks that all name a shape, or all a colour."""
    shapes = tuple(shape for shape in SHAPES if shape not in [look.shape for look in looks])
    colors = tuple(color for color in COLORS if color not in [look.color for look in looks])
    draw.more(draw.plan.randint(low, high), shapes=shapes, colors=colors)


def _counting(draw: Draw) -> Exchange | None:
    """Each number from 0 to 4 with the same chance; of a shape, of a colour, or of all things (then from 1)."""
    form, number = (
        draw.plan.choice(("shape", "shape", "shape", "color", "color", "all")),
        draw.plan.randint(0, MAX_THINGS),
    )
    look = Look()
    if form == "shape":
        look = Look(shape=draw.rng.choice(SHAPES))
    elif form == "color":
        look = Look(color=draw.rng.choice(tuple(COLORS)))
    else:
        number = draw.plan.randint(1, MAX_THINGS)
    _fill(draw, look, number)
    if form != "all":
        _surround(draw, int(number == 0), MAX_THINGS - number, look)
    scene = draw.scene(style=draw.style())
    if len(look.of(scene)) != number:
        return None
    question = _say(draw, "counting", names=draw.language.name(look, many=True))
    return Exchange(scene, question, draw.language.words["number"][str(number)], tuple(look.of(scene)))


def _ask_number(draw: Draw, scene: Scene) -> Exchange:
    """Of what is there as often as of what may not be."""
    thing = draw.rng.choice(scene.things)
    shape, color = (thing.shape, thing.color) if draw.rng.random() < 0.5 else draw.rng.choice(looks_at(None, None))
    look = draw.rng.choice((Look(shape=shape), Look(color=color), Look()))
    found = tuple(look.of(scene))
    question = _say(draw, "counting", names=draw.language.name(look, many=True))
    return Exchange(scene, question, draw.language.words["number"][str(len(found))], found)


def _color(draw: Draw) -> Exchange | None:
    """Of the only thing of a shape, or in one of six of the background."""
    if draw.plan.random() < 1 / 6:
        draw.crowd(1)
        return _name_color(draw, draw.scene(style=draw.style()))
    thing = draw.put()
    if thing is None:
        return None
    _surround(draw, 0, MAX_THINGS - 1, Look(thing.shape))
    return _name_color(draw, draw.scene(style=draw.style()), thing)


def _ask_color(draw: Draw, scene: Scene) -> Exchange:
    """Of the only thing of a shape, or of the background."""
    alone = [thing for thing in scene.things if len(Look(thing.shape).of(scene)) == 1]
    if not alone or draw.rng.random() < 1 / 6:
        return _name_color(draw, scene)
    return _name_color(draw, scene, draw.rng.choice(alone))


def _name_color(draw: Draw, scene: Scene, thing: Thing | None = None) -> Exchange:
    """Of a thing that its shape tells from all others, or of the background."""
    words = draw.language.words["color"]
    if thing is None:
        question = _say(draw, "color", x=draw.language.forms["background"])
        return Exchange(scene, question, words[scene.background], ())
    return Exchange(scene, _say(draw, "color", x=draw.language.the(Look(thing.shape))), words[thing.color], (thing,))


def _position(draw: Draw) -> Exchange | None:
    return _place(draw) if draw.plan.random() < 0.5 else _relation(draw)


def _place(draw: Draw) -> Exchange | None:
    place = draw.plan.choice(PLACES)
    thing = draw.put(cells=draw.cells_in(place))
    draw.crowd(0, MAX_THINGS - 1)
    return None if thing is None else _ask_place(draw, draw.scene(style=draw.style()), thing)


def _ask_place(draw: Draw, scene: Scene, thing: Thing | None = None) -> Exchange | None:
    """In which quarter a thing is; a random one by default."""
    thing = thing or draw.rng.choice(scene.things)
    place, look = scene.place_of(thing), draw.refer(thing, scene)
    if place is None or look is None:
        return None
    question = _say(draw, "where", x=draw.language.the(look))
    return Exchange(scene, question, draw.language.words["place"][place], (thing,))


def _relation(draw: Draw) -> Exchange | None:
    draw.crowd(2)
    return _ask_relation(draw, draw.scene(style=draw.style()))


def _ask_relation(draw: Draw, scene: Scene) -> Exchange | None:
    """Yes or no with the same chance. Nothing is asked where one could say both, as of things far above and a little
    to the left."""
    if len(scene.things) < 2:
        return None
    true, relation = draw.plan.random() < 0.5, draw.plan.choice(tuple(STEPS))
    first, second = draw.rng.sample(scene.things, 2)
    down, right = STEPS[relation]
    along = (first.row - second.row) * down + (first.column - second.column) * right
    if not (stands(first, relation, second) if true else along <= 0):
        return None
    looks = draw.refer(first, scene), draw.refer(second, scene)
    if looks[0] is None or looks[1] is None:
        return None
    beside = draw.language.beside(relation, looks[1])
    question = _say(draw, "related", x=draw.language.the(looks[0]), beside=beside)
    return Exchange(scene, question, _yes(draw, "truth", true), (first, second))


def _comparison(draw: Draw) -> Exchange | None:
    """Which of two groups has more things, or whether the first has more than the second; each answer with the same
    chance. Groups are two shapes or two colours."""
    by_shape, which, first_more = (draw.plan.random() < 0.5 for _ in range(3))
    names = draw.rng.sample(SHAPES if by_shape else tuple(COLORS), 2)
    looks = [Look(shape=name) if by_shape else Look(color=name) for name in names]
    numbers = range(MAX_THINGS + 1)
    counts = [
        (first, second)
        for first in numbers
        for second in numbers
        if 1 <= first + second <= MAX_THINGS and (first > second) == first_more and not (which and first == second)
    ]
    chosen = draw.plan.choice(counts)
    for look, number in zip(looks, chosen, strict=True):
        _fill(draw, look, number)
    _surround(draw, 0, MAX_THINGS - sum(chosen), *looks)
    scene = draw.scene(style=draw.style())
    if tuple(len(look.of(scene)) for look in looks) != chosen:
        return None
    return _compare(draw, scene, looks, which)


def _ask_comparison(draw: Draw, scene: Scene) -> Exchange | None:
    """Of a shape or a colour that is there with another."""
    thing = draw.rng.choice(scene.things)
    if draw.rng.random() < 0.5:
        looks = [Look(thing.shape), Look(other(draw.rng, SHAPES, thing.shape))]
    else:
        looks = [Look(color=thing.color), Look(color=other(draw.rng, tuple(COLORS), thing.color))]
    draw.rng.shuffle(looks)
    return _compare(draw, scene, looks, draw.rng.random() < 0.5)


def _compare(draw: Draw, scene: Scene, looks: list[Look], which: bool) -> Exchange | None:
    """Which of two groups has more things, or whether the first has more; the former of different numbers alone."""
    first, second = (len(look.of(scene)) for look in looks)
    if which and first == second:
        return None
    groups = [draw.language.name(look, many=True) for look in looks]
    question = _say(draw, "which" if which else "more", first=groups[0], second=groups[1])
    answer = groups[first < second] if which else _yes(draw, "truth", first > second)
    return Exchange(scene, question, answer, tuple(t for look in looks for t in look.of(scene)))


def _description(draw: Draw) -> Exchange:
    draw.crowd(1)
    return _describe(draw, draw.scene(style=draw.style()))


def _describe(draw: Draw, scene: Scene) -> Exchange:
    return Exchange(scene, _say(draw, "description"), draw.language.describe(scene), ())


_KINDS: dict[str, Callable[[Draw], Exchange | None]] = {
    "presence": _presence,
    "counting": _counting,
    "color": _color,
    "position": _position,
    "comparison": _comparison,
    "description": _description,
}
KINDS = tuple(_KINDS)
_KINDS |= {GRID: _grid, LIST: _list}
_ABOUT: tuple[Callable[[Draw, Scene], Exchange | None], ...] = (
    _ask_presence,
    _ask_number,
    _ask_color,
    _ask_place,
    _ask_relation,
    _ask_comparison,
)
