# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The web page in a headless Chromium, with the embedded checkpoint: what a person does and sees."""

import io
import time

import pytest
from PIL import Image
from selenium.webdriver.common.keys import Keys

from transformers_wallaroo.apps import ImageJob, read_picture_info
from transformers_wallaroo.apps.pictures import picture_hash
from transformers_wallaroo.shapes import make_sample, read_scene, score

TABS = ("Ask", "Draw", "Edit", "Chat")
MAX_BYTES = 200_000  # of a screenshot


@pytest.fixture
def screenshot(request, visitor):
    """Takes a picture for the documentation where the option says so."""
    folder = request.config.getoption("--screenshots")

    def take(name, top="body"):
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        scroll = "document.activeElement.blur(); document.querySelector(arguments[0]).scrollIntoView();"
        visitor.driver.execute_script(scroll, top)
        path = visitor.shot(folder / f"page-{name}.png")
        Image.open(path).convert("RGB").save(path, optimize=True)
        assert path.stat().st_size < MAX_BYTES

    return take


def fixed_seed(visitor, panel, seed):
    visitor.press(visitor.labelled(panel, "New seed each time"))
    visitor.set_number(panel, "Seed", seed)


def draw(visitor, prompt, seed, count=1):
    visitor.tab("Draw")
    visitor.write("#draw-prompt", prompt)
    fixed_seed(visitor, "#draw-panel", seed)
    visitor.set_number("#draw-panel", "Pictures", count)
    visitor.press("#draw-start")
    visitor.wait(lambda: visitor.text("#draw-status").startswith(f"Seed {seed} "))
    visitor.wait(lambda: len(visitor.images("#draw-result")) == count)


def shown(visitor, selector):
    return [Image.open(io.BytesIO(visitor.fetched(address))) for address in visitor.images(selector)]


def say(visitor, text):
    visitor.write("#chat-turn", text)
    visitor.find("#chat-turn textarea").send_keys(Keys.ENTER)


def bubbles(visitor):
    return [element.text.strip() for element in visitor.all("#chat-conversation .message")]


def test_a_question_is_answered(visitor, tmp_path, screenshot):
    sample = make_sample("understand", 3, 30260, kind="description", language="en", bucket=(64, 64))
    sample["images"][0].save(tmp_path / "shapes.png")
    visitor.tab("Ask")
    visitor.upload("#ask-picture", tmp_path / "shapes.png")
    visitor.wait(lambda: visitor.images("#ask-picture"))
    visitor.write("#ask-question", "describe the picture")
    visitor.press("#ask-start")
    visitor.wait(lambda: score(visitor.value("#ask-answer"), sample)["correct"])
    screenshot("ask")


def test_an_example_in_chinese_is_answered(visitor):
    visitor.tab("Ask")
    last = visitor.wait(lambda: visitor.all("#ask-examples .thumbnail-item")[3])
    visitor.press(last)
    visitor.wait(lambda: visitor.value("#ask-question") == "描述图片")
    visitor.wait(lambda: visitor.images("#ask-picture"))
    visitor.press("#ask-start")
    visitor.wait(lambda: "正方形" in visitor.value("#ask-answer"))


def test_pictures_are_drawn_downloaded_and_brought_back(visitor, engine, downloads, screenshot):
    draw(visitor, "a red circle and a blue star", 724312772, count=4)
    screenshot("draw")
    jobs = [ImageJob("a red circle and a blue star", height=64, width=64, seed=724312772 + index) for index in range(4)]
    expected = [picture_hash(made.picture) for made in engine.make(jobs)]
    visitor.wait(lambda: [picture_hash(picture) for picture in shown(visitor, "#draw-result")] == expected)
    # Another of them is what the buttons are about, and its file says how it was made.
    visitor.press(visitor.all("#draw-result .thumbnail-item")[2])
    visitor.wait(lambda: visitor.text("#draw-status").startswith("Seed 724312774 "))
    visitor.press("#draw-download")
    [file] = visitor.wait(lambda: list(downloads.glob("*seed-724312774.png")))
    visitor.wait(lambda: read_picture_info(file)["seed"] == 724312774)
    assert picture_hash(Image.open(file)) == expected[2] and Image.open(file).size == (64, 64)
    # The history brings another one back, with its prompt and seed, from another tab.
    visitor.write("#draw-prompt", "something else")
    visitor.tab("Ask")
    visitor.press(visitor.wait(lambda: visitor.all("#history .thumbnail-item")[0]))
    visitor.wait(lambda: visitor.selected_tab() == "Draw")
    visitor.wait(lambda: visitor.value("#draw-prompt") == "a red circle and a blue star")
    visitor.wait(lambda: visitor.labelled("#draw-panel", "Seed").get_attribute("value") == "724312775")
    visitor.wait(lambda: not visitor.labelled("#draw-panel", "New seed each time").is_selected())
    visitor.wait(lambda: [picture_hash(picture) for picture in shown(visitor, "#draw-result")] == [expected[3]])


