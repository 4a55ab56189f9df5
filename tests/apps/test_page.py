# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What the web page does, without gradio: forms, the work beside its reader, what is kept, and examples."""

import threading
from dataclasses import replace

import pytest
import torch
from PIL import Image

from transformers_wallaroo.apps import ImageJob, MadeImage, page, read_picture_info
from transformers_wallaroo.apps.page import AS_SOURCE, CUSTOM, Form
from transformers_wallaroo.apps.page_examples import PROMPTS, make_examples
from transformers_wallaroo.apps.pictures import picture_hash
from transformers_wallaroo.shapes import make_sample, score

SMALL = {"size": "64x32", "random_seed": False}


def test_sizes_are_the_checkpoints(engine):
    labels, values = zip(*page.size_choices(engine, edit=False), strict=True)
    assert values == ("64x32", "64x48", "64x64", "48x64", "32x64", CUSTOM)
    assert labels[0] == "64 × 32  (2:1)"
    assert page.size_choices(engine, edit=True)[0][1] == AS_SOURCE
    assert page.usual_size(engine) == (64, 64) and page.max_side(engine) == 256


def test_a_form_becomes_jobs(engine):
    form = Form(" a red circle ", count=2, seed=7.0, guidance=2, negative_prompt=" blue ", **SMALL)
    first, second = page.jobs_of(engine, form)
    assert first == ImageJob(
        "a red circle", height=32, width=64, seed=7, negative_prompt="blue", sampling={"guidance_scale": 2.0}
    )
    assert second.seed == 8
    [custom] = page.jobs_of(engine, Form("a", CUSTOM, width=96, height=48))
    assert (custom.height, custom.width) == (48, 96)
    source = Image.new("RGB", (10, 10))
    [edit] = page.jobs_of(engine, Form("a", AS_SOURCE), source)
    assert edit.source is source and edit.height is None
    region, kept = Image.new("L", (10, 10), 255), {"original_size": True, "keep_source": True}
    form = Form("a", AS_SOURCE, guidance=2, by_picture=True, image_guidance=3, **kept)
    [edit] = page.jobs_of(engine, form, source, region)
    assert edit.region_mask is region and edit.original_size and edit.keep_source
    assert edit.sampling == {"guidance_scale": 2.0, "image_guidance_scale": 3.0}
    [edit] = page.jobs_of(engine, replace(form, by_picture=False, keep_source=False), source)
    assert edit.sampling == {"guidance_scale": 2.0} and edit.region_mask is None
    with pytest.raises(ValueError, match="outside of a region, add a region mask"):
        page.jobs_of(engine, form, source)
    seeds = {page.jobs_of(engine, Form("a", "64x64"))[0].seed for _ in range(5)}
    assert len(seeds) == 5 and all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (Form(" ", "64x64"), "Say what to draw"),
        (Form("a", "64x64", count=9), "must be from 1 to 8, but is 9"),
        (Form("a", CUSTOM, width=50, height=64), r"multiples of 16 from 16 to 256 pixels, but are 50 and 64"),
        (Form("a", CUSTOM, width=None, height=64), "but are empty and 64"),
        (Form("a", CUSTOM, width=64, height=272), "but are 64 and 272"),
        (Form("a", seed=-1, **SMALL), "The seed must be a whole number from 0 on, but is -1"),
        (Form("a", seed=1.5, **SMALL), "but is 1.5"),
        (Form("a", seed=None, **SMALL), "but is empty"),
        (Form("a", seed=2.0**60, **SMALL), "The seed must be a whole number"),
    ],
)
def test_what_is_amiss_with_a_form(engine, form, message):
    with pytest.raises(ValueError, match=message):
        page.jobs_of(engine, form)


def test_pictures_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="Add one"):
        page.open_picture(None, "Add one.")
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"^a\.png is no picture that can be read"):
        page.open_picture(tmp_path / "a.png", "")


def test_pictures_that_are_too_large(tmp_path, monkeypatch):
    """Known before anything is decoded."""
    Image.new("1", (4097, 4096)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match=r"^large\.png has 4097 x 4096 pixels, but a picture may have 16777216"):
        page.open_picture(tmp_path / "large.png", "")
    monkeypatch.setattr(page, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"^large\.png is larger than the 1000 bytes"):
        page.open_picture(tmp_path / "large.png", "")
    Image.effect_noise((20, 20), 80).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"cut\.png.* holds a picture that cannot be decoded"):
        page.open_picture(tmp_path / "cut.png", "")


def test_errors_are_sentences():
    assert page.sentence(ValueError("`height` must\n be 16")) == "height must be 16"
    assert page.sentence(torch.OutOfMemoryError("CUDA ...")).startswith("There is not enough memory for this")
    assert page.sentence(RuntimeError()) == "RuntimeError"


# ------------------------------------------------------------------ work beside its reader


def test_work_tells_and_ends():
    asked = threading.Event()

    def work(tell, left):
        tell(1)
        tell(2)
        asked.wait(10)
        assert not left()
        return "all"

    steps = page.watch(work, pulse=0.01)
    first = next(steps)
    while first.value is None:  # the thread had not begun
        first = next(steps)
    assert first.value in (1, 2) and next(steps).value == 2 and not first.done
    asked.set()
    *_, last = steps
    assert last == page.Step("all", done=True)


