# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What the page offers to try. The shapes world has samples whose words and pictures are those of training."""

from dataclasses import dataclass
from pathlib import Path

from ..shapes import SIZES, make_sample
from .engine import Engine
from .pictures import save_picture

# (kind, index of the sample, language) of a seed that no training uses.
SEED = 30260
ASK = (("description", 3, "en"), ("color", 1, "en"), ("counting", 1, "zh"), ("description", 8, "zh"))
EDIT = (("adjust", 0, "en"), ("remove", 1, "en"), ("background", 2, "zh"), ("replace", 6, "zh"))
SHAPES_PROMPTS = (
    "a red circle and a blue star",
    "three green triangles on a black background",
    "a yellow square in the top right",
    "一个紫色的星形和一个橙色的圆形",
    "左上方有一个蓝色的正方形",
)
PROMPTS = (
    "a red kangaroo in tall grass, morning light",
    "a lantern over a frozen river at night",
    "a bowl of ramen, seen from above",
    "一只红色的袋鼠，水彩画",
    "雪山下的湖，清晨",
)


@dataclass(frozen=True)
class Examples:
    """Prompts to draw; (picture, question) to ask; (picture, instruction) to edit. Pictures are files."""

    draw: list[str]
    ask: list[tuple[str, str]]
    edit: list[tuple[str, str]]


def knows_shapes(engine: Engine) -> bool:
    """Whether a checkpoint is of the shapes world, as its sizes tell."""
    return set(engine.usual_sizes) == set(SIZES)


def make_examples(engine: Engine, folder: Path) -> Examples:
    """Writes the pictures into a folder. A checkpoint of another world gets prompts to draw alone."""
    if not knows_shapes(engine):
        return Examples(list(PROMPTS), [], [])
    ask, edit = [], []
    for kind, index, language in ASK:
        sample = make_sample("understand", index, SEED, kind=kind, language=language, bucket=(64, 64))
        file = save_picture(sample["images"][0], folder / f"ask-{kind}-{index}.png")
        ask.append((str(file), sample["messages"][0]["content"]))
    for kind, index, language in EDIT:
        sample = make_sample("edit", index, SEED, kind=kind, language=language, bucket=(64, 64))
        file = save_picture(sample["source_image"], folder / f"edit-{kind}-{index}.png")
        edit.append((str(file), sample["prompt"]))
    return Examples(list(SHAPES_PROMPTS), ask, edit)


__all__ = ["Examples", "knows_shapes", "make_examples"]