def test_small_pictures_are_shown_crisp(visitor):
    draw(visitor, "a red circle", 1)
    script = """
        const image = document.querySelector('#draw-result img');
        return [getComputedStyle(image).imageRendering, image.naturalWidth, image.getBoundingClientRect().width];
    """
    rendering, natural, width = visitor.driver.execute_script(script)
    assert rendering == "pixelated" and natural == 64 and width > 300


def test_a_picture_is_edited(visitor, screenshot):
    visitor.tab("Edit")
    visitor.press(visitor.wait(lambda: visitor.all("#edit-examples .thumbnail-item")[2]))
    visitor.wait(lambda: visitor.value("#edit-prompt"))
    visitor.wait(lambda: visitor.images("#edit-source"))
    fixed_seed(visitor, "#edit-panel", 1)
    visitor.press("#edit-start")
    visitor.wait(lambda: visitor.text("#edit-status").startswith("Seed 1 "))
    sample = make_sample("edit", 2, 30260, kind="background", language="zh", bucket=(64, 64))

    def after():
        """The result; the slider lays one over the other, and which is the first in the page is its own affair."""
        seen = {picture_hash(picture): picture.convert("RGB") for picture in shown(visitor, "#edit-result")}
        seen.pop(picture_hash(sample["source_image"]))
        [(name, picture)] = seen.items()
        return name if score(picture, sample)["correct"] else None

    name = visitor.wait(after)
    screenshot("edit")
    # Once more on the result.
    visitor.press("#edit-onward")
    visitor.wait(lambda: [picture_hash(picture) for picture in shown(visitor, "#edit-source")] == [name])


def test_an_edit_keeps_what_it_should(visitor, tmp_path):
    source = make_sample("edit", 2, 30260, kind="background", language="zh", bucket=(64, 64))["source_image"]
    source = source.resize((100, 60))
    mask = Image.new("L", source.size)
    mask.paste(255, (0, 0, 50, 60))
    source.save(tmp_path / "source.png")
    mask.save(tmp_path / "mask.png")
    visitor.tab("Edit")
    visitor.upload("#edit-source", tmp_path / "source.png")
    visitor.wait(lambda: visitor.images("#edit-source"))
    visitor.write("#edit-prompt", "make the background black")
    fixed_seed(visitor, "#edit-panel", 1)
    visitor.press("#edit-kept button")
    for label in ("Keep the source's size", "Guidance by the picture", "Keep its pixels outside of the mask"):
        visitor.press(visitor.labelled("#edit-kept", label))
    visitor.set_number("#edit-kept", "Image guidance", 2)
    visitor.upload("#edit-mask", tmp_path / "mask.png")
    visitor.wait(lambda: visitor.images("#edit-mask"))
    visitor.press("#edit-start")
    visitor.wait(lambda: visitor.text("#edit-status").startswith("Seed 1 "))
    assert visitor.text("#edit-status").endswith("by the picture 2")

    def kept():
        """Whether before and after are of the source's size, and differ on the left alone."""
        seen = [picture.convert("RGB") for picture in shown(visitor, "#edit-result")]
        left, right = ({picture.crop((x, 0, x + 50, 60)).tobytes() for picture in seen} for x in (0, 50))
        return [picture.size for picture in seen] == [(100, 60)] * 2 and (len(left), len(right)) == (2, 1)

    visitor.wait(kept)


