"""A picture again, bit for bit, from what its file says."""

import json
import shlex
import shutil

import pytest
import torch
from PIL import Image

from transformers_wallaroo.apps import ImageJob, read_picture_info, save_picture
from transformers_wallaroo.apps.pictures import picture_hash
from transformers_wallaroo.apps.repeating import command_line, differences, read_repeat
from transformers_wallaroo.shapes import make_sample


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "sources" / "source.png"
    path.parent.mkdir()
    make_sample("edit", 1, 5)["source_image"].save(path)
    return path


def save_all(engine, jobs, folder):
    return [save_picture(one.picture, folder / f"{i}.png", one.info) for i, one in enumerate(engine.make(jobs))]


def edit_job(source, **options):
    return ImageJob("remove the star", Image.open(source), str(source), seed=3, **options)


def test_consecutive_seeds(engine, tmp_path):
    jobs = [ImageJob("two stars", height=32, width=64, seed=5 + i, negative_prompt="red") for i in range(3)]
    for index, path in enumerate(save_all(engine, jobs, tmp_path)):
        again = read_repeat(path)
        assert (again.index, [job.seed for job in again.jobs], again.note) == (index, [5, 6, 7], None)
        made = again.make(engine)
        assert again.is_same(made) and made.info == read_picture_info(path)
        assert differences(again.info, engine) is None


def test_neighbours_of_other_sizes_and_tasks(engine, tmp_path, source):
    sampling = {"guidance_scale": 2.0, "top_k": 50}
    jobs = [
        ImageJob("a red circle in the top left", height=64, width=32, seed=1, sampling=sampling),
        edit_job(source, sampling=sampling),
        ImageJob("two stars", height=32, width=64, seed=9, sampling=sampling),
    ]
    for index, path in enumerate(save_all(engine, jobs, tmp_path)):
        again = read_repeat(path)
        assert again.index == index and [job.prompt for job in again.jobs] == [job.prompt for job in jobs]
        assert again.jobs[index].sampling["top_k"] == 50
        assert again.is_same(again.make(engine))
    source.unlink()
    alone = read_repeat(tmp_path / "0.png")
    assert len(alone.jobs) == 1 and "It is made by itself, and may round otherwise" in alone.note


def test_greedy_and_speculative_pictures(engine, tmp_path):
    for number, sampling in enumerate(({"do_sample": False}, {"speculative_window": 4})):
        [path] = save_all(engine, [ImageJob("two stars", seed=4, sampling=sampling)], tmp_path / str(number))
        again = read_repeat(path)
        assert again.is_same(again.make(engine))


def test_a_source_is_found_or_asked_for(engine, tmp_path, source):
    [path] = save_all(engine, [edit_job(source)], tmp_path)
    expected = read_repeat(path)
    assert expected.is_same(expected.make(engine))
    moved = shutil.move(source, tmp_path / "source.png")  # beside the picture
    assert read_repeat(path).jobs[0].source_path == str(moved)
    elsewhere = shutil.move(moved, tmp_path / "sources" / "other.png")
    with pytest.raises(ValueError, match=r"was edited from .*source.png, which is not there. .* by `--image`"):
        read_repeat(path)
    assert picture_hash(read_repeat(path, elsewhere).jobs[0].source) == expected.info["source"]["sha256"]
    Image.new("RGB", (64, 64)).save(source)
    with pytest.raises(ValueError, match=r"which is another picture now"):
        read_repeat(path)
    with pytest.raises(ValueError, match=r"`--image` must be the picture that .*0.png was edited from, but .* another"):
        read_repeat(path, source)


def test_differences_are_one_sentence(engine, tmp_path):
    [path] = save_all(engine, [ImageJob("two stars", height=32, width=64)], tmp_path)
    info = read_picture_info(path)
    info |= {"checkpoint_hash": "0123", "checkpoint": "mine", "dtype": "bfloat16", "device": "cuda", "gpu": "H100"}
    info["versions"] = {**info["versions"], "torch": "1.0", "python": "3.1"}
    text = differences(info, engine)
    assert "the checkpoint mine (0123), now wallaroo-tiny" in text and "dtype bfloat16, now float32" in text
    assert "torch 1.0, now" in text and "python" not in text and "gpu H100" in text and text.count(". ") == 0


def test_threads_are_those_of_then(engine, tmp_path):
    [path] = save_all(engine, [ImageJob("two stars", height=32, width=64)], tmp_path)
    again, seen = read_repeat(path), []
    again.info["threads"] = 3
    again.make(engine, stop=lambda: bool(seen.append(torch.get_num_threads())))
    assert set(seen) == {3} and torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("changes", "lacking"),
    [
        ({"seed": None}, "seed"),
        ({"prompt": 3}, "prompt"),
        ({"batch": {"index": 3, "size": 2}}, "batch"),
        ({"batch": {"index": 0, "size": 10**9}}, "batch"),
        ({"batch": {"index": 0, "size": 3, "others": [1]}}, "batch"),
        ({"task": "understand"}, "task"),
        ({"task": "edit"}, "source"),
    ],
)
def test_files_that_say_too_little(tmp_path, changes, lacking):
    info = {"task": "generate", "prompt": "a", "negative_prompt": "", "height": 16, "width": 16, "seed": 1}
    info |= {"sampling": {}, "batch": {"index": 0, "size": 1}, **changes}
    path = save_picture(Image.new("RGB", (16, 16)), tmp_path / "a.png", json.loads(json.dumps(info)))
    with pytest.raises(ValueError, match=f"says too little of how it was made, .*: {lacking}. It cannot be repeated"):
        read_repeat(path)


def test_other_files(tmp_path):
    with pytest.raises(ValueError, match="`--from` must be a PNG that wallaroo has made, but there is no file"):
        read_repeat(tmp_path / "nothing.png")
    (tmp_path / "text.png").write_text("x")
    with pytest.raises(ValueError, match=r"but .*text.png is no picture"):
        read_repeat(tmp_path / "text.png")


def test_command_line_is_one_for_a_shell():
    info = {"task": "edit", "prompt": "it's", "height": 32, "width": 64, "seed": 3, "source": {"path": "a b.png"}}
    info |= {"negative_prompt": "red", "sampling": {"do_sample": True, "temperature": 0.5, "top_k": 5, "top_p": "odd"}}
    words = ["wallaroo", "edit", "it's", "--image", "a b.png", "--size", "64x32", "--seed", "3", "--negative", "red"]
    assert shlex.split(command_line(info)) == [*words, "--temperature", "0.5", "--top-k", "5"]
    greedy = {"task": "generate", "prompt": "a", "height": 32, "width": 64, "seed": 3, "sampling": {"do_sample": False}}
    assert command_line(greedy) == "wallaroo generate a --size 64x32 --seed 3 --temperature 0"
