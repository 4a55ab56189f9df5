# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The engine that the command, the page and the server share: answers and pictures, their progress, and stopping."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_wallaroo import embedded, tiny_path
from transformers_wallaroo.apps import AnswerEnd, ImageJob, Stopped
from transformers_wallaroo.apps.engine import MAX_WINDOW
from transformers_wallaroo.apps.pictures import picture_hash
from transformers_wallaroo.evaluation.shapes import question_of
from transformers_wallaroo.shapes import make_sample

GREEDY = {"do_sample": False}


@pytest.fixture(scope="module")
def question():
    return make_sample("understand", 3, 30260, kind="description", language="en")


def ask(sample):
    parts = [{"type": "image", "image": sample["images"][0]}, {"type": "text", "text": question_of(sample)}]
    return [{"role": "user", "content": parts}]


def test_pieces_are_the_answer(engine, question):
    messages = ask(question)
    pieces = list(engine.stream_answer(messages, **GREEDY))
    assert len(pieces) > 1
    assert "".join(pieces).strip() == engine.answer(messages, **GREEDY)
    inputs = engine.processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    ids = engine.model.generate(**inputs, task="understand", max_new_tokens=64, do_sample=False)
    expected = engine.processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
    assert "".join(pieces).strip() == expected.strip()


def test_answer_stops(engine, question):
    whole = list(engine.stream_answer(ask(question), **GREEDY))
    asked = []

    def stop():
        asked.append(1)
        return len(asked) >= 2

    assert len(list(engine.stream_answer(ask(question), stop=stop, **GREEDY))) < len(whole)
    pieces = engine.stream_answer(ask(question), **GREEDY)
    assert next(pieces) == whole[0]
    pieces.close()  # as a client that goes away
    assert engine.answer(ask(question), **GREEDY) == "".join(whole).strip()


