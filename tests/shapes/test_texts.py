# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Samples say what their pictures show: English texts are read here by rules of their own and held against the scenes.
The Chinese ones tell of the same scenes (`test_samples.py`)."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from transformers_wallaroo.shapes import COLORS, KINDS, LANGUAGES, SHAPES, Scene, Thing, make_sample

COLOR, SHAPE = f"({'|'.join(COLORS)})", f"({'|'.join(SHAPES)})"
THING, REFERRED = rf"an? {COLOR} {SHAPE}", rf"the (?:{COLOR} )?{SHAPE}"
BESIDE = {"to the left of": (0, -1), "to the right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
STEP = {"to the left": (0, -1), "to the right": (0, 1), "up": (-1, 0), "down": (1, 0)}
NUMBERS = ["zero", "one", "two", "three", "four"]


# ------------------------------------------------------------------ generate


def read_caption(text: str, scene: Scene) -> list[tuple[str, int]]:
    """Rules that an English prompt sets, as (rule, 1 where the scene keeps it)."""
    rules = [("looks", 0)]
    things = scene.things
    background = re.search(r" on a (\w+) background$", text)
    if background:
        rules.append(("background", int(scene.background == background[1])))
    number = re.search(rf"(two|three|four) {SHAPE}s", text)
    look = rf"an? (?:{COLOR} )?{SHAPE}(?: in the (top|bottom) (left|right))?"
    if number:
        good = len(things) == NUMBERS.index(number[1]) and {thing.shape for thing in things} == {number[2]}
    else:
        found = re.findall(look, text)
        ours = sorted(things, key=lambda thing: [shape for _, shape, _, _ in found].index(thing.shape))
        good = len(found) == len(things)
        for (color, shape, vertical, horizontal), thing in zip(found, ours, strict=True):
            good = good and shape == thing.shape and color in ("", thing.color)
            if vertical:
                good = good and (vertical == "top") == (2 * thing.row < scene.rows - 1)
                good = good and (horizontal == "left") == (2 * thing.column < scene.columns - 1)
        relation = re.search("|".join(BESIDE), text)
        if relation:
            down, right = BESIDE[relation[0]]
            rows, columns = ours[0].row - ours[1].row, ours[0].column - ours[1].column
            rules.append(("relation", int((np.sign(rows), np.sign(columns)) == (down, right))))
    rules[0] = ("looks", int(good))
    return rules


@pytest.mark.parametrize("kind", KINDS["generate"])
def test_pictures_show_exactly_what_prompts_ask(kind):
    seen = Counter()
    for index in range(200):
        sample = make_sample("generate", index, 15, kind=kind, language="en")
        rules = read_caption(sample["prompt"], sample["meta"]["scene"])
        assert all(kept for _, kept in rules), (sample["prompt"], sample["meta"]["scene"])
        assert sample["meta"]["scene"].style == "filled"
        seen.update(rule for rule, _ in rules)
        seen["place"] += sample["meta"]["ask"].looks[0].place is not None
        if kind == "counting":
            assert len({thing.color for thing in sample["meta"]["scene"].things}) == 1
    assert 40 < seen["background"] < 95, "about a third names the background"
    assert (75 < seen["relation"] < 125) == (75 < seen["place"] < 125) == (kind == "position")


# ------------------------------------------------------------------ edit


def the_only(scene: Scene, color: str, shape: str) -> Thing:
    fitting = [thing for thing in scene.things if thing.shape == shape and color in ("", None, thing.color)]
    assert len(fitting) == 1, "a reference must mean one thing"
    return fitting[0]


def edit_once(text: str, scene: Scene, source: Scene) -> Scene:
    """Carries out one English instruction."""
    if re.search("line drawing|outlines$|hollow", text) and "fill" not in text and "color in" not in text:
        return replace(scene, style="outlined")
    if re.search("^fill|^color in|solid$", text):
        return replace(scene, style="filled")
    extracted = re.fullmatch(r"((?:extract|keep only|cut out|isolate) .+?),? on a white background", text)
    if "background" in text and not extracted:
        return replace(scene, background=re.search("white|black", text)[0])
    added = re.fullmatch(
        rf"(?:add|put|draw|place) {THING} (?:in the (\w+) (\w+) corner|one step (.+) {REFERRED})", text
    )
    if added:
        color, shape, vertical, horizontal, beside, *other = added.groups()
        if beside:
            down, right = BESIDE[beside]
            anchor = the_only(scene, *other)
            cell = anchor.row + down, anchor.column + right
        else:
            cell = (0, scene.rows - 1)[vertical == "bottom"], (0, scene.columns - 1)[horizontal == "right"]
        assert cell in scene.free_cells()
        return scene.with_things([*scene.things, Thing(shape, color, *cell)])
    subject = re.search(REFERRED, text)
    thing = the_only(scene, *subject.groups())
    assert the_only(source, *subject.groups()) == thing, "it must be clear before any change as well"
    rest, after = [other for other in scene.things if other != thing], text[subject.end() :]
    if extracted:
        return replace(scene, things=(thing,), background="white")
    if re.match("remove|delete|erase|take|get", text):
        return scene.with_things(rest)
    moved = re.fullmatch(r" (?:one step )?(.+?)(?: by one step)?", after)
    if re.match("move|shift|push", text):
        down, right = STEP[moved[1]]
        cell = thing.row + down, thing.column + right
        assert cell in scene.free_cells()
        return scene.with_things([*rest, replace(thing, row=cell[0], column=cell[1])])
    new = re.search(THING, after)
    if new:
        return scene.with_things([*rest, replace(thing, color=new[1], shape=new[2])])
    color = re.fullmatch(rf"(?: to)? {COLOR}", after)
    return scene.with_things([*rest, replace(thing, color=color[1])])


@pytest.mark.parametrize("kind", KINDS["edit"])
def test_targets_are_what_instructions_say(kind):
    for index in range(250):
        sample = make_sample("edit", index, 16, kind=kind, language="en")
        source, target = sample["meta"]["source"], sample["meta"]["target"]
        text = sample["prompt"].removeprefix("please ").removeprefix("first ")
        parts = re.split(r", then | and then | and ", text)
        assert len(parts) == (2 if kind == "compose" else 1)
        scene = source
        for part in parts:
            scene = edit_once(part, scene, source if "corner" not in part else scene)
        assert scene == target, (sample["prompt"], source, target)
        assert not np.array_equal(sample["image"], sample["source_image"]), "no edit leaves all as it was"
        assert 1 <= len(source.things) <= 4 and 1 <= len(target.things) <= 4


def test_several_changes_at_once_are_carried_out_in_turn():
    """The kind for training alone: up to six changes and those of the whole picture, of pictures up to full."""
    numbers, things, wholes = Counter(), Counter(), Counter()
    for index in range(400):
        sample = make_sample("edit", index, 16, kind="changes", language="en")
        source, target = sample["meta"]["source"], sample["meta"]["target"]
        parts = re.split(r", | and ", sample["prompt"].removeprefix("please "))
        scene = source
        for part in parts:
            scene = edit_once(part, scene, source if "corner" not in part else scene)
        assert scene == target, (sample["prompt"], source, target)
        assert not target.holds_out()
        numbers[len(parts)] += 1
        things[len(source.things)] += 1
        wholes.update(name for name in ("background", "style") if getattr(source, name) != getattr(target, name))
    assert min(numbers) == 1 and max(numbers) >= 6 and numbers[1] < 150
    assert max(things) > 8 and min(things) == 1
    assert all(30 < wholes[name] < 100 for name in ("background", "style"))


def test_sources_are_outlined_at_times():
    styles = Counter(make_sample("edit", index, 17, kind="remove")["meta"]["source"].style for index in range(500))
    assert 60 < styles["outlined"] < 140
    turned = Counter(make_sample("edit", index, 17, kind="style")["meta"]["source"].style for index in range(500))
    assert 200 < turned["outlined"] < 300


# ------------------------------------------------------------------ understand


def answer(question: str, scene: Scene) -> str:
    """Answers an English question."""
    singular = {f"{shape}s": shape for shape in SHAPES}

    def fitting(words: str) -> list[Thing]:
        wanted = [singular.get(word, word) for word in words.split()]
        return [
            thing for thing in scene.things if all(w in (thing.shape, thing.color, "shape", "shapes") for w in wanted)
        ]

    yes = {True: "yes", False: "no"}
    group = rf"((?:(?:{COLOR[1:-1]}) )?(?:circle|square|triangle|star|shape)s?)"
    if re.match("describe|what is in|what does the image|what do you see|tell me what", question):
        names = [("an " if t.color == "orange" else "a ") + f"{t.color} {t.shape}" for t in scene.things]
        listed = ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]
        return f"{listed} on a {scene.background} background"
    if re.match("how many|count", question):
        return NUMBERS[len(fitting(re.search(rf"(?:many|the) {group}", question)[1]))]
    more = re.search(rf"{group} (than|or) {group}", question)
    if more:
        first, second = len(fitting(more[1])), len(fitting(more[3]))
        if more[2] == "than":
            return yes[first > second]
        assert first != second
        return more[1] if first > second else more[3]
    if "color" in question or "colour" in question:
        subject = re.search(REFERRED, question)
        return the_only(scene, *subject.groups()).color if subject else scene.background
    relation = re.search(rf"{REFERRED} ({'|'.join(BESIDE)}) {REFERRED}", question)
    if relation:
        first, second = the_only(scene, *relation.groups()[:2]), the_only(scene, *relation.groups()[3:])
        down, right = BESIDE[relation[3]]
        along = (first.row - second.row) * down + (first.column - second.column) * right
        across = abs((first.row - second.row) * right) + abs((first.column - second.column) * down)
        assert along <= 0 or along > across, "it must not be asked where one could say both"
        return yes[along > 0]
    if re.search("where|what is the place", question):
        thing = the_only(scene, *re.search(REFERRED, question).groups())
        return f"{('bottom', 'top')[thing.row < scene.rows / 2]} {('right', 'left')[thing.column < scene.columns / 2]}"
    return yes[bool(fitting(re.search(r" an? (\w+(?: (?:shape|circle|square|triangle|star))?)", question)[1]))]


