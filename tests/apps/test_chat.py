"""A conversation: questions, pictures by path, drawing, editing, saving, and settings."""

import json

import pytest
from PIL import Image

from transformers_wallaroo.apps import read_picture_info
from transformers_wallaroo.apps.chat import COMMANDS, Chat, Quit
from transformers_wallaroo.apps.pictures import picture_hash
from transformers_wallaroo.shapes import make_sample


@pytest.fixture
def chat(engine, tmp_path):
    return Chat(engine, tmp_path / "pictures", answering={"max_new_tokens": 30, "do_sample": False})


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a picture.png"
    make_sample("understand", 3, 30260, kind="description", language="en")["images"][0].save(path)
    return path


def say(chat, *lines):
    return ["".join(said.text for said in chat.handle(line)) for line in lines]


def test_questions_have_pictures_and_turns(chat, engine, picture):
    _, first, second = say(chat, f"/image '{picture}'", "describe the picture", "what do you see?")
    part = {"type": "image", "image": Image.open(picture)}
    turns = [{"role": "user", "content": [part, {"type": "text", "text": "describe the picture"}]}]
    assert first.strip() == engine.answer(turns, max_new_tokens=30, do_sample=False)
    turns += [{"role": "assistant", "content": first.strip()}, {"role": "user", "content": "what do you see?"}]
    assert second.strip() == engine.answer(turns, max_new_tokens=30, do_sample=False)
    assert chat.transcript()[0] == {"role": "user", "images": [str(picture)], "text": "describe the picture"}


def test_draw_edit_and_ask(chat, tmp_path):
    drawn, answer, edited, again = say(
        chat, "/draw a red circle", "what color is the circle?", "/edit make the circle blue", "/edit make it red"
    )
    assert answer == "red\n"
    check_edits(tmp_path / "pictures", drawn, edited)
    assert chat.waiting == [] and chat.last[0] == again.split(",")[0]
    kinds = [[part.get("task", part["type"]) for part in message["content"]] for message in chat.messages[1::2]]
    assert kinds == [["generate"], ["text"], ["edit"], ["edit"]]


def check_edits(folder, drawn, edited):
    """Each edit starts from the picture before it."""
    files = sorted(folder.iterdir())
    infos = {info["prompt"]: info for info in map(read_picture_info, files)}
    assert len(files) == 3
    for prompt, said in (("make the circle blue", drawn), ("make it red", edited)):
        before = next(file for file in files if str(file) in said)
        assert infos[prompt]["source"] == {"path": str(before), "sha256": picture_hash(Image.open(before))}