def test_answers_say_how_they_ended(engine, question):
    ends = []
    messages = ask(question)
    text = "".join(engine.stream_answer(messages, on_end=ends.append, **GREEDY))
    list(engine.stream_answer(messages, max_new_tokens=2, on_end=ends.append, **GREEDY))
    list(engine.stream_answer(messages, stop=lambda: True, on_end=ends.append, **GREEDY))
    prompt = engine.prepare_answer(messages)["input_ids"].shape[1]
    count = len(engine.processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    assert ends == [
        AnswerEnd(prompt, count + 1, "stop"),
        AnswerEnd(prompt, 2, "length"),
        AnswerEnd(prompt, 1, "stopped"),
    ]


def test_errors_of_the_writer_reach_the_reader(engine, question):
    with pytest.raises(ValueError, match="`max_new_tokens` must be greater than 0"):
        engine.answer(ask(question), max_new_tokens=0)


@pytest.mark.parametrize("message", [{"role": "nobody", "content": "hi"}, {"role": "user", "content": 3}, {}])
def test_bad_messages(engine, message):
    with pytest.raises(ValueError, match=r"`messages` must have a `role` .* and a `content`"):
        engine.answer([message])


def test_batch_gives_what_single_jobs_give(engine):
    drawing = ImageJob("a red circle on a white background", height=32, width=64, seed=5)
    edit = ImageJob("remove the red circle", source=make_sample("edit", 1, 5)["source_image"], seed=6)
    together = engine.make([drawing, edit])
    for job, made in zip((drawing, edit), together, strict=True):
        [alone] = engine.make([job])
        assert picture_hash(alone.picture) == picture_hash(made.picture)
        assert made.info["task"] == job.task.name and made.info["seed"] == job.seed
        assert (made.info["height"], made.info["width"]) == (made.picture.height, made.picture.width)
    assert together[0].picture.size == (64, 32)
    assert together[1].info["source"] == {"sha256": picture_hash(edit.source)}
    first, second = (made.info["batch"] for made in together)
    assert (first["index"], second["index"]) == (0, 1) and first["size"] == second["size"] == 2
    # A neighbour that is another picture is named, for rounding may depend on it.
    [other] = second["others"]
    assert other == {name: together[0].info[name] for name in other} and other["prompt"] == drawing.prompt


def test_batches_of_consecutive_seeds_need_no_names(engine):
    jobs = [ImageJob("a red circle", height=32, width=64, seed=seed) for seed in (4, 5)]
    assert [made.info["batch"] for made in engine.make(jobs)] == [{"index": index, "size": 2} for index in range(2)]
    far = [jobs[0], ImageJob("a red circle", height=32, width=64, seed=9)]
    assert engine.make(far)[0].info["batch"]["others"][0]["seed"] == 9


def test_size_of_a_job_is_that_of_its_picture(engine):
    source = Image.new("RGB", (128, 64))
    for job, size in (
        (ImageJob("a"), (64, 64)),
        (ImageJob("a", aspect_ratio="2:1"), (32, 64)),
        (ImageJob("a", source=source), (32, 64)),
        (ImageJob("a", source=source, height=48, width=64), (48, 64)),
    ):
        assert engine.size_of(job) == size


def test_sampling_is_used_and_noted(engine):
    job = ImageJob("a red circle", height=32, width=64, sampling={"guidance_scale": 4.0, "do_sample": False})
    [made] = engine.make([job])
    assert made.info["sampling"]["guidance_scale"] == 4.0 and made.info["sampling"]["do_sample"] is False
    inputs = engine.processor(text=job.prompt, task="generate", height=32, width=64, return_tensors="pt")
    sequences = engine.model.generate(**inputs, guidance_scale=4.0, do_sample=False, show_progress=False)
    [expected] = engine.processor.image_processor.postprocess(engine.model.decode_image_tokens(sequences))
    assert picture_hash(made.picture) == picture_hash(expected)


@pytest.fixture(scope="module")
def scene():
    """An edit of a picture that is larger than what the checkpoint makes, and of another shape."""
    sample = make_sample("edit", 1, 5)
    return sample["prompt"], sample["source_image"].resize((100, 80), Image.Resampling.NEAREST)


def test_edits_keep_what_they_should(engine, scene):
    """A job of each kind, in one batch: the size, the pixels outside of the region, and what the file says."""
    prompt, source = scene
    region = np.zeros((80, 100), dtype=bool)
    region[:35, :60] = True
    whole = ImageJob(prompt, source=source, seed=1, original_size=True)
    inside = ImageJob(prompt, source=source, seed=1, original_size=True, region_mask=region, keep_source=True)
    cells = ImageJob(prompt, source=source, seed=1, region_mask=Image.fromarray(region))
    made = engine.make([whole, inside, cells])
    assert [each.picture.size for each in made] == [(100, 80), (100, 80), (64, 48)]
    kept, edited = np.asarray(made[1].picture), np.asarray(made[0].picture)
    assert np.array_equal(kept[~region], np.asarray(source)[~region])
    assert not np.array_equal(edited[~region], np.asarray(source)[~region])
    assert [(each.info["height"], each.info["width"]) for each in made] == [(48, 64)] * 3
    assert [each.info["original_size"] for each in made] == [True, True, False]
    assert [each.info["keep_source"] for each in made] == [False, True, False]
    assert made[1].info["region_mask"] == made[2].info["region_mask"] and "region_mask" not in made[0].info
    for job, each in zip((whole, inside, cells), made, strict=True):
        assert picture_hash(engine.make([job])[0].picture) == picture_hash(each.picture)


def test_image_guidance_is_used_and_noted(engine, scene):
    prompt, source = scene
    job = ImageJob(prompt, source=source, sampling={"image_guidance_scale": 3.0, "do_sample": False})
    [made] = engine.make([job])
    assert made.info["sampling"]["image_guidance_scale"] == 3.0
    inputs = engine.prepare([job])
    sequences = engine.model.generate(**inputs, image_guidance_scale=3.0, do_sample=False, show_progress=False)
    [expected] = engine.processor.image_processor.postprocess(engine.model.decode_image_tokens(sequences))
    assert picture_hash(made.picture) == picture_hash(expected)
    [plain] = engine.make([ImageJob("a red circle", height=32, width=64, sampling={"image_guidance_scale": None})])
    assert "image_guidance_scale" not in plain.info["sampling"]


@pytest.mark.parametrize(
    "options",
    [
        {"region_mask": np.ones((64, 64), dtype=bool)},
        {"original_size": True},
        {"keep_source": True},
        {"sampling": {"image_guidance_scale": 1.5}},
    ],
)
def test_what_is_for_edits_alone(options):
    name = next(iter(options.get("sampling", options)))
    with pytest.raises(ValueError, match=f"`{name}` is for edits, but the job has no `source`"):
        ImageJob("a red circle", **options)


def test_keeping_pixels_needs_a_region(scene):
    with pytest.raises(ValueError, match="`keep_source` needs a `region_mask`"):
        ImageJob(scene[0], source=scene[1], keep_source=True)


def test_progress_and_rows(engine):
    seen, known = [], []
    jobs = [ImageJob("a red circle", height=64, width=32), ImageJob("a blue square", height=32, width=64)]
    made = engine.make(jobs, on_code=lambda code, total: known.append((code, total)), on_rows=seen.append)
    assert known == [(code, 8) for code in range(1, 9)]
    # 4 rows of 2 cells and 2 rows of 4 cells: a row of the first ends at each even code.
    assert len(seen) == 4
    assert seen[0][0].size == (32, 64) and seen[0][1] is None
    for shown, whole in zip(seen[-1], made, strict=True):
        assert picture_hash(shown) == picture_hash(whole.picture)
    assert seen[0][0].getpixel((5, 60)) == (128, 128, 128) != seen[0][0].getpixel((5, 5))


def test_pictures_stop(engine):
    known = []
    with pytest.raises(Stopped):
        engine.make(
            [ImageJob("a red circle")], on_code=lambda code, _: known.append(code), stop=lambda: len(known) == 3
        )
    assert known == [1, 2, 3]
    assert engine.make([ImageJob("a red circle", height=32, width=64)])  # nothing is left locked


def test_threads_take_turns(engine):
    jobs = [ImageJob("a red circle", height=32, width=64, seed=seed) for seed in range(3)]
    expected = [picture_hash(engine.make([job])[0].picture) for job in jobs]
    found = {}

    def work(index):
        found[index] = picture_hash(engine.make([jobs[index]])[0].picture)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(3)] == expected


