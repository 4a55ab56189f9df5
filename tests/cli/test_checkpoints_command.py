"""`wallaroo info`, `convert`, `init` and `export`."""

import json

import pytest
from PIL import Image

from transformers_wallaroo import embedded, tiny_path
from transformers_wallaroo.apps import save_picture
from transformers_wallaroo.conversion import export_qwen, init_from_qwen

from reference import REFERENCE

FILES = ("--base", REFERENCE / "base", "--vq-checkpoint", REFERENCE / "vq_ds16_t2i.pt")


def weights(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".safetensors", ".json")}


def test_help_has_examples(wallaroo):
    for command in ("info", "convert", "init", "export"):
        assert f"wallaroo {command} " in wallaroo.run(command, "--help").stdout


def test_info_of_the_embedded_checkpoint(wallaroo):
    result = wallaroo.run("info")
    assert "wallaroo-tiny" in result.stderr and embedded.checkpoint_hash(tiny_path(), quick=True) in result.stdout
    for words in ("language model", "row_ends", "width x height in pixels: 64x32", "bfloat16", "Runs here on", "torch"):
        assert words in result.stdout
    facts = json.loads(wallaroo.run("info", tiny_path(), "--json").stdout)
    assert facts["path"] == str(tiny_path()) and facts["parameters"]["total"] > 5_000_000
    assert wallaroo.loaded == []


def test_info_takes_the_checkpoint_of_the_environment(wallaroo):
    assert "there is no folder /nowhere" in wallaroo.refused("info", env={"WALLAROO_CHECKPOINT": "/nowhere"})


def test_info_of_a_picture(wallaroo):
    wallaroo.run("generate", "two stars", "--size", "64x32", "--seed", 7, "-o", "a.png")
    text = wallaroo.run("info", "a.png").stdout
    assert "prompt           two stars" in text and "wallaroo generate --from a.png" in text
    assert "wallaroo generate 'two stars' --size 64x32 --seed 7 --guidance 1.5" in text
    assert json.loads(wallaroo.run("info", "a.png", "--json").stdout)["seed"] == 7


def test_info_of_other_files(wallaroo):
    Image.new("RGB", (8, 8)).save("plain.png")
    assert "plain.png does not say how it was made" in wallaroo.refused("info", "plain.png")
    assert "There is no file none.png." in wallaroo.refused("info", "none.png")
    (wallaroo.folder / "text.txt").write_text("x")
    assert "`IMAGE` must be the file of a picture, but text.txt is not" in wallaroo.refused("info", "text.txt")
    save_picture(Image.new("RGB", (8, 8)), "other.png", {"preview": True})
    assert wallaroo.run("info", "other.png").stdout.split() == ["preview", "True"]


def test_convert_is_the_conversion(wallaroo, converted):
    result = wallaroo.run(
        "convert", *FILES, "--checkpoint", REFERENCE / "wallaroo.ckpt", "-o", "out", "--dtype", "float32"
    )
    assert result.stdout == "dropped quantize.codebook_used\nwrote out\n"
    assert weights(wallaroo.folder / "out") == weights(converted)
    report = json.loads(wallaroo.run("export", "--checkpoint", converted, "-o", "qwen", "--json").stdout)
    assert report["output"] == "qwen" and "left behind" in report["report"][0]
    export_qwen(converted, wallaroo.folder / "expected")
    assert weights(wallaroo.folder / "qwen") == weights(wallaroo.folder / "expected")


def test_init_is_that_of_the_package(wallaroo, converted):
    export_qwen(converted, wallaroo.folder / "qwen")
    files = ("--base", "qwen", "--vq-checkpoint", REFERENCE / "vq_ds16_t2i.pt", "--stage", "1")
    result = wallaroo.run("init", *files, "-o", "out")
    assert "newly initialised generation_head.fc1.weight" in result.stdout
    init_from_qwen(wallaroo.folder / "qwen", REFERENCE / "vq_ds16_t2i.pt", wallaroo.folder / "expected", stage="1")
    assert weights(wallaroo.folder / "out") == weights(wallaroo.folder / "expected")
    facts = json.loads(wallaroo.run("info", "out", "--json").stdout)
    assert facts["options"]["stage"] == "1, 2 or 3a" and facts["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("convert",), "Missing option"),
        (("convert", *FILES, "--checkpoint", "none.ckpt", "-o", "out"), "none.ckpt does not exist or is no file"),
        (("convert", *FILES, "--checkpoint", "none.ckpt", "-o", "out", "--stage", "5"), "'--stage'"),
        (("init", "--base", "none", "--vq-checkpoint", "none.pt", "-o", "out"), "none has no readable config.json"),
        (("export", "--checkpoint", "none", "-o", "out"), "none has no readable config"),
    ],
)
def test_bad_input_ends_in_a_sentence(wallaroo, arguments, message):
    assert message in wallaroo.refused(*arguments)
    assert list(wallaroo.folder.iterdir()) == []