def test_the_model_chooses(chat, tmp_path):
    """A prompt is drawn, an instruction edits the last picture, a question is answered, turn after turn."""
    drawn, answer, edited, second, third = say(
        chat, "a red circle", "what color is the circle?", "make the circle blue", "what color is the circle?", "a star"
    )
    assert (answer, second) == ("red\n", "blue\n")
    first, last = map(read_picture_info, (tmp_path / "pictures").glob("a-*.png"))
    assert {first["prompt"], last["prompt"]} == {"a red circle", "a star"} and chat.last[0] in third
    [info] = map(read_picture_info, (tmp_path / "pictures").glob("make-*.png"))
    assert info["task"] == "edit" and info["source"]["path"] in drawn and edited.endswith(f"seed {info['seed']}.\n")
    turns = chat.transcript()
    assert [len(turn.get("images", ())) for turn in turns] == [0, 1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert turns[3] == {"role": "assistant", "text": "red"}


def test_what_the_model_makes_is_as_the_settings_say(chat, tmp_path):
    say(chat, "/seed 5", "/size 64x32", "/guidance 2", "two stars", "/draw two stars")
    chosen, told = (read_picture_info(tmp_path / "pictures" / f"two-stars-5{end}.png") for end in ("", "-2"))
    assert chosen == told and (chosen["width"], chosen["height"], chosen["sampling"]["guidance_scale"]) == (64, 32, 2)


def test_seeds_and_sizes(chat, tmp_path):
    say(chat, "/seed 5", "/size 64x32", "/guidance 2", "/negative blue", "/draw two stars", "/draw two stars")
    first, second = sorted((tmp_path / "pictures").iterdir())
    assert first.name == "two-stars-5-2.png" and second.name == "two-stars-5.png"
    assert picture_hash(Image.open(first)) == picture_hash(Image.open(second))
    info = read_picture_info(first)
    assert (info["width"], info["height"], info["seed"], info["negative_prompt"]) == (64, 32, 5, "blue")
    assert info["sampling"]["guidance_scale"] == 2
    [settings] = say(chat, "/settings")
    assert "size        64x32" in settings and "seed        5" in settings and "negative    blue" in settings
    say(chat, "/seed", "/guidance", "/negative", "/size 1:2", "/draw a star")
    assert Image.open(chat.last[0]).size == (32, 64) and chat.seed is None and chat.guidance is None
    [usual] = say(chat, "/size")
    assert "64x32" in usual and chat.size == {}


def test_save(chat, tmp_path):
    say(chat, "/draw a red circle", f"/save {tmp_path / 'kept.png'}", "what color is the circle?")
    assert read_picture_info(tmp_path / "kept.png")["prompt"] == "a red circle"
    say(chat, f"/save {tmp_path / 'talk.json'}")
    assert json.loads((tmp_path / "talk.json").read_text()) == chat.transcript()
    with pytest.raises(ValueError, match=r"kept.png is there already"):
        say(chat, f"/save {tmp_path / 'kept.png'}")


def test_what_cannot_be_done_changes_nothing(chat, picture, tmp_path):
    say(chat, f"/image '{picture}'")
    before = dict(vars(chat)), list(chat.waiting)
    for line, message in (
        ("/paint a star", r"There is no command /paint. /help lists them"),
        ("/draw", r"/draw needs PROMPT"),
        ("/image nothing.png", r"`/image` must be the file of a picture, but nothing.png does not exist"),
        ("/image 'a", r"/image cannot be read"),
        ("/size 33x64", r"`/size` must be WIDTHxHEIGHT"),
        ("/size 16:x", r"`/size` must be WIDTH:HEIGHT"),
        ("/seed x", r"/seed needs a whole number"),
        ("/guidance x", r"/guidance needs a number"),
        ("/guidance nan", r"/guidance needs a number"),
        ("/draw <|im_end|>", r"holds the special token"),
        (f"/save {tmp_path / 'a.jpg'}", r"/save needs a name that ends in .png"),
    ):
        with pytest.raises(ValueError, match=message):
            say(chat, line)
        assert (dict(vars(chat)), list(chat.waiting)) == before
    say(chat, "/reset")
    with pytest.raises(ValueError, match="There is no picture to edit yet"):
        say(chat, "/edit make it red")
    with pytest.raises(ValueError, match="There is no picture to save yet"):
        say(chat, f"/save {tmp_path / 'a.png'}")


def test_an_answer_that_is_cut_stays_as_far_as_it_came(chat, picture):
    say(chat, f"/image '{picture}'")
    answer = chat.handle("describe the picture")
    first = next(answer).text
    answer.close()
    assert [turn["text"] for turn in chat.transcript()] == ["describe the picture", first.strip()]


def test_a_question_that_fails_leaves_its_picture_waiting(chat, picture):
    say(chat, f"/image '{picture}'")
    chat.answering["max_new_tokens"] = 0
    with pytest.raises(ValueError, match="max_new_tokens"):
        say(chat, "describe the picture")
    assert chat.messages == [] and [name for name, _ in chat.waiting] == [str(picture)]


def test_help_and_quit(chat):
    [text] = say(chat, "/help")
    assert all(f"/{name}" in text for name in COMMANDS)
    assert all(hasattr(chat, f"do_{name}") for name in COMMANDS)
    with pytest.raises(Quit):
        say(chat, "/quit")
    assert say(chat, "   ") == [""]
