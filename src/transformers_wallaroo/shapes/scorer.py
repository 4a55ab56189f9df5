# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Reads pictures of the shapes world back into scenes and scores answers, pictures and edits. No torch.

Nothing is forgiven: a picture is right when it shows exactly what was asked, in the size that was asked, and no cell
of it is anything but background or a thing as `render` draws it, up to noise.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from .asks import Ask, stands
from .language import get_language
from .world import BACKGROUNDS, CELL, COLORS, SHAPES, STYLES, Scene, Thing, cell_pixels, random_scene, render

# A cell further than this from every template is unknown: root mean square over its values, 0 to 255. The tokenizer of
# wallaroo-tiny puts no cell further than 6.3 from its own (measured on 300 scenes). Any thing is 36 or more from the
# bare background, so that the ghost of one, half drawn, is 18 or more from both: the limit lies between. The two
# nearest templates, a yellow and an orange star in outline, are 16 apart.
MAX_DISTANCE = 12.0


@dataclass(frozen=True)
class Reading:
    """What a picture shows.

    Attributes:
        scene: the cells that could be read; `background` and `style` are those of most of them.
        odd: (row, column) of the cells that are unlike every template, or of another background or style than most.
    """

    scene: Scene
    odd: tuple[tuple[int, int], ...]

    def shows(self, scene: Scene) -> bool:
        """Whether it is this scene exactly. The style of a scene without things is nothing to see."""
        read = self.scene
        same_style = read.style == scene.style or not scene.things
        return not self.odd and same_style and _but_style(read) == _but_style(scene)


def _but_style(scene: Scene) -> tuple[Any, ...]:
    return scene.rows, scene.columns, scene.background, scene.things


@cache
def _templates() -> tuple[list[tuple[str | None, str, str, str]], np.ndarray]:
    """(shape, colour, background, style) of the 98 cells there can be, and their values float32 `(98, values)`."""
    kinds: list[tuple[str | None, str, str, str]] = [(None, "", background, "") for background in BACKGROUNDS]
    kinds += [(s, c, b, style) for s in SHAPES for c in COLORS for b in BACKGROUNDS for style in STYLES]
    return kinds, np.stack([cell_pixels(*kind).reshape(-1) for kind in kinds]).astype(np.float32)


def _cells(image: Image.Image | np.ndarray) -> tuple[int, int, np.ndarray]:
    """Rows, columns, and the values of each cell in raster order, float32 `(rows * columns, values)`."""
    pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size or pixels.shape[0] % CELL or pixels.shape[1] % CELL:
        raise ValueError(
            f"`image` must be RGB with sides that are multiples of {CELL} pixels, but its shape is {pixels.shape}."
        )
    rows, columns = pixels.shape[0] // CELL, pixels.shape[1] // CELL
    cells = pixels.reshape(rows, CELL, columns, CELL, 3).transpose(0, 2, 1, 3, 4)
    return rows, columns, cells.reshape(rows * columns, -1).astype(np.float32)


def read_scene(image: Image.Image | np.ndarray) -> Reading:
    """Reads a picture (uint8 RGB) cell by cell: each is the nearest of the cells there can be, if it is near enough."""
    rows, columns, cells = _cells(image)
    kinds, templates = _templates()
    squares = (cells**2).sum(1)[:, None] - 2 * cells @ templates.T + (templates**2).sum(1)
    nearest = squares.argmin(1)
    near = squares[np.arange(len(cells)), nearest] <= MAX_DISTANCE**2 * cells.shape[1]
    read = {divmod(cell, columns): kinds[nearest[cell]] for cell in np.flatnonzero(near).tolist()}
    background = _most([kind[2] for kind in read.values()], "white")
    style = _most([kind[3] for kind in read.values() if kind[0] is not None], "filled")
    things = tuple(Thing(kind[0], kind[1], *cell) for cell, kind in read.items() if kind[0] is not None)
    every = (divmod(cell, columns) for cell in range(rows * columns))
    odd = (cell for cell in every if cell not in read or not _agrees(read[cell], background, style))
    return Reading(Scene(rows, columns, background, things, style), tuple(odd))


def _most(names: list[str], default: str) -> str:
    return Counter(names).most_common(1)[0][0] if names else default


def _agrees(kind: tuple[str | None, str, str, str], background: str, style: str) -> bool:
    return kind[2] == background and (kind[0] is None or kind[3] == style)


def _has_size(image: Image.Image | np.ndarray, sample: Mapping[str, Any]) -> bool:
    height, width = (image.height, image.width) if isinstance(image, Image.Image) else image.shape[:2]
    return (height, width) == (sample["height"], sample["width"])


def _wrong_size() -> dict[str, Any]:
    return {"correct": 0, "size_exact": 0, "reasons": ["size"]}


