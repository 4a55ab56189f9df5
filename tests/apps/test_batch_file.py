"""A file of pictures: checked whole, errors by line and field, gone on with."""

import json

import pytest
from PIL import Image

from transformers_wallaroo.apps import save_picture
from transformers_wallaroo.apps.batch import Jobs, pending, read_batch
from transformers_wallaroo.image_processing_wallaroo import to_mask
from transformers_wallaroo.shapes import make_sample


@pytest.fixture
def write(tmp_path):
    def write(*lines, name="list.jsonl"):
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        make_sample("edit", 1, 5)["source_image"].save(path.parent / "source.png")
        Image.new("L", (7, 7), 255).save(path.parent / "small.png")
        return path

    return write


def test_lines_become_jobs(write, engine, tmp_path):
    path = write(
        {"prompt": "two stars", "size": "64x48", "seed": 9, "negative": "red", "output": "sub/stars.png"},
        "",
        {"prompt": "一个红色的圆形"},
        {"prompt": "remove the star", "image": "source.png", "aspect": "1:2"},
    )
    defaults = {"size": "32x64", "seed": 100, "negative": "blue"}
    first, second, third = read_batch(path, engine, tmp_path / "out", defaults=defaults, sampling={"top_k": 5})
    own = first.read()
    assert (own.height, own.width, own.seed, own.negative_prompt) == (48, 64, 9, "red")
    assert first.output == tmp_path / "out" / "sub" / "stars.png" and first.number == 1
    own = second.read()
    assert (second.number, own.seed, second.output.name) == (3, 102, "list-0003.png")
    assert (own.height, own.width, own.negative_prompt) == (64, 32, "blue")
    own = third.read()
    assert own.aspect_ratio == "1:2" and own.height is None  # its own shape, not the size of all
    assert own.source is not None and own.source_path == str(path.parent / "source.png")
    assert third.read().source is not own.source  # the pixels of many lines are not kept
    assert Jobs([first, third])[1].source.size == Jobs([third])[:][0].source.size == own.source.size
    assert first.read().sampling == own.sampling == {"top_k": 5}