def test_work_is_told_that_its_reader_left():
    stopped = threading.Event()

    def work(tell, left):
        tell(0)
        while not left():
            pass
        stopped.set()

    steps = page.watch(work, pulse=0.01)
    next(steps)
    steps.close()
    assert stopped.wait(10)


def test_what_work_raises_reaches_its_reader():
    def work(*_):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        list(page.watch(work))


def test_pictures_grow_and_repeat(engine, session):
    jobs = page.jobs_of(engine, Form("a red circle", seed=3, **SMALL))
    *growing, last = page.make_pictures(engine, jobs)
    notes = [step.value.note for step in growing if step.value is not None]
    assert notes and all(note.endswith(" of 8 codes …") for note in notes)
    kept = session.keep(last.value[0])
    assert kept.path.name == "generate-001-seed-3.png" and kept.note == "Seed 3 · 64 × 32 · guidance 1.5"
    again = page.jobs_of(engine, page.form_of(engine, read_picture_info(kept.path)))
    assert picture_hash(engine.make(again)[0].picture) == picture_hash(Image.open(kept.path))


def test_leaving_ends_the_decoding(engine, monkeypatch):
    known = []
    make = engine.make

    def spied(jobs, *, on_code, **options):
        def count(code, total):
            known.append(code)
            on_code(code, total)

        return make(jobs, on_code=count, **options)

    monkeypatch.setattr(engine, "make", spied)
    steps = page.make_pictures(engine, page.jobs_of(engine, Form("a", CUSTOM, width=256, height=256)))
    while not known:
        next(steps)
    steps.close()
    with engine._lock:  # free when the decoding has ended
        assert 1 <= len(known) < 256


# ------------------------------------------------------------------ what a visitor has


def test_a_session_keeps_and_trims(engine, session, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MAX_KEPT", 2)
    source = tmp_path / "Mine.PNG"
    make_sample("edit", 1, 5)["source_image"].save(source)
    picture = page.open_picture(source, "")
    jobs = page.jobs_of(engine, Form("remove the red circle", AS_SOURCE, count=3), picture)
    kept = [session.keep(made, source, page.before_of(engine, picture, made.picture)) for made in engine.make(jobs)]
    assert session.pictures == [kept[2], kept[1]]
    assert not kept[0].path.exists() and kept[1].path.exists() and kept[1].before.exists()
    # One copy of the source serves all, and the upload may go.
    assert kept[1].source == kept[2].source and kept[2].source.read_bytes() == source.read_bytes()
    growing = session.passing(picture)
    assert growing.exists() and growing != session.passing(picture)
    folder = session.folder
    session.close()
    assert not folder.exists()


def test_pictures_that_are_shown_are_not_trimmed(session, monkeypatch):
    monkeypatch.setattr(page, "MAX_KEPT", 1)
    made = MadeImage(Image.new("RGB", (4, 4)), {"task": "generate", "seed": 1})
    in_chat, chosen, forgotten = session.keep(made), session.keep(made), None
    assert not in_chat.path.exists()
    in_chat = session.keep(made)
    session.bubbles.append({"role": "assistant", "content": {"path": str(in_chat.path)}})
    chosen = session.keep(made)
    session.chosen["draw"] = chosen
    forgotten, last = session.keep(made), session.keep(made)
    assert [kept.path.exists() for kept in (in_chat, chosen, forgotten, last)] == [True, True, False, True]


def test_examples_are_of_the_world_the_checkpoint_knows(engine, tmp_path):
    examples = make_examples(engine, tmp_path)
    texts = [*examples.draw, *(text for _, text in examples.ask), *(text for _, text in examples.edit)]
    assert any(text.isascii() for text in texts) and any(not text.isascii() for text in texts)
    jobs = [ImageJob(prompt, height=64, width=64, seed=1) for prompt in examples.draw]
    assert len({picture_hash(made.picture) for made in engine.make(jobs)}) == len(jobs)

    class Other:
        usual_sizes = [(512, 512)]

    assert make_examples(Other(), tmp_path).draw == list(PROMPTS)


def test_examples_come_out_right(engine, tmp_path):
    """What the page offers shows the checkpoint as it is, so it should be right."""
    from transformers_wallaroo.apps.page_examples import ASK, EDIT, SEED

    examples = make_examples(engine, tmp_path)
    for (kind, index, language), (file, question) in zip(ASK, examples.ask, strict=True):
        sample = make_sample("understand", index, SEED, kind=kind, language=language, bucket=(64, 64))
        content = [{"type": "image", "image": Image.open(file)}, {"type": "text", "text": question}]
        assert score(engine.answer([{"role": "user", "content": content}]), sample)["correct"], question
    for (kind, index, language), (file, prompt) in zip(EDIT, examples.edit, strict=True):
        sample = make_sample("edit", index, SEED, kind=kind, language=language, bucket=(64, 64))
        [made] = engine.make([ImageJob(prompt, source=Image.open(file), seed=1)])
        assert score(made.picture, sample)["correct"], prompt
