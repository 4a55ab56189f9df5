# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Talks about pictures in which questions, prompts and instructions take turns: what an answer should be. No torch."""

from dataclasses import dataclass

from . import editing, generation, understanding
from .draw import Draw
from .world import MAX_THINGS, Scene

# A kind of `understand`, for training and for the choice of head.
DIALOGUE = "dialogue"
TURNS = 4
# How often a turn asks, changes the last picture, or wants a new one, where there is a picture already.
ASK_SHARE, EDIT_SHARE = 0.4, 0.35
# How often a user begins by a picture of their own, and shows another later.
SHOW_SHARE, SHOW_AGAIN_SHARE = 0.6, 0.15


@dataclass(frozen=True)
class Turn:
    """What a user says and what is right to do.

    Attributes:
        text: a question, prompt or instruction.
        task: `"understand"`, `"generate"` or `"edit"`.
        shown: the picture that the user shows with it.
        answer: words, or the picture that is made.
    """

    text: str
    task: str
    shown: Scene | None
    answer: str | Scene


def build(draw: Draw) -> list[Turn] | None:
    """Some turns about pictures of one size."""
    turns: list[Turn] = []
    scene: Scene | None = None
    for number in range(TURNS):
        shown = None
        if draw.rng.random() < (SHOW_AGAIN_SHARE if number else SHOW_SHARE):
            draw.things = []
            draw.crowd(1)
            scene = shown = draw.scene(style=draw.style())
        turn = _turn(draw, scene, shown)
        if turn is None:
            return None
        turns.append(turn)
        if isinstance(turn.answer, Scene):
            scene = turn.answer
    return turns


def _turn(draw: Draw, scene: Scene | None, shown: Scene | None) -> Turn | None:
    chance = draw.rng.random()
    if scene is None or (shown is None and chance >= ASK_SHARE + EDIT_SHARE):
        return _drawn(draw)
    asks = chance < ASK_SHARE or (shown is not None and chance >= ASK_SHARE + EDIT_SHARE)
    return _asked(draw, scene, shown) if asks else _edited(draw, scene, shown)


def _drawn(draw: Draw) -> Turn | None:
    draw.things = []
    built = generation.build(draw.rng.choice(generation.KINDS), draw)
    return None if built is None else Turn(built[2], "generate", None, built[0])


def _edited(draw: Draw, scene: Scene, shown: Scene | None) -> Turn | None:
    draw.things = list(scene.things)
    step = editing.change(draw.rng.choice(editing.KINDS), draw, scene)
    if step is None or len(step.scene.things) > MAX_THINGS or (draw.held_out is False and step.scene.holds_out()):
        return None  # there are words for `MAX_THINGS` and no more
    return Turn(draw.language.join(step.text), "edit", shown, step.scene)


def _asked(draw: Draw, scene: Scene, shown: Scene | None) -> Turn | None:
    exchange = understanding.ask(draw, scene) if scene.things else None
    return None if exchange is None else Turn(exchange.question, "understand", shown, exchange.answer)