def test_what_an_edit_keeps(write, engine, tmp_path):
    edit = {"prompt": "remove the star", "image": "source.png"}
    path = write(
        {**edit, "mask": "mask.png", "keep_source": True, "image_guidance": 2.5}, {**edit, "original_size": True}, edit
    )
    mask = Image.new("L", Image.open(path.parent / "source.png").size)
    mask.paste(255, (0, 0, 16, 16))
    mask.save(path.parent / "mask.png")
    sampling = {"image_guidance_scale": 1.0, "top_k": 5}
    first, second, third = (line.read() for line in read_batch(path, engine, tmp_path / "out", sampling=sampling))
    assert first.sampling == {"image_guidance_scale": 2.5, "top_k": 5} and second.sampling == sampling
    assert to_mask(first.region_mask).sum() == 256 and first.mask_path == str(path.parent / "mask.png")
    assert (first.keep_source, first.original_size) == (True, False) and second.original_size
    assert third.region_mask is None and not third.original_size and not third.keep_source
    # Those of all lines are for lines that do not say otherwise.
    defaults = {"mask": "mask.png", "keep_source": True, "original_size": True}
    [line] = read_batch(write(edit), engine, tmp_path / "out", defaults=defaults)
    job = line.read()
    assert job.keep_source and job.original_size and to_mask(job.region_mask).sum() == 256
    # Another mask, or none, is another picture.
    [made] = engine.make([job])
    save_picture(made.picture, line.output, made.info)
    assert read_batch(write(edit), engine, tmp_path / "out", defaults=defaults)[0].done
    for other in ({}, {"mask": "mask.png", "original_size": True}, {"mask": "mask.png", "keep_source": True}):
        with pytest.raises(ValueError, match="is there already and is another"):
            read_batch(write(edit), engine, tmp_path / "out", defaults=other)
    mask.paste(255, (0, 0, 20, 20))
    mask.save(path.parent / "mask.png")
    with pytest.raises(ValueError, match="is there already and is another"):
        read_batch(write(edit), engine, tmp_path / "out", defaults=defaults)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2 is no JSON: .* at column"),
        ("[1]", r"line 2 must be a JSON object such as .*, but is \[1\]"),
        ({"promt": "a"}, r"line 2: there is no field `promt`, only prompt, image.*Did you mean `prompt`\?"),
        ({"seed": 3}, r"line 2: `prompt` is missing or empty"),
        ({"prompt": " "}, r"line 2: `prompt` is missing or empty"),
        ({"prompt": 3}, r"line 2: `prompt` must be a string, but got 3"),
        ({"prompt": "a", "seed": "3"}, r"line 2: `seed` must be a whole number, but got \"3\""),
        ({"prompt": "a", "seed": True}, r"line 2: `seed` must be a whole number, but got true"),
        ({"prompt": "a", "size": "64x33"}, r"line 2: `size` must be WIDTHxHEIGHT .* but got '64x33'"),
        ({"prompt": "a", "aspect": "wide"}, r"line 2: `aspect` must be WIDTH:HEIGHT"),
        ({"prompt": "a", "aspect": "1:1", "size": "64x64"}, r"line 2: `size` and `aspect` do not go together"),
        (
            {"prompt": "a", "image": "none.png"},
            r"line 2: `image` must be the file of a picture, but .*none.png does not",
        ),
        ({"prompt": "a", "mask": "source.png"}, r"line 2: `mask` is for edits, but the line has no `image`"),
        ({"prompt": "a", "image_guidance": 2}, r"line 2: `image_guidance` is for edits, but the line has no `image`"),
        ({"prompt": "a", "image_guidance": -1}, r"line 2: `image_guidance` must be a number from 0 on, but got -1"),
        ({"prompt": "a", "image_guidance": True}, r"line 2: `image_guidance` must be a number from 0 on, but got true"),
        ({"prompt": "a", "keep_source": 1}, r"line 2: `keep_source` must be true or false, but got 1"),
        ({"prompt": "a", "image": "source.png", "keep_source": True}, r"line 2: `keep_source` needs a `mask`"),
        ({"prompt": "a", "image": "source.png", "mask": "none.png"}, r"line 2: `mask` must be .*none.png does not"),
        ({"prompt": "a", "image": "source.png", "mask": "small.png"}, r"line 2: `mask` must have the size of its"),
        ({"prompt": "a", "output": "a.jpg"}, r"line 2: `output` must end in .png, but got 'a.jpg'"),
        ({"prompt": "a", "output": "one.png"}, r"line 2: `output` is that of line 1, .*one.png"),
        ({"prompt": "a <|im_end|>"}, r"line 2: `prompt` holds the special token"),
        ({"prompt": "a", "negative": "<|im_end|>"}, r"line 2: `negative` holds the special token"),
    ],
)
def test_errors_name_line_and_field(write, engine, tmp_path, line, message):
    path = write({"prompt": "fine", "output": "one.png"}, line)
    with pytest.raises(ValueError, match=f"list.jsonl, {message}"):
        read_batch(path, engine, tmp_path / "out")


def test_edits_need_a_picture(write, engine, tmp_path):
    path = write({"prompt": "remove the star"})
    with pytest.raises(ValueError, match=r"line 1: `image` is missing, the picture to edit"):
        read_batch(path, engine, tmp_path, needs_image=True)
    [line] = read_batch(path, engine, tmp_path, needs_image=True, defaults={"image": "source.png"})
    assert line.read().task.name == "edit"


def test_other_files_are_refused(write, engine, tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*nothing.jsonl"):
        read_batch(tmp_path / "nothing.jsonl", engine, tmp_path)
    with pytest.raises(ValueError, match="has no lines"):
        read_batch(write(""), engine, tmp_path)
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "é"}'.encode("latin-1"))
    with pytest.raises(ValueError, match="must be text in UTF-8"):
        read_batch(tmp_path / "latin.jsonl", engine, tmp_path)


def test_finished_pictures_are_kept_and_others_protected(write, engine, tmp_path):
    path = write({"prompt": "a red circle"}, {"prompt": "remove the star", "image": "source.png"}, {"prompt": "b"})
    lines = read_batch(path, engine, tmp_path)
    for line in lines[:2]:
        [made] = engine.make([line.read()])
        save_picture(made.picture, line.output, made.info)
    again = read_batch(path, engine, tmp_path)
    assert [line.done for line in again] == [True, True, False] and pending(again) == again[2:]
    for options in ({"defaults": {"seed": 1}}, {"sampling": {"top_k": 5}}):
        with pytest.raises(ValueError, match=r"line 1: `output` .*list-0001.png is there already and is another"):
            read_batch(path, engine, tmp_path, **options)
        assert not read_batch(path, engine, tmp_path, force=True, **options)[0].done
    make_sample("edit", 2, 5)["source_image"].save(path.parent / "source.png")
    with pytest.raises(ValueError, match=r"line 2: `output` .*list-0002.png is there already and is another"):
        read_batch(path, engine, tmp_path)
    (tmp_path / "list-0003.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"line 2"):
        read_batch(path, engine, tmp_path)
