# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The scorer: right on what is right, and wrong on everything else."""

import io
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from transformers_wallaroo.shapes import (
    BACKGROUNDS,
    CELL,
    COLORS,
    KINDS,
    LANGUAGES,
    SHAPES,
    STYLES,
    Ask,
    Look,
    Scene,
    Thing,
    make_sample,
    read_scene,
    render,
    score,
    score_edit,
    score_generate,
    score_understand,
    scorer_report,
)
from transformers_wallaroo.shapes.world import cell_pixels

BARE = {background: (None, "", background, "") for background in BACKGROUNDS}
SCENE = Scene(
    3, 4, "white", (Thing("circle", "red", 0, 1), Thing("star", "blue", 2, 3), Thing("square", "green", 2, 0))
)


def jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, subsampling=0)
    return Image.open(file)


def resampled(image: Image.Image) -> Image.Image:
    large = image.resize((image.width * 3 // 2, image.height * 3 // 2), Image.Resampling.BICUBIC)
    return large.resize(image.size, Image.Resampling.BICUBIC)


def noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 8, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def with_cell(scene: Scene, row: int, column: int, pixels) -> np.ndarray:
    picture = np.array(render(scene))
    picture[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = pixels
    return picture


def drawing(scene: Scene, ask: Ask) -> dict:
    return {"task": "generate", "height": scene.height, "width": scene.width, "meta": {"scene": scene, "ask": ask}}


def spoiled(scene: Scene) -> dict[str, Scene]:
    """The scene with one thing changed in each way."""
    first, rest = scene.things[0], list(scene.things[1:])
    colors, shapes = list(COLORS), list(SHAPES)
    free = scene.free_cells()
    return {
        "color": scene.with_things([*rest, replace(first, color=colors[colors.index(first.color) - 1])]),
        "shape": scene.with_things([*rest, replace(first, shape=shapes[shapes.index(first.shape) - 1])]),
        "moved": scene.with_things([*rest, Thing(first.shape, first.color, *free[-1])]),
        "missing": scene.with_things(rest),
        "extra": scene.with_things([*scene.things, Thing(first.shape, first.color, *free[0])]),
        "background": replace(scene, background="black" if scene.background == "white" else "white"),
        "style": replace(scene, style="outlined" if scene.style == "filled" else "filled"),
    }


# ------------------------------------------------------------------ reading


def test_every_rendered_scene_is_read_exactly():
    report = scorer_report(1000)
    assert report == {"scenes": 1000, "exact": 1.0, "filled": 1.0, "outlined": 1.0, "cells": 1.0, "failed": []}


@pytest.mark.parametrize("transform", [jpeg, resampled, noisy])
def test_reading_bears_a_little_noise(transform):
    assert scorer_report(300, transform)["exact"] >= 0.99


def test_the_report_sees_what_a_transform_breaks():
    report = scorer_report(200, lambda image: image.convert("L").convert("RGB"))
    assert report["exact"] < 0.05 and report["cells"] < 0.95
    assert len(report["failed"]) == 10 and all(isinstance(scene, Scene) for scene in report["failed"])
    mirrored = scorer_report(200, lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert mirrored["exact"] < 0.2, "the same things in other cells are another scene"


def test_a_reading_shows_its_scene_alone():
    reading = read_scene(render(SCENE))
    assert reading.scene == SCENE and reading.odd == () and reading.shows(SCENE)
    for name, other in spoiled(SCENE).items():
        assert not reading.shows(other), name
        assert read_scene(np.asarray(render(other))).shows(other), name
    assert not reading.shows(Scene(4, 3, "white", SCENE.things[:1]))
    empty = Scene(2, 2, "black")
    assert read_scene(render(empty)).shows(replace(empty, style="outlined")), "without things, no style is to be seen"


@pytest.mark.parametrize(
    "pixels",
    [
        np.random.default_rng(1).integers(0, 256, (CELL, CELL, 3)),
        np.full((CELL, CELL, 3), 128),
        np.roll(cell_pixels("square", "red", "white", "filled"), CELL // 2, axis=1),
        cell_pixels(None, "", "black", ""),
        cell_pixels("circle", "red", "black", "filled"),
        cell_pixels("circle", "red", "white", "outlined"),
    ],
    ids=["noise", "grey", "between cells", "other background", "thing on another background", "other style"],
)
def test_odd_cells_are_named(pixels):
    reading = read_scene(with_cell(SCENE, 1, 2, pixels))
    assert reading.odd == ((1, 2),)
    assert set(SCENE.things) <= set(reading.scene.things)
    assert not reading.shows(SCENE) and not reading.shows(reading.scene)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_half_a_thing_is_odd(shape, background, style):
    """What is half faded away is neither there nor gone."""
    scene = Scene(2, 2, background, (Thing("square", "blue", 0, 0),), style)
    for color in COLORS:
        thing, bare = (
            cell_pixels(*kind).astype(float) for kind in ((shape, color, background, style), BARE[background])
        )
        reading = read_scene(with_cell(scene, 1, 1, 0.5 * thing + 0.5 * bare))
        assert reading.odd == ((1, 1),) and not reading.shows(scene), color
        # Nearly whole, or nearly gone, is noise.
        for share, others in ((0.95, (Thing(shape, color, 1, 1),)), (0.05, ())):
            faded = read_scene(with_cell(scene, 1, 1, share * thing + (1 - share) * bare))
            assert faded.shows(scene.with_things([*scene.things, *others])), (color, share)


def test_noise_alone_is_no_scene():
    reading = read_scene(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    assert len(reading.odd) == 16 and not reading.scene.things


@pytest.mark.parametrize("shape", [(60, 64, 3), (64, 64), (64, 64, 4), (0, 64, 3)])
def test_pictures_off_the_grid_are_refused(shape):
    with pytest.raises(
        ValueError, match="`image` must be RGB with sides that are multiples of 16 pixels, but its shape"
    ):
        read_scene(np.zeros(shape, np.uint8))


# ------------------------------------------------------------------ scores


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("task", KINDS)
def test_samples_score_full_marks(task, held_out):
    for index in range(200):
        sample = make_sample(task, index, 31, held_out=held_out)
        result = score(sample["meta"]["answer"] if task == "understand" else sample["image"], sample)
        assert result["correct"] == 1 and result.get("size_exact", 1) == 1 and not result.get("reasons")
        assert result.get("preserved") in (None, 1.0)


@pytest.mark.parametrize("kind", KINDS["generate"])
def test_a_drawing_must_show_what_is_asked_and_no_more(kind):
    for index in range(40):
        sample = make_sample("generate", index, 32, kind=kind)
        ask, scene = sample["meta"]["ask"], sample["meta"]["scene"]
        others = spoiled(scene)
        for name in ("missing", "extra", "shape"):
            result = score_generate(render(others[name]), sample)
            assert result["correct"] == 0 and result["reasons"], (name, sample["prompt"])
        assert score_generate(render(others["missing"]), sample)["reasons"][0] == "number"
        named = ask.looks[0].color is not None
        assert score_generate(render(others["color"]), sample)["correct"] == int(not named)
        assert score_generate(render(others["background"]), sample)["correct"] == int(ask.background is None)
        grey = with_cell(scene, *scene.free_cells()[0], 128)
        assert score_generate(grey, sample) == {"correct": 0, "size_exact": 1, "reasons": ["odd cells"]}


@pytest.mark.parametrize(
    "things",
    [
        (Thing("star", "red", 0, 0), Thing("circle", "red", 0, 3)),
        (Thing("star", "red", 0, 0), Thing("circle", "blue", 1, 3)),
    ],
)
def test_relations(things):
    """The first is further to the left than it is up or down."""
    scene = Scene(2, 4, "white", things)
    looks = Look("star"), Look("circle")
    right = {
        relation: score_generate(render(scene), drawing(scene, Ask(looks, relation)))["correct"]
        for relation in ("left", "right", "above", "below")
    }
    assert right == {"left": 1, "right": 0, "above": 0, "below": 0}
    turned = score_generate(render(scene), drawing(scene, Ask(looks[::-1], "right")))
    assert turned["correct"] == 1
    assert score_generate(render(scene), drawing(scene, Ask(looks, "right")))["reasons"] == ["things"]


def test_relations_do_not_hold_on_the_diagonal():
    scene = Scene(2, 4, "white", (Thing("star", "red", 0, 0), Thing("circle", "red", 1, 1)))
    for relation in ("left", "right", "above", "below"):
        assert (
            score_generate(render(scene), drawing(scene, Ask((Look("star"), Look("circle")), relation)))["correct"] == 0
        )


def test_colors_and_places_belong_to_their_things():
    ask = Ask((Look("circle", "red"), Look("star", "blue")))
    right = Scene(2, 2, "white", (Thing("star", "blue", 0, 0), Thing("circle", "red", 1, 1)))
    wrong = Scene(2, 2, "white", (Thing("star", "red", 0, 0), Thing("circle", "blue", 1, 1)))
    assert score_generate(render(right), drawing(right, ask))["correct"] == 1
    assert score_generate(render(wrong), drawing(wrong, ask))["reasons"] == ["things"]
    placed = Ask((Look("circle", "red", "top left"), Look("star", "blue", "bottom right")))
    assert score_generate(render(right), drawing(right, placed))["reasons"] == ["things"]


@pytest.mark.parametrize("task", ["generate", "edit"])
@pytest.mark.parametrize("size", [(80, 64), (64, 80), (63, 64), (128, 128)])
def test_a_picture_of_another_size_scores_nothing(task, size):
    sample = make_sample(task, 0, 33, bucket=(64, 64))
    result = score(sample["image"].resize((size[1], size[0])), sample)
    assert (result["correct"], result["size_exact"], result["reasons"]) == (0, 0, ["size"])
    assert result.get("preserved", 0.0) in (0.0, None)


@pytest.mark.parametrize("kind", KINDS["edit"])
def test_an_edit_must_be_its_target(kind):
    for index in range(40):
        sample = make_sample("edit", index, 34, kind=kind)
        target = sample["meta"]["target"]
        assert score_edit(sample["source_image"], sample)["correct"] == 0, "to do nothing is no edit"
        for name, other in spoiled(target).items():
            result = score_edit(render(other), sample)
            assert result["correct"] == 0 and result["reasons"], (name, sample["prompt"])
        assert score_edit(with_cell(target, *target.free_cells()[0], 128), sample)["reasons"] == ["odd cells"]


def test_preserved_counts_what_the_edit_leaves_alone():
    star, circle, square, new = (
        Thing("star", "red", 0, 0),
        Thing("circle", "blue", 0, 1),
        Thing("square", "green", 1, 1),
        Thing("star", "blue", 0, 0),
    )
    source = Scene(2, 4, "white", (star, circle, square))
    sample = {"task": "edit", "height": 32, "width": 64}
    sample["meta"] = {"source": source, "target": source.with_things([new, circle, square])}

    def preserved(*things, background="white", style="filled"):
        return score_edit(render(Scene(2, 4, background, things, style)), sample)["preserved"]

    assert preserved(new, circle, square) == preserved(star, circle, square) == preserved(circle, square) == 1
    assert preserved(new, circle) == preserved(new, circle, replace(square, column=2)) == 0.5
    assert (
        preserved(new, circle, replace(square, color="red"))
        == preserved(new, replace(circle, shape="star"), square)
        == 0.5
    )
    assert preserved(new) == preserved() == 0
    assert preserved(new, circle, square, background="black", style="outlined") == 1
    sample["meta"] = {"source": source.with_things([star]), "target": source.with_things([new])}
    assert preserved(new) is None


# ------------------------------------------------------------------ answers


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS["understand"])
def test_only_the_answer_is_right(kind, language):
    samples = [make_sample("understand", index, 35, kind=kind, language=language) for index in range(60)]
    for sample, other in pairwise(samples):
        expected, wrong = sample["meta"]["answer"], other["meta"]["answer"]
        assert score_understand(f" {expected.capitalize()}. \n", sample) == {"correct": 1, "answer": expected}
        if kind != "description":
            assert score_understand(wrong, sample)["correct"] == int(wrong == expected)
        for text in ("", expected + expected, f"{expected} {expected}", expected[:-1], expected[1:]):
            assert score_understand(text, sample)["correct"] == 0, text


@pytest.mark.parametrize("language", LANGUAGES)
def test_descriptions_are_read_back(language):
    spoken = LANGUAGES[language]
    for index in range(200):
        sample = make_sample("understand", index, 36, kind="description", language=language, held_out=None)
        scene = sample["meta"]["scene"]
        things, background = spoken.parse_description(spoken.describe(scene))
        assert sorted(things.elements()) == sorted((thing.shape, thing.color) for thing in scene.things)
        assert background == scene.background
        others = {name: other for name, other in spoiled(scene).items() if other.things}
        for name, other in others.items():
            expected = int(name in ("moved", "style"))
            assert score_understand(spoken.describe(other), sample)["correct"] == expected, name
        # `things` of a scene are in raster order, so the other order is told by hand.
        parts = [spoken.one(Look(thing.shape, thing.color)) for thing in reversed(scene.things)]
        backwards = spoken.join(spoken.on(spoken.list(parts), scene.background))
        assert score_understand(backwards, sample)["correct"] == 1


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "a red circle and a blue star"),
        ("en", "red circle and blue star on a white background"),
        ("en", "a red circle, a blue star on a white background"),
        ("en", "a red circle and a blue star and a red star on a white background"),
        ("en", "a orange circle on a white background"),
        ("en", "a red circle on a red background"),
        ("en", "an orange circle, on a white background"),
        ("en", " on a white background"),
        ("zh", "一个红色的圆形"),
        ("zh", "红色的圆形，白色背景"),
        ("zh", "一个红色的圆形、一个蓝色的星形，白色背景"),
        ("zh", "a red circle on a white background"),
    ],
)
def test_other_texts_are_no_descriptions(language, text):
    assert LANGUAGES[language].parse_description(text) is None


def test_styles_are_two():
    """`spoiled` turns one style into the other."""
    assert STYLES == ("filled", "outlined")
