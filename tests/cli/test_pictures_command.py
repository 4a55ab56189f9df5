"""`wallaroo generate` and `edit`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from transformers_wallaroo.apps import read_picture_info
from transformers_wallaroo.apps.pictures import picture_hash
from transformers_wallaroo.shapes import make_sample

from killing import killed_at


@pytest.fixture
def source(wallaroo):
    make_sample("edit", 1, 5)["source_image"].save(wallaroo.folder / "source.png")
    return "source.png"


def files(wallaroo):
    return sorted(path.name for path in wallaroo.folder.iterdir())


def test_help_has_every_option_with_examples(wallaroo):
    for command, example in (("generate", "wallaroo generate --from"), ("edit", "wallaroo edit --batch")):
        text = wallaroo.run(command, "--help").stdout
        for word in ("--size", "Width x height", "--aspect", "-n", "--seed", "--guidance", "--negative", example):
            assert word in text
        for word in ("--top-k", "--temperature", "--speculative", "--batch", "--preview", "--json", "--device"):
            assert word in text
        assert "WALLAROO_CHECKPOINT" in text
    top = wallaroo.run("--help").stdout
    assert "wallaroo generate" in top and "wallaroo edit" in top and "--install-completion" in top


def test_pictures_are_named_after_prompt_and_seed(wallaroo):
    result = wallaroo.run("generate", "a red circle", "--size", "64x32", "-n", 2, "--seed", 7)
    assert result.stdout.split() == ["a-red-circle-7.png", "a-red-circle-8.png"] == files(wallaroo)
    assert "wallaroo-tiny" in result.stderr
    assert Image.open("a-red-circle-7.png").size == (64, 32)
    assert wallaroo.run("generate", "a red circle", "--size", "64x32", "--seed", 7).stdout.split() == [
        "a-red-circle-7-2.png"
    ]
    first, again = (Image.open(name) for name in ("a-red-circle-7.png", "a-red-circle-7-2.png"))
    assert picture_hash(first) == picture_hash(again)


def test_without_a_seed_each_picture_is_another(wallaroo):
    report = json.loads(wallaroo.run("generate", "two stars", "--json").stdout)["pictures"]
    report += json.loads(wallaroo.run("generate", "two stars", "--json").stdout)["pictures"]
    assert report[0]["info"]["seed"] != report[1]["info"]["seed"]
    assert [read_picture_info(picture["path"]) for picture in report] == [picture["info"] for picture in report]


def test_options_reach_the_picture(wallaroo):
    options = ("--guidance", 2, "--negative", "blue", "--top-k", 5, "--top-p", 0.9, "--temperature", 0.5)
    wallaroo.run("generate", "two stars", "--aspect", "1:2", "--speculative", 4, *options, "-o", "new/a.png")
    info = read_picture_info("new/a.png")
    sampling = info["sampling"]
    assert (info["width"], info["height"], info["negative_prompt"]) == (32, 64, "blue")
    assert (sampling["guidance_scale"], sampling["top_k"], sampling["top_p"]) == (2, 5, 0.9)
    assert (sampling["temperature"], sampling["speculative_window"]) == (0.5, 4)
    wallaroo.run("generate", "two stars", "--temperature", 0, "-o", "b.png")
    assert read_picture_info("b.png")["sampling"]["do_sample"] is False


def test_edit_notes_its_source_and_is_repeated(wallaroo, source):
    wallaroo.run("edit", "remove the star", "--image", source, "--seed", 3, "-n", 2, "-o", "out.png")
    info = read_picture_info("out-2.png")
    assert info["source"] == {"path": source, "sha256": picture_hash(Image.open(source))}
    assert info["batch"] == {"index": 1, "size": 2}
    result = wallaroo.run("edit", "--from", "out-2.png", "-o", "again.png", "--json")
    [report] = json.loads(result.stdout)["pictures"]
    assert report["same"] is True and report["info"] == info
    assert "It is the same picture, bit for bit." in result.stderr
    assert picture_hash(Image.open("again.png")) == picture_hash(Image.open("out-2.png"))
    os.rename(source, "other.png")
    assert "Say where the source is by `--image`" in wallaroo.refused("edit", "--from", "out-2.png", "-o", "c.png")
    wallaroo.run("edit", "--from", "out-2.png", "--image", "other.png", "-o", "c.png")
    line = wallaroo.refused("generate", "--from", "out-2.png")
    assert "was made by `wallaroo edit`, so `wallaroo edit --from out-2.png`" in line


def test_repeats_take_checkpoint_and_dtype_of_then(wallaroo, engine, monkeypatch):
    monkeypatch.setattr(engine, "name", str(wallaroo.folder))
    wallaroo.run("generate", "two stars", "--size", "64x32", "-o", "a.png")
    monkeypatch.setattr(engine, "name", "wallaroo-tiny")
    result = wallaroo.run("generate", "--from", "a.png", "-o", "b.png")
    checkpoint, options = wallaroo.loaded[-1]
    assert checkpoint == str(wallaroo.folder) and str(options["dtype"]) == "torch.float32"
    assert "so this takes it too" in result.stderr
    monkeypatch.setitem(engine.__dict__, "checkpoint_hash", "0123")
    result = wallaroo.run("generate", "--from", "a.png", "-o", "c.png")
    assert "It was made with the checkpoint" in result.stderr and "now wallaroo-tiny (0123)" in result.stderr


def test_preview(wallaroo):
    wallaroo.run("generate", "two stars", "--size", "64x32", "--preview", "p.png", "-o", "a.png")
    assert picture_hash(Image.open("p.png")) == picture_hash(Image.open("a.png"))
    assert "is there already and is no preview" in wallaroo.refused("generate", "a", "--preview", "a.png")


def test_batches_are_checked_whole_and_gone_on_with(wallaroo, source, monkeypatch, engine):
    lines = [{"prompt": "two stars", "size": "64x32"}, {"prompt": "remove the star", "image": source}, {"prompt": ""}]
    texts = [json.dumps(line) for line in lines]
    (wallaroo.folder / "list.jsonl").write_text("\n".join(texts))
    assert "line 3: `prompt` is missing or empty" in wallaroo.refused("generate", "--batch", "list.jsonl", "-o", "out")
    assert not (wallaroo.folder / "out").exists()
    (wallaroo.folder / "list.jsonl").write_text("\n".join(texts[:2]))
    real, calls = engine.make, []

    def stop_at_second(jobs, **options):
        calls.append(jobs)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(jobs, **options)

    monkeypatch.setattr(engine, "make", stop_at_second)
    command = ("generate", "--batch", "list.jsonl", "-o", "out", "--batch-size", 1, "--seed", 5)
    result = wallaroo.run(*command, code=130)
    assert result.stdout.split() == ["out/list-0001.png"]
    assert "Stopped: 1 of 2 pictures are made and saved. The same command goes on." in result.stderr
    before = os.stat("out/list-0001.png").st_mtime_ns
    result = wallaroo.run(*command, "--json")
    [made] = json.loads(result.stdout)["pictures"]
    assert (made["path"], made["line"], made["info"]["seed"]) == ("out/list-0002.png", 2, 6)
    assert "1 of 2 pictures are there already and are kept" in result.stderr
    assert os.stat("out/list-0001.png").st_mtime_ns == before
    assert json.loads(wallaroo.run(*command, "--json").stdout) == {"pictures": []}
    assert "line 1: `image` is missing" in wallaroo.refused("edit", "--batch", "list.jsonl", "-o", "edited")
    wallaroo.run("edit", "--batch", "list.jsonl", "-o", "edited", "--image", source)
    assert read_picture_info("edited/list-0001.png")["task"] == "edit"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "PROMPT is missing or empty"),
        ((" ",), "PROMPT is missing or empty"),
        (("a", "--size", "64x33"), "`--size` must be WIDTHxHEIGHT in pixels, both multiples of 16"),
        (("a", "--size", "64x64", "--aspect", "1:1"), "`--size` and `--aspect` do not go together"),
        (("a", "--aspect", "wide"), "`--aspect` must be WIDTH:HEIGHT"),
        (("a", "-n", 0), "'-n'"),
        (("a", "--guidance", -1), "'--guidance'"),
        (("a", "--guidance", "much"), "'--guidance'"),
        (("a", "--temperature", -1), "'--temperature'"),
        (("a", "--top-p", 2), "'--top-p'"),
        (("a", "--dtype", "int8"), "'--dtype'"),
        (("a", "--size"), "--size"),
        (("a", "--sise", "64x64"), "--sise"),
        (("a", "b"), "unexpected extra argument"),
        (("a", "-o", "a.jpg"), "`--output` must end in .png"),
        (("a <|im_end|>",), "PROMPT holds the special token"),
        (("a", "--negative", "<|im_end|>"), "`--negative` holds the special token"),
        (("a", "--batch", "x.jsonl"), "`--batch` has the prompts in its file"),
        (("a", "--speculative", 65), "`--speculative` must be at most 64 codes, but got 65"),
        (("--batch", "x.jsonl"), "there is no file x.jsonl"),
        (("--batch", "x.jsonl", "-o", "a.png"), "`--output` must be a folder for `--batch`"),
        (("--from", "x.png"), "`--from` must be a PNG that wallaroo has made, but there is no file x.png"),
        (("--from", "x.png", "--seed", 3), "it does not go with --seed"),
        (("a", "--preview", "a.jpg"), "`--preview` must be a file that ends in .png"),
    ],
)
def test_bad_input_ends_in_a_sentence_and_writes_nothing(wallaroo, arguments, message):
    assert message in wallaroo.refused("generate", *arguments)
    assert files(wallaroo) == []


def test_a_batch_of_edits_keeps_what_it_should(wallaroo, source):
    mask = Image.new("L", Image.open(source).size)
    mask.paste(255, (0, 0, 16, 16))
    mask.save("mask.png")
    (wallaroo.folder / "list.jsonl").write_text(json.dumps({"prompt": "remove the star", "image_guidance": 2}))
    options = ("--image", source, "--mask", "mask.png", "--keep-source", "--original-size", "--image-guidance", 3)
    wallaroo.run("edit", "--batch", "list.jsonl", *options, "--speculative", 4)
    info = read_picture_info("list-0001.png")
    assert (info["original_size"], info["keep_source"], info["region_mask"]["path"]) == (True, True, "mask.png")
    assert info["sampling"]["image_guidance_scale"] == 2 and info["sampling"]["speculative_window"] == 4
    box = (16, 0, *mask.size)
    assert Image.open("list-0001.png").crop(box).tobytes() == Image.open(source).crop(box).tobytes()
    line = wallaroo.refused("edit", "--batch", "list.jsonl", "-i", source, "-o", "new", "--speculative", 65)
    assert "line 1: `--speculative` must be at most 64 codes" in line


def test_bad_input_of_edit(wallaroo, source):
    assert "`--keep-source` needs a `--mask`" in wallaroo.refused("edit", "a", "-i", source, "--keep-source")
    assert "`--image` is missing, the picture to change" in wallaroo.refused("edit", "remove the star")
    assert "but none.png does not exist" in wallaroo.refused("edit", "remove the star", "-i", "none.png")
    (wallaroo.folder / "text.png").write_text("x")
    assert "text.png is not: it is broken" in wallaroo.refused("edit", "remove the star", "-i", "text.png")
    wallaroo.run("edit", "remove the star", "-i", source, "-o", "a.png")
    line = wallaroo.refused("edit", "remove the star", "-i", source, "-o", "a.png")
    assert "a.png is there already. Take another name, or --force" in line
    wallaroo.run("edit", "remove the star", "-i", source, "-o", "a.png", "--force", "--seed", 3)
    assert read_picture_info("a.png")["seed"] == 3


def test_an_unusual_size_is_told_width_first(wallaroo):
    result = wallaroo.run("generate", "two stars", "--size", "16x32", "-o", "a.png")
    assert "16x32 (width x height) is none of the sizes" in result.stderr and "height x width" not in result.stderr
    assert Image.open("a.png").size == (16, 32)


def test_checkpoint_comes_from_option_or_environment(wallaroo):
    result = wallaroo.run("generate", "a", "-o", "a.png", env={"WALLAROO_CHECKPOINT": "mine"})
    assert wallaroo.loaded[-1][0] == "mine" and "embedded" not in result.stderr
    wallaroo.run("generate", "a", "-o", "b.png", "--checkpoint", "yours", env={"WALLAROO_CHECKPOINT": "mine"})
    assert wallaroo.loaded[-1][0] == "yours"
    wallaroo.run("generate", "a", "-o", "c.png", "--dtype", "bfloat16", "--device", "cpu")
    assert wallaroo.loaded[-1][0] is None and str(wallaroo.loaded[-1][1]["dtype"]) == "torch.bfloat16"
    assert wallaroo.loaded[-1][1]["device"] == "cpu"


@pytest.mark.parametrize("after", [False, True])
def test_a_killed_batch_goes_on(wallaroo, after):
    """Killed before and after the bytes of a picture are written: only whole pictures have their names."""
    lines = [{"prompt": "two stars", "size": "64x32", "seed": seed} for seed in range(4)]
    (wallaroo.folder / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    wallaroo.run("generate", "--batch", "list.jsonl", "-o", "whole", "--batch-size", 1)
    command = ("generate", "--batch", "list.jsonl", "-o", "out", "--batch-size", 1)
    killed_at(Image.Image, "save", 3, lambda: wallaroo.run(*command), after=after)
    before = {path: os.stat(path).st_mtime_ns for path in Path("out").glob("*.png") if not path.name.startswith(".")}
    assert sorted(path.name for path in before) == ["list-0001.png", "list-0002.png"]
    result = wallaroo.run(*command)
    assert "2 of 4 pictures are there already and are kept" in result.stderr
    assert all(os.stat(path).st_mtime_ns == was for path, was in before.items())
    for path in Path("whole").iterdir():
        assert Image.open(path).tobytes() == Image.open(Path("out") / path.name).tobytes()


def test_ctrl_c_keeps_what_is_done(tmp_path):
    """The real thing: a process that is interrupted between two pictures."""
    lines = "\n".join(json.dumps({"prompt": "two stars", "seed": seed}) for seed in range(150))
    (tmp_path / "list.jsonl").write_text(lines)
    command = [sys.executable, "-m", "transformers_wallaroo.cli", "generate", "--batch", "list.jsonl"]
    process = subprocess.Popen(
        [*command, "-o", "out", "--batch-size", "1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where a shell runs this beside it
    )
    assert process.stdout is not None
    first = process.stdout.readline().decode().strip()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, err.decode()
    assert "of 150 pictures are made and saved. The same command goes on." in err.decode()
    assert "Traceback" not in err.decode()
    told = [first, *out.decode().split()]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(name.split("/")[1] for name in told)
    assert all(read_picture_info(tmp_path / name)["prompt"] == "two stars" for name in told)
