"""Names of pictures: what they hold, and nobody else's."""

import pytest
from PIL import Image

from transformers_wallaroo.apps import MadeImage, read_picture_info
from transformers_wallaroo.apps.outputs import Outputs, save_under_free_name, slug


def made(prompt="a red circle", seed=7):
    return MadeImage(Image.new("RGB", (16, 16), "red"), {"prompt": prompt, "seed": seed})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A red circle, please!", "a-red-circle-please"),
        ("一个红色的圆形", "一个红色的圆形"),
        ("../../etc/passwd", "etc-passwd"),
        ("?!", "picture"),
        ("a red circle in the top left and a blue star", "a-red-circle-in-the-top-left-and-a-blue"),
        ("x" * 60, "x" * 40),
    ],
)
def test_slug(text, name):
    assert slug(text) == name


def test_names_of_a_folder_are_free_ones(tmp_path):
    outputs = Outputs(tmp_path / "new", 2)
    assert [outputs.save(index, made()).name for index in range(2)] == ["a-red-circle-7.png", "a-red-circle-7-2.png"]
    (tmp_path / "new" / "a-red-circle-7-3.png").symlink_to("nowhere")
    assert save_under_free_name(made(), tmp_path / "new" / "a-red-circle-7.png").name == "a-red-circle-7-4.png"
    assert read_picture_info(tmp_path / "new" / "a-red-circle-7-2.png") == made().info


def test_a_name_lost_to_another_program_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_text("theirs")
    monkeypatch.setattr("os.path.lexists", lambda _: False)
    assert save_under_free_name(made(), tmp_path / "a.png").name == "a-2.png"
    assert (tmp_path / "a.png").read_text() == "theirs"


def test_files(tmp_path):
    assert Outputs(tmp_path / "a.png", 1).files == [tmp_path / "a.png"]
    several = Outputs(tmp_path / "a.png", 2)
    assert several.save(1, made()) == tmp_path / "a-2.png"
    with pytest.raises(ValueError, match=r"`--output`: .*a-2.png is there already. Take another name, or --force"):
        Outputs(tmp_path / "a.png", 2)
    forced = Outputs(tmp_path / "a.png", 2, force=True)
    forced.save(1, made(seed=8))
    assert read_picture_info(tmp_path / "a-2.png")["seed"] == 8


def test_bad_outputs(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "b-2.png").mkdir()
    with pytest.raises(ValueError, match=r"`--output` must end in .png or be a folder, but .*file is a file"):
        Outputs(tmp_path / "file", 1)
    with pytest.raises(ValueError, match=r"`--output` must end in .png, or be a folder, but got .*a.jpg"):
        Outputs(tmp_path / "a.jpg", 1)
    assert Outputs(tmp_path / "folder.png", 1).folder == tmp_path / "folder.png"
    with pytest.raises(ValueError, match=r"`--output` must be a file or a new name, but .*b-2.png is a folder"):
        Outputs(tmp_path / "b.png", 2, force=True)