@pytest.mark.parametrize("kind", KINDS["understand"])
def test_answers_are_true(kind):
    for index in range(250):
        sample = make_sample("understand", index, 18, kind=kind, language="en")
        question, given = (turn["content"] for turn in sample["messages"])
        assert given == answer(question, sample["meta"]["scene"]), (question, sample["meta"]["scene"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_answers_are_balanced(language):
    def answers(kind):
        return Counter(
            make_sample("understand", index, 19, kind=kind, language=language)["meta"]["answer"] for index in range(600)
        )

    truth, presence = LANGUAGES[language].words["truth"], LANGUAGES[language].words["presence"]
    assert 250 < answers("presence")[presence["yes"]] < 350
    position, comparison = answers("position"), answers("comparison")
    assert 0.7 < position[truth["yes"]] / position[truth["no"]] < 1.4
    assert 0.7 < comparison[truth["yes"]] / comparison[truth["no"]] < 1.4
    counting = answers("counting")
    assert set(counting) == set(LANGUAGES[language].words["number"].values())
    assert min(counting.values()) > 70


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("en", "a red circle, an orange star and a blue square on a black background"),
        ("zh", "一个红色的圆形、一个橙色的星形和一个蓝色的正方形，黑色背景"),
    ],
)
def test_descriptions(language, expected):
    things = Thing("square", "blue", 1, 1), Thing("circle", "red", 0, 0), Thing("star", "orange", 0, 3)
    assert LANGUAGES[language].describe(Scene(2, 4, "black", things)) == expected
