# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Talks: each turn is about the picture before it, and nothing held out is shown; texts as people type them."""

from collections import Counter

import numpy as np
import pytest

from transformers_wallaroo.shapes import Scene, ShapesDataset, make_sample, read_scene, render

TALKS = [make_sample("understand", index, 5, kind="dialogue") for index in range(150)]


def test_every_task_comes_with_and_without_a_picture_of_the_users():
    counts = Counter((turn.task, turn.shown is not None) for sample in TALKS for turn in sample["meta"]["turns"])
    assert set(counts) == {("understand", False), ("understand", True), ("generate", False)} | {
        ("edit", False),
        ("edit", True),
    }
    assert min(counts.values()) > 20


def test_messages_say_and_show_what_the_turns_do():
    for sample in TALKS:
        turns = sample["meta"]["turns"]
        pictures = iter(sample["images"])
        assert [message["role"] for message in sample["messages"]] == ["user", "assistant"] * len(turns)
        for turn, said, answer in zip(turns, sample["messages"][::2], sample["messages"][1::2], strict=True):
            assert said["content"] == "<image>" * (turn.shown is not None) + turn.text
            if turn.shown is not None:
                assert np.array_equal(next(pictures), render(turn.shown))
            if turn.task == "understand":
                assert answer["content"] == turn.answer
            else:
                assert answer["content"].endswith("<image>") and np.array_equal(next(pictures), render(turn.answer))
        assert next(pictures, None) is None


def test_turns_follow_from_the_picture_before():
    """An edit leaves most of the last picture as it was, and what is drawn anew does not depend on it."""
    kept, changed = [], []
    for sample in TALKS:
        scene = None
        for turn in sample["meta"]["turns"]:
            scene = turn.shown or scene
            if turn.task == "edit":
                both = set(scene.things) & set(turn.answer.things)
                kept.append(len(both) / max(len(scene.things), 1))
                assert (scene.rows, scene.columns) == (turn.answer.rows, turn.answer.columns)
                changed.append(scene != turn.answer)
            scene = scene if turn.task == "understand" else turn.answer
    assert np.mean(kept) > 0.5
    assert np.mean(changed) > 0.9  # the only thing of a white picture may be put on a white background


def test_nothing_held_out_is_shown():
    for sample in TALKS:
        for turn in sample["meta"]["turns"]:
            for scene in (turn.shown, turn.answer):
                assert not (isinstance(scene, Scene) and scene.holds_out())


def test_typed_texts_say_the_same():
    ends = Counter()
    for task in ("generate", "edit", "understand"):
        for index in range(60):
            plain, typed = (make_sample(task, index, 7, typed=value) for value in (False, True))
            before, after = (
                s["prompt"] if task != "understand" else s["messages"][0]["content"] for s in (plain, typed)
            )
            bare = after.rstrip(".!?？。！ ")
            assert bare.lower() == before.rstrip("?？ ").lower() and plain["meta"] == typed["meta"]
            ends[after[len(bare) :]] += 1
            if before.endswith(("?", "？")):
                assert not after.endswith((".", "!", "。", "！"))
    assert {"", ".", "!", "?", " ?", "。", "？", "！"} <= set(ends)


def test_a_data_set_may_be_typed():
    dataset = ShapesDataset("generate", 7, 4, typed=True)
    assert [sample["prompt"] for sample in dataset] == [
        make_sample("generate", index, 7, typed=True)["prompt"] for index in range(4)
    ]


@pytest.mark.parametrize("index", range(5))
def test_a_drawn_turn_shows_what_was_asked(index):
    """The scorer of drawings, on the pictures of the talks."""
    for turn in TALKS[index]["meta"]["turns"]:
        if turn.task == "generate":
            assert read_scene(render(turn.answer)).scene == turn.answer
