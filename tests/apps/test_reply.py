# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Answers with texts and pictures in any order: the engine's, and what page and chat make of them."""

import time

import pytest
from PIL import Image
from transformers import LogitsProcessor

from transformers_wallaroo.apps import ImageJob, MadeImage
from transformers_wallaroo.apps.chat import Chat
from transformers_wallaroo.apps.conversation import talk
from transformers_wallaroo.apps.pictures import picture_hash
from transformers_wallaroo.auto_wallaroo import PictureMarks

ASKED = [{"role": "user", "content": "a red circle"}]


class Script(LogitsProcessor):
    """Makes the engine write stretches of text, each from its start."""

    def __init__(self, engine, *stretches):
        tokenizer = engine.processor.tokenizer
        self.stretches = [
            [token for part in stretch for token in ([part] if isinstance(part, int) else tokenizer(part)["input_ids"])]
            for stretch in stretches
        ]
        self.length, self.stretch, self.step = 0, -1, 0

    def __call__(self, input_ids, scores):
        if input_ids.shape[1] != self.length + 1:
            self.stretch, self.step = self.stretch + 1, 0
        self.length = input_ids.shape[1]
        scores[:] = -float("inf")
        scores[:, self.stretches[self.stretch][self.step]] = 0
        self.step += 1
        return scores


@pytest.fixture
def marks(engine):
    return PictureMarks.of(engine.model)


def reply(engine, stretches, **options):
    return list(engine.reply(ASKED, logits_processor=[Script(engine, *stretches)], **options))


def test_text_picture_and_text(engine, marks):
    draw, end = (marks.start, marks.draw), marks.ends[0]
    pieces = reply(engine, [("a circle", *draw), ("a star", end)], picture={"seed": 3, "height": 64, "width": 64})
    kinds = ["picture" if isinstance(piece, MadeImage) else "text" for piece in pieces]
    assert kinds.count("picture") == 1 and kinds[0] == kinds[-1] == "text"
    place = kinds.index("picture")
    assert "".join(pieces[:place]).strip() == "a circle" and "".join(pieces[place + 1 :]).strip() == "a star"
    [made] = engine.make([ImageJob("a red circle", seed=3, height=64, width=64)])
    assert picture_hash(pieces[place].picture) == picture_hash(made.picture)


def test_a_drawing_after_an_edit_is_one(engine, marks):
    """What is of edits alone does not go into a drawing, and an edit is of the last picture."""
    draw, edit, end = (marks.start, marks.draw), (marks.start, marks.edit), marks.ends[0]
    fields = {"seed": 3, "sampling": {"image_guidance_scale": 1.2}, "original_size": True}
    pieces = reply(engine, [draw, edit, draw, (end,)], picture=fields)
    assert [piece.info["task"] for piece in pieces] == ["generate", "edit", "generate"]
    assert [piece.info["seed"] for piece in pieces] == [3, 4, 5]
    assert pieces[1].info["source"]["sha256"] == picture_hash(pieces[0].picture)
    assert "image_guidance_scale" in pieces[1].info["sampling"] and "source" not in pieces[2].info


def test_no_more_pictures_than_allowed(engine, marks):
    draw, end = (marks.start, marks.draw), marks.ends[0]
    assert len(reply(engine, [draw, draw, (end,)], max_pictures=2)) == 2
    assert [piece for piece in engine.reply(ASKED, stop=lambda: True) if isinstance(piece, MadeImage)] == []


@pytest.mark.parametrize("messages", [None, [{"role": "user"}], [{"role": "user", "content": ["hi"]}]])
def test_bad_messages_are_told(engine, messages):
    with pytest.raises(ValueError, match="`conversation`"):
        list(engine.reply(messages))


def test_names_of_sources(engine, marks):
    picture = Image.new("RGB", (64, 64), "white")
    content = [{"type": "image", "image": picture, "name": "a.png"}, {"image_url": picture}, {"text": "a red circle"}]
    script = Script(engine, (marks.start, marks.edit), (marks.ends[0],))
    [made] = engine.reply([{"role": "user", "content": content}], logits_processor=[script])
    assert "path" not in made.info["source"]  # the last picture has no name


# ------------------------------------------------------------------ page and chat


def slow_reply(*pieces, seconds=0.3):
    """Stands for `engine.reply`; a reader that is quicker sees each step."""

    def make(*_, **__):
        for piece in pieces:
            time.sleep(seconds)
            yield piece

    return make


def test_the_page_keeps_a_picture_once(engine, session, monkeypatch):
    [made] = engine.make([ImageJob("a red circle", seed=1)])
    monkeypatch.setattr(engine, "reply", slow_reply("Here ", "it is:", made, "Do", " you like it?"))
    list(talk(engine, session, "a red circle"))
    [kept] = session.pictures
    contents = [bubble["content"] for bubble in session.bubbles[1:]]
    assert contents == ["Here it is:", {"path": str(kept.path)}, kept.note, "Do you like it?"]
    [_, answer] = session.messages
    assert [part["type"] for part in answer["content"]] == ["text", "image", "text"]


def test_an_empty_answer_is_told(engine, session, monkeypatch):
    monkeypatch.setattr(engine, "reply", slow_reply(seconds=0))
    list(talk(engine, session, "what do you see?"))
    assert session.bubbles[-1]["content"] == "The model had nothing to say." and session.messages == []


def test_an_upload_of_a_stopped_turn_is_not_edited_later(engine, session, tmp_path):
    """Page and engine mean the same picture."""
    list(talk(engine, session, "/draw a red circle"))
    drawn = session.pictures[0]
    Image.new("RGB", (64, 64), "white").save(tmp_path / "u.png")
    turn = talk(engine, session, "make the background blue", [str(tmp_path / "u.png")])
    next(turn)
    turn.close()
    list(talk(engine, session, "make the circle blue"))
    edited = session.pictures[0]
    assert edited.info["task"] == "edit"
    assert edited.info["source"]["sha256"] == picture_hash(Image.open(drawn.path))
    assert edited.source.read_bytes() == drawn.path.read_bytes()


def test_a_chat_that_fails_is_as_before(engine, monkeypatch, tmp_path):
    def fail(*_, **__):
        yield "Here: "
        raise ValueError("too large")

    chat = Chat(engine, tmp_path)
    chat.waiting = [("a.png", Image.new("RGB", (64, 64)))]
    monkeypatch.setattr(engine, "reply", fail)
    with pytest.raises(ValueError, match="too large"):
        list(chat.handle("a red circle"))
    assert chat.messages == [] and len(chat.waiting) == 1