def score_generate(image: Image.Image | np.ndarray, sample: Mapping[str, Any]) -> dict[str, Any]:
    """Scores a picture for a prompt. What the prompt does not say may be anything, the style too.

    Returns:
        `correct` and `size_exact`, 0 or 1, and `reasons`: what is wrong, of `"size"`, `"odd cells"`, `"number"`,
        `"things"` (shape, colour, place or relation) and `"background"`.
    """
    if not _has_size(image, sample):
        return _wrong_size()
    ask, reading = sample["meta"]["ask"], read_scene(image)
    checks = {
        "odd cells": not reading.odd,
        "number": len(reading.scene.things) == len(ask.looks),
        "things": _shows_things(reading.scene, ask),
        "background": ask.background in (None, reading.scene.background),
    }
    reasons = [name for name, passed in checks.items() if not passed]
    return {"correct": int(not reasons), "size_exact": 1, "reasons": reasons}


def _shows_things(scene: Scene, ask: Ask) -> bool:
    """Whether each look can be given a thing of its own, with the first two in the relation that is asked."""
    return any(
        all(look.fits(scene, thing) for look, thing in zip(ask.looks, things, strict=True))
        and (ask.relation is None or stands(things[0], ask.relation, things[1]))
        for things in permutations(scene.things, len(ask.looks))
    )


def score_edit(image: Image.Image | np.ndarray, sample: Mapping[str, Any]) -> dict[str, Any]:
    """Scores an edited picture.

    Returns:
        `correct`, `size_exact` and `reasons` as `score_generate`, where `"things"` means that they are not those of the
        target, and there is `"style"`; and `preserved`: the share of the things the edit leaves alone that are still in
        their cell with their shape and colour, or `None` where it leaves none alone.
    """
    source, target = sample["meta"]["source"], sample["meta"]["target"]
    alone = set(source.things) & set(target.things)
    if not _has_size(image, sample):
        return {**_wrong_size(), "preserved": 0.0 if alone else None}
    reading = read_scene(image)
    scene = reading.scene
    checks = {
        "odd cells": not reading.odd,
        "number": len(scene.things) == len(target.things),
        "things": scene.things == target.things,
        "background": scene.background == target.background,
        "style": scene.style == target.style,
    }
    reasons = [name for name, passed in checks.items() if not passed]
    preserved = len(alone & set(scene.things)) / len(alone) if alone else None
    return {"correct": int(not reasons), "size_exact": 1, "reasons": reasons, "preserved": preserved}


def score_understand(text: str, sample: Mapping[str, Any]) -> dict[str, Any]:
    """Scores an answer: `correct` 0 or 1, and `answer` as it was compared. It must be the same words as expected,
    whatever the case, the spaces around it and a full stop; a description may name the things in any order."""
    meta, language = sample["meta"], get_language(sample["language"])
    answer = normalize(text)
    correct = answer == meta["answer"]
    if sample["kind"] == "description":
        scene = meta["scene"]
        things = Counter((thing.shape, thing.color) for thing in scene.things)
        correct = language.parse_description(answer) == (things, scene.background)
    return {"correct": int(correct), "answer": answer}


def normalize(text: str) -> str:
    """Small letters, single spaces, no full stop at the end."""
    return re.sub(r"\s+", " ", text).strip().lower().rstrip(".。 ")


def score(output: Any, sample: Mapping[str, Any]) -> dict[str, Any]:
    """Scores a picture or a text by the task of the sample."""
    return _SCORES[sample["task"]](output, sample)


_SCORES: dict[str, Callable[[Any, Mapping[str, Any]], dict[str, Any]]] = {
    "generate": score_generate,
    "edit": score_edit,
    "understand": score_understand,
}


def scorer_report(
    n: int, transform: Callable[[Image.Image], Image.Image] | None = None, *, seed: int = 0
) -> dict[str, Any]:
    """How many of `n` random scenes, half of them outlined, are read back exactly.

    Args:
        transform: what pictures go through before they are read, such as encoding and decoding with the tokenizer.

    Returns:
        `scenes`: `n`; `exact`: share of scenes read exactly; `filled` and `outlined`: the share among these; `cells`:
        share of cells read as they are; `failed`: the first scenes (at most 10) that were not read exactly.
    """
    rng = Random(f"scorer/{seed}")
    exact: dict[str, list[bool]] = {style: [] for style in STYLES}
    wrong_cells = num_cells = 0
    failed: list[Scene] = []
    for index in range(n):
        scene = random_scene(rng, style=STYLES[index % len(STYLES)])
        image = render(scene)
        reading = read_scene(image if transform is None else transform(image))
        exact[scene.style].append(reading.shows(scene))
        if not reading.shows(scene):
            failed.append(scene)
        misread = {(thing.row, thing.column) for thing in set(scene.things) ^ set(reading.scene.things)}
        wrong_cells += len(misread | set(reading.odd))
        num_cells += scene.rows * scene.columns
    shares = {style: sum(values) / max(len(values), 1) for style, values in exact.items()}
    return {
        "scenes": n,
        "exact": sum(map(sum, exact.values())) / max(n, 1),
        **shares,
        "cells": 1 - wrong_cells / max(num_cells, 1),
        "failed": failed[:10],
    }