def test_a_conversation_draws_edits_and_answers(visitor, screenshot):
    visitor.tab("Chat")
    say(visitor, "a blue star on a white background")  # the model chooses
    visitor.wait(lambda: "Seed" in bubbles(visitor)[-1])
    visitor.wait(lambda: visitor.value("#chat-turn") == "")
    say(visitor, "what do you see?")
    visitor.wait(lambda: "blue star" in bubbles(visitor)[-1] and "background" in bubbles(visitor)[-1])
    say(visitor, "make the blue star red")
    visitor.wait(lambda: len(visitor.images("#chat-conversation")) == 2 and "Seed" in bubbles(visitor)[-1])
    last = visitor.images("#chat-conversation")[-1]
    [thing] = read_scene(Image.open(io.BytesIO(visitor.fetched(last)))).scene.things
    assert (thing.shape, thing.color) == ("star", "red")
    screenshot("chat")
    say(visitor, "/edit make the red star green")  # a command leaves it no choice
    visitor.wait(lambda: len(visitor.images("#chat-conversation")) == 3 and "Seed" in bubbles(visitor)[-1])
    say(visitor, "/paint it")
    visitor.wait(lambda: any("but no /paint" in notice for notice in visitor.notices()))
    visitor.wait(lambda: visitor.value("#chat-turn") == "/paint it")  # what was written comes back


def test_errors_are_sentences_and_nothing_is_lost(visitor, tmp_path):
    draw(visitor, "a red circle", 1)
    before = visitor.images("#draw-result")
    visitor.write("#draw-prompt", " ")
    visitor.press("#draw-start")
    visitor.wait(lambda: visitor.text("#draw-status") == "Say what to draw.")
    visitor.wait(lambda: any("Say what to draw." in notice for notice in visitor.notices()))
    visitor.wait(lambda: visitor.images("#draw-result") == before)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    visitor.tab("Ask")
    visitor.upload("#ask-picture", tmp_path / "broken.png")
    visitor.write("#ask-question", "describe the picture")
    visitor.press("#ask-start")
    visitor.wait(lambda: "broken.png is no picture that can be read" in visitor.text("#ask-status"))
    assert visitor.value("#ask-question") == "describe the picture"


def spied(engine, monkeypatch):
    """Codes that the engine makes from now on."""
    known = []
    make = engine.make

    def spy(jobs, *, on_code, **options):
        def count(code, total):
            known.append(code)
            on_code(code, total)

        return make(jobs, on_code=count, **options)

    monkeypatch.setattr(engine, "make", spy)
    return known


def start_large(visitor):
    """A picture that takes long."""
    visitor.tab("Draw")
    visitor.press(visitor.labelled("#draw-panel", "Size"))
    visitor.press(visitor.wait(lambda: visitor.all("ul[role=listbox] li")[-1]))
    visitor.set_number("#draw-panel", "Width", 256)
    visitor.set_number("#draw-panel", "Height", 256)
    visitor.set_number("#draw-panel", "Pictures", 4)
    visitor.press("#draw-start")
    visitor.wait(lambda: " of 256 codes" in visitor.text("#draw-status"))


def test_stop_ends_the_decoding(visitor, engine, monkeypatch):
    known = spied(engine, monkeypatch)
    start_large(visitor)
    # Rows appear before the picture is there.
    visitor.wait(lambda: len(visitor.images("#draw-result")) == 4)
    visitor.press("#draw-stop")
    visitor.wait(lambda: visitor.text("#draw-status") == "Stopped.")
    with engine._lock:
        assert 16 <= len(known) < 256
    count = len(known)
    # What was there is still there, and the next one is drawn.
    visitor.wait(lambda: len(visitor.images("#draw-result")) == 4)
    assert visitor.value("#draw-prompt")
    visitor.visit()
    draw(visitor, "a red circle", 1)
    assert known[count:] == list(range(1, 17))


def test_leaving_the_page_ends_the_decoding(visitor, engine, monkeypatch):
    known = spied(engine, monkeypatch)
    start_large(visitor)
    visitor.driver.get("about:blank")
    deadline = time.monotonic() + 60
    while not engine._lock.acquire(timeout=1):
        assert time.monotonic() < deadline
    engine._lock.release()
    assert len(known) < 256


def test_the_page_asks_nobody_else(visitor, address):
    visitor.requests()
    visitor.visit()
    for tab in TABS:
        visitor.tab(tab)
    draw(visitor, "a red circle", 1)
    asked = visitor.requests()
    assert asked and [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def test_it_fits_a_phone(visitor, screenshot):
    visitor.visit(390, 844, phone=True)
    draw(visitor, "a red circle and a blue star", 724312772, count=2)
    for tab in TABS:
        visitor.tab(tab)
        visitor.wait(lambda: visitor.width()[0] <= visitor.width()[1] == 390)
    visitor.tab("Draw")
    screenshot("phone", top="#draw-start")
