# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Conversations of the page: what the model chooses, `/draw`, `/edit`, and what is left of a turn that ends early."""

import pytest

from transformers_wallaroo.apps import read_picture_info
from transformers_wallaroo.apps.conversation import talk
from transformers_wallaroo.apps.page import Session
from transformers_wallaroo.shapes import make_sample


@pytest.fixture
def upload(tmp_path):
    sample = make_sample("understand", 3, 30260, kind="description", language="en", bucket=(64, 64))
    sample["images"][0].save(tmp_path / "shapes.png")
    return str(tmp_path / "shapes.png"), sample["meta"]["answer"]


def said(session):
    return [(bubble["role"], bubble["content"]) for bubble in session.bubbles]


def test_a_question_about_a_picture_and_another(engine, session, upload):
    file, answer = upload
    list(talk(engine, session, "describe the picture", [file]))
    assert said(session)[:2] == [("user", {"path": file}), ("user", "describe the picture")]
    assert session.bubbles[2]["content"].replace(" ,", ",") == answer.replace(" ,", ",")
    list(talk(engine, session, "how many shapes are there?"))
    assert [message["role"] for message in session.messages] == ["user", "assistant"] * 2
    # The picture is shown to the model once, in the turn it came with.
    kinds = [[part["type"] for part in message["content"]] for message in session.messages[::2]]
    assert kinds == [["image", "text"], ["text"]]


def test_draw_edit_and_ask_about_it(engine, session):
    list(talk(engine, session, "/draw a red circle"))
    (_, asked), (_, drawn), (_, note) = said(session)
    assert asked == "/draw a red circle" and note.startswith("Seed ")
    assert read_picture_info(drawn["path"])["task"] == "generate"
    list(talk(engine, session, "/edit make the red circle blue"))
    edited = session.pictures[0]
    assert edited.info["task"] == "edit" and edited.source.read_bytes() == session.pictures[1].path.read_bytes()
    list(talk(engine, session, "what color is the circle?"))
    assert [message["role"] for message in session.messages] == ["user", "assistant"] * 3
    assert [part.get("task") for message in session.messages[1::2] for part in message["content"]] == [
        "generate",
        "edit",
        None,
    ]
    assert session.messages[-1]["content"][0]["text"] == session.bubbles[-1]["content"] == "blue"


def test_the_model_chooses(engine, session):
    for text in ("a red circle", "make the circle blue", "what color is the circle?"):
        list(talk(engine, session, text))
    assert [kept.info["task"] for kept in session.pictures] == ["edit", "generate"]
    edited, drawn = session.pictures
    assert edited.source.read_bytes() == drawn.path.read_bytes() and edited.before is not None
    (_, first), (_, shown), (_, note), _, (_, changed), *_ = said(session)
    assert (first, shown, note) == ("a red circle", {"path": str(drawn.path)}, drawn.note)
    assert changed == {"path": str(edited.path)} and session.bubbles[-1]["content"] == "blue"


def test_a_picture_that_the_model_makes_is_seen_growing(engine, session):
    notes = []
    for _ in talk(engine, session, "a red circle"):
        notes.append(session.bubbles[-1]["content"])
    assert any(note.endswith(" codes …") for note in notes) and notes[-1].startswith("Seed ")


def test_a_picture_that_is_left_while_it_grows(engine, session):
    turn = talk(engine, session, "a red circle")
    while " codes" not in session.bubbles[-1]["content"] if session.bubbles else True:
        next(turn)
    turn.close()
    assert session.bubbles[-1]["content"] == "Stopped." and session.pictures == [] and session.messages == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Write something, or add a picture"),
        ("/paint a cat", "There are /draw and /edit, but no /paint"),
        ("/draw", "Say what to draw"),
        ("/edit make it blue", "There is no picture to change yet"),
    ],
)
def test_what_is_amiss_changes_nothing(engine, session, text, message):
    with pytest.raises(ValueError, match=message):
        list(talk(engine, session, text))
    assert session == Session()


def test_a_picture_alone_is_no_question(engine, session, upload):
    with pytest.raises(ValueError, match="Say what you want to know"):
        list(talk(engine, session, " ", [upload[0]]))
    assert session == Session()


def test_a_turn_that_is_left_stays_as_far_as_it_came(engine, session, upload):
    turn = talk(engine, session, "describe the picture", [upload[0]])
    while not session.messages:
        next(turn)
    turn.close()
    first = session.bubbles[-1]["content"]
    assert first.strip()
    assert session.messages[-1] == {"role": "assistant", "content": [{"type": "text", "text": first.strip()}]}
    turn = talk(engine, session, "/draw a red circle")
    next(turn)
    turn.close()
    assert session.bubbles[-1]["content"] == "Stopped." and session.pictures == []
    list(talk(engine, session, "how many shapes are there?"))
    assert [message["role"] for message in session.messages] == ["user", "assistant"] * 2


def test_a_turn_that_fails_says_so(engine, session, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("the device\nis gone")
        yield

    monkeypatch.setattr(engine, "reply", fail)
    with pytest.raises(RuntimeError, match="the device"):
        list(talk(engine, session, "what do you see?"))
    assert said(session) == [("user", "what do you see?"), ("assistant", "the device is gone")]
    assert session.messages == []