def test_bad_jobs(engine):
    with pytest.raises(ValueError, match=r"`sampling` may have guidance_scale, .* but got beams"):
        ImageJob("a", sampling={"beams": 3})
    with pytest.raises(ValueError, match="`jobs` of one batch must have the same `sampling`"):
        engine.make([ImageJob("a"), ImageJob("b", sampling={"top_k": 3})])
    with pytest.raises(ValueError, match="`height`"):
        engine.prepare([ImageJob("a", height=33, width=64)])
    assert engine.make([]) == []


def test_what_it_is(engine):
    assert engine.name == "wallaroo-tiny" and engine.cell == 16
    assert (64, 64) in engine.usual_sizes
    assert engine.checkpoint_hash == embedded.checkpoint_hash(tiny_path(), quick=True)


def test_quick_hashes_tell_folders_apart(tmp_path):
    from safetensors.torch import save_file

    def folder(name, weight, config="{}"):
        (tmp_path / name).mkdir()
        save_file({"weight": weight}, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(config)
        return embedded.checkpoint_hash(tmp_path / name, quick=True)

    weight = torch.arange(2**18, dtype=torch.float32)  # 16 times a chunk
    first = folder("first", weight)
    assert first == folder("same", weight.clone()) and len(first) == 16
    assert first != folder("config", weight, '{"a": 1}')
    for place in (0, 2**17, 2**18 - 1):
        other = weight.clone()
        other[place] += 1
        assert first != folder(f"at-{place}", other)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"`checkpoint` must be the folder of one, but .*empty has no safetensors"):
        embedded.checkpoint_hash(tmp_path / "empty")


def test_pictures_may_be_of_other_modes(engine):
    source = Image.new("RGBA", (64, 64), (255, 0, 0, 128))
    [made] = engine.make([ImageJob("remove the red circle", source=source, seed=6)])
    assert made.picture.mode == "RGB"


def test_windows_have_an_end():
    assert ImageJob("a", sampling={"speculative_window": MAX_WINDOW}).sampling["speculative_window"] == 64
    with pytest.raises(ValueError, match="`speculative_window` must be at most 64 codes, but got 65: memory grows"):
        ImageJob("a", sampling={"speculative_window": MAX_WINDOW + 1})
