# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The page's handlers and what gradio is told, without a browser; tests/e2e has one."""

import os

import pytest
from PIL import Image

from transformers_wallaroo.apps import Engine, read_picture_info
from transformers_wallaroo.apps.page import CUSTOM, Session
from transformers_wallaroo.apps.pictures import picture_hash
from transformers_wallaroo.shapes import make_sample

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
gr = pytest.importorskip("gradio", reason="gradio wants an older Pillow than `make test` pins: `make test-e2e`")

NO_MASK = "To keep the picture's own pixels outside of a region, add a region mask."
# size, width, height, count, negative prompt, guidance, seed, new seed
SETTINGS = ("64x32", 64, 64, 1, "", 1.5, 7, False)


@pytest.fixture(scope="module")
def page():
    from transformers_wallaroo.apps.web import Page

    return Page(Engine.load())


@pytest.fixture
def session():
    session = Session()
    yield session
    session.close()


@pytest.fixture
def source(tmp_path):
    make_sample("edit", 1, 5)["source_image"].save(tmp_path / "source.png")
    return str(tmp_path / "source.png")


def event(index):
    return gr.SelectData(None, {"index": index, "value": None})


def names(gallery):
    """File and caption of each picture of a gallery, which gradio has taken over."""
    return [(item["image"]["orig_name"], item["caption"]) for item in gallery.value]


def test_drawing_shows_rows_then_the_picture(page, session):
    draw = page.draw
    first, *rest = draw.run(session, "a red circle", *SETTINGS)
    assert first == {draw.status: "Starting …", draw.settings.seed: 7}
    rows = [step for step in rest[:-1] if draw.result in step]
    assert rows and all("of 8 codes" in step[draw.status] for step in rows)
    last = rest[-1]
    [kept] = session.pictures
    assert names(last[draw.result]) == [(kept.path.name, None)] and last[draw.status] == kept.note
    assert last[draw.download].value["orig_name"] == kept.path.name and read_picture_info(kept.path)["seed"] == 7
    assert names(last[page.history]) == [(kept.path.name, "a red circle")]


def test_one_of_several_is_chosen(page, session):
    draw = page.draw
    list(draw.run(session, "a red circle", "64x32", 64, 64, 2, "", 1.5, 7, False))
    second = session.shown["draw"][1]
    assert draw.choose(session, event(1)) == {draw.status: second.note, draw.download: second.path}
    assert second.info["seed"] == 8 and session.chosen["draw"] is second
    assert draw.choose(session, event(5)).keys() == {draw.status}
    assert page.pass_on(session)[page.edit.source] == str(second.path)
    assert page.pass_on(Session()).keys() == {page.tabs}


def test_an_edit_has_its_before(page, session, source):
    edit = page.edit
    *_, last = edit.run(session, source, None, "remove the red circle", *SETTINGS)
    before, after = last[edit.result]
    assert Image.open(before).size == Image.open(after).size == (64, 32)
    assert read_picture_info(after)["source"]["sha256"] == picture_hash(Image.open(source))
    assert edit.take(session) == str(after) and edit.take(Session()) == gr.skip()


def test_an_edit_keeps_what_it_should(page, session, source, tmp_path):
    edit = page.edit
    before = Image.open(source).resize((50, 70))
    before.save(source)
    mask = Image.new("L", before.size)
    mask.paste(255, (0, 0, 25, 70))
    mask.save(tmp_path / "mask.png")
    kept = (True, 2.5, True, True)  # guidance by the picture, how much, its size, its pixels
    *_, last = edit.run(session, source, str(tmp_path / "mask.png"), "remove the red circle", *SETTINGS, *kept)
    after = Image.open(session.pictures[0].path)
    assert after.size == (50, 70) and last[edit.status].endswith("guidance 1.5, by the picture 2.5")
    box = (25, 0, 50, 70)
    assert after.crop(box).tobytes() == before.crop(box).tobytes() and after.tobytes() != before.tobytes()
    (tmp_path / "mask.png").unlink()
    back = page.again(session, event(0))
    assert [back[field] for field in edit.settings.fields] == ["64x32", 64, 32, *SETTINGS[3:], *kept]
    assert Image.open(back[edit.settings.mask]).tobytes() == mask.tobytes()
    small = tmp_path / "small.png"
    Image.new("L", (9, 9), 255).save(small)
    with pytest.warns(UserWarning, match="region_mask must have the size of its source"):
        *_, last = edit.run(session, source, str(small), "remove the red circle", *SETTINGS, *kept)
    assert last.keys() == {edit.status}


