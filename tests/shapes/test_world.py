# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Scenes and how they are drawn."""

import random
from itertools import combinations, product

import numpy as np
import pytest

from transformers_wallaroo.shapes import BACKGROUNDS, BUCKETS, CELL, COLORS, HELD_OUT, PLACES, SHAPES, STYLES
from transformers_wallaroo.shapes.world import Scene, Thing, cell_pixels, random_scene, render

LOOKS = list(product(SHAPES, COLORS, BACKGROUNDS, STYLES))


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Root mean square over values of 0 to 255."""
    return float(np.sqrt(((first.astype(float) - second) ** 2).mean()))


def luminance(color: tuple[int, int, int]) -> float:
    """Relative luminance as WCAG 2 has it."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in np.array(color) / 255
    ]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_there_is_enough_to_tell_apart():
    assert len(SHAPES) >= 4 and len(COLORS) >= 6 and len(BACKGROUNDS) >= 2
    ratios = sorted(height / width for _, height, width in BUCKETS)
    assert len(set(ratios)) >= 5 and ratios[0] == 0.5 and ratios[-1] == 2
    assert all(height % CELL == width % CELL == 0 for _, height, width in BUCKETS)


def test_no_two_cells_look_alike():
    bare = [cell_pixels(None, "", background, "") for background in BACKGROUNDS]
    cells = [cell_pixels(*look) for look in LOOKS] + bare
    assert len(cells) == 98
    assert min(distance(*pair) for pair in combinations(cells, 2)) > 15
    assert min(distance(cell, background) for cell in cells[:-2] for background in bare) > 30


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("color", COLORS)
def test_colors_stand_out_from_the_background(color, background):
    """By brightness, or where that is alike, as yellow on white, by hue."""
    low, high = sorted((luminance(COLORS[color]), luminance(BACKGROUNDS[background])))
    difference = np.abs(np.array(COLORS[color]) - BACKGROUNDS[background]).max()
    assert (high + 0.05) / (low + 0.05) > 3 or difference > 200


def test_held_out_leaves_every_pair_to_training():
    """Every shape and every colour stands in every place, and with each other, in what is not held out."""
    for shape, color in product(SHAPES, COLORS):
        assert sum((shape, color, place) not in HELD_OUT for place in PLACES) >= 2
    for place in PLACES:
        assert {shape for shape, color, where in HELD_OUT if where == place} <= set(SHAPES)
        kept = [(s, c) for s, c in product(SHAPES, COLORS) if (s, c, place) not in HELD_OUT]
        assert {s for s, _ in kept} == set(SHAPES) and {c for _, c in kept} == set(COLORS)
    assert all(s in SHAPES and c in COLORS and p in PLACES for s, c, p in HELD_OUT)


def test_places():
    scene = Scene(3, 4, "white")
    places = [scene.place_of(Thing("star", "red", row, column)) for row in range(3) for column in (0, 3)]
    assert places == ["top left", "top right", None, None, "bottom left", "bottom right"]


def test_render_puts_things_where_they_stand():
    scene = Scene(2, 4, "black", (Thing("circle", "red", 1, 3), Thing("star", "blue", 0, 1)), "outlined")
    pixels = np.asarray(render(scene))
    assert pixels.shape == (32, 64, 3) == (scene.height, scene.width, 3)
    expected = {(0, 1): ("star", "blue"), (1, 3): ("circle", "red")}
    for row, column in product(range(2), range(4)):
        cell = pixels[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        shape, color = expected.get((row, column), (None, ""))
        assert np.array_equal(cell, cell_pixels(shape, color, "black", "outlined"))
    assert [thing.shape for thing in scene.things] == ["star", "circle"], "things are in raster order"
    assert scene.free_cells() == [(0, 0), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2)]


def test_filled_and_outlined_differ_in_the_middle():
    middle = slice(7, 9)
    for shape, color in product(("circle", "square"), COLORS):
        filled, outlined = (cell_pixels(shape, color, "white", style)[middle, middle] for style in STYLES)
        assert (filled == COLORS[color]).all() and (outlined == BACKGROUNDS["white"]).all()


def test_holds_out():
    shape, color, _ = ("circle", "red", "top left")
    assert Scene(2, 2, "white", (Thing(shape, color, 0, 0),)).holds_out()
    assert not Scene(2, 2, "white", (Thing(shape, color, 0, 1), Thing("square", "red", 0, 0))).holds_out()


def test_random_scenes_are_of_a_seed():
    first, again = ([random_scene(random.Random(seed)) for seed in range(50)] for _ in range(2))
    assert first == again
    assert len(set(first)) > 45
    assert {len(scene.things) for scene in first} == {1, 2, 3, 4}
    assert {(scene.height, scene.width) for scene in first} == {(height, width) for _, height, width in BUCKETS}