def test_the_history_brings_back_prompt_and_settings(page, session, source):
    custom = (CUSTOM, 96, 32, 1, "blue", 2.0, 9, False)
    list(page.draw.run(session, "a red circle", *custom))
    list(page.edit.run(session, source, None, "remove the red circle", *SETTINGS))
    back = page.again(session, event(1))
    assert back[page.tabs].selected == "draw" and back[page.draw.prompt] == "a red circle"
    assert [back[field] for field in page.draw.settings.fields] == list(custom)
    assert page.edit.prompt not in back
    back = page.again(session, event(0))
    assert back[page.tabs].selected == "edit" and back[page.edit.prompt] == "remove the red circle"
    assert Image.open(back[page.edit.source]).tobytes() == Image.open(source).tobytes()
    assert page.again(session, event(7)).keys() == {page.tabs}


def test_an_answer_comes_in_pieces(page, source):
    ask = page.ask
    steps = list(ask.run(source, "describe the picture"))
    answers = [step[ask.answer] for step in steps]
    assert answers[-1] and all(answers[-1].startswith(answer.strip()) for answer in answers)
    assert steps[-1][ask.status] == "" and steps[0][ask.status] == "Answering …"


@pytest.mark.parametrize(
    ("tab", "arguments", "message"),
    [
        ("ask", (None, "what is it?"), "Add a picture to ask about."),
        ("ask", ("source", " "), "Write a question."),
        ("draw", ("", *SETTINGS), "Say what to draw."),
        ("edit", (None, None, "make it red", *SETTINGS), "Add the picture that is to be changed."),
        ("edit", ("source", None, "", *SETTINGS), "Say what to change."),
        ("edit", ("source", None, "make it red", *SETTINGS, False, 1.5, False, True), NO_MASK),
    ],
)
def test_errors_are_told_and_change_nothing_else(page, session, source, tab, arguments, message):
    arguments = [source if argument == "source" else argument for argument in arguments]
    tab = getattr(page, tab)
    with pytest.warns(UserWarning, match=message):
        [step] = tab.run(*arguments) if tab is page.ask else tab.run(session, *arguments)
    assert step == {tab.status: message} and session.pictures == []


def test_a_long_prompt_is_told_by_the_processor(page, session):
    with pytest.warns(UserWarning, match="gives a prompt of"):
        *_, last = page.draw.run(session, "a red circle " * 3000, *SETTINGS)
    assert "gives a prompt of" in last[page.draw.status] and "`" not in last[page.draw.status]


def test_a_conversation(page, session):
    chat = page.chat
    *_, last = chat.run(session, {"text": "/draw a red circle", "files": []})
    assert [bubble["role"] for bubble in last[chat.conversation]] == ["user", "assistant", "assistant"]
    assert names(last[page.history]) == [(session.pictures[0].path.name, "a red circle")]
    with pytest.warns(UserWarning, match="but no /paint"):
        *_, step = chat.run(session, {"text": "/paint it", "files": []})
    assert step[chat.turn] == {"text": "/paint it", "files": []}, "what was written comes back"
    assert chat.forget(session) == [] and session.bubbles == [] and len(session.pictures) == 1


def test_nothing_is_told_to_others(page):
    assert page.blocks.analytics_enabled is False
    config = page.blocks.get_config_file()
    assert not [fn for fn in config["dependencies"] if fn["api_visibility"] == "public"], "no open endpoints"
    from transformers_wallaroo.apps.web_style import theme

    assert not [font for font in theme()._font + theme()._font_mono if isinstance(font, gr.themes.GoogleFont)]


def test_one_at_a_time_has_the_model(page):
    runs = [fn for fn in page.blocks.fns.values() if fn.concurrency_id == "model"]
    assert len(runs) == 4 and all(fn.concurrency_limit == 1 for fn in runs)
    stopped = {index for fn in page.blocks.fns.values() for index in fn.cancels}
    assert stopped == {fn._id for fn in runs}
