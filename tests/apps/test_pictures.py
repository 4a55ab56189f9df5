# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""PNG files that know how they were made."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from transformers_wallaroo.apps import open_picture, read_picture_info, save_picture
from transformers_wallaroo.apps.pictures import TooManyBytes, check_picture, picture_hash, transparent_region, write_png

PICTURE = Image.effect_noise((20, 12), 80).convert("RGB")
INFO = {"prompt": "一只红色的袋鼠", "seed": 7, "sampling": {"guidance_scale": 3.0}}


def test_info_and_pixels_come_back(tmp_path):
    path = save_picture(PICTURE, tmp_path / "new" / "folder" / "a.png", INFO)
    assert read_picture_info(path) == INFO
    assert Image.open(path).tobytes() == PICTURE.tobytes()
    assert os.listdir(path.parent) == ["a.png"]


def test_png_in_memory_is_that_of_the_file(tmp_path):
    file = io.BytesIO()
    write_png(PICTURE, file, INFO)
    assert file.getvalue() == save_picture(PICTURE, tmp_path / "a.png", INFO).read_bytes()
    assert read_picture_info(file) == INFO


def test_file_is_readable_as_any_other(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    assert save_picture(PICTURE, tmp_path / "a.png").stat().st_mode == plain.stat().st_mode


def test_failure_leaves_what_was_there(tmp_path, monkeypatch):
    path = save_picture(PICTURE, tmp_path / "a.png", INFO)
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        save_picture(PICTURE, path, {"prompt": "other"})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.png"]


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in .png, .* but got .*a.jpg"):
        save_picture(PICTURE, tmp_path / "a.jpg")


@pytest.mark.parametrize("text", [None, "not JSON", "[1]"])
def test_pictures_of_others_say_nothing(tmp_path, text):
    from PIL.PngImagePlugin import PngInfo

    chunk = PngInfo()
    if text is not None:
        chunk.add_text("wallaroo", text)
    PICTURE.save(tmp_path / "a.png", pnginfo=chunk)
    with pytest.raises(ValueError, match=r"a.png does not say how it was made: it has no text chunk 'wallaroo'"):
        read_picture_info(tmp_path / "a.png")


def test_hash_is_of_pixels_and_size(tmp_path):
    PICTURE.save(tmp_path / "a.png")
    PICTURE.save(tmp_path / "b.bmp")
    assert picture_hash(Image.open(tmp_path / "a.png")) == picture_hash(Image.open(tmp_path / "b.bmp"))
    white = Image.new("RGB", (4, 2), "white")
    assert picture_hash(white) != picture_hash(white.transpose(Image.Transpose.ROTATE_90))
    assert picture_hash(white) != picture_hash(Image.new("RGB", (4, 2), (255, 255, 254)))


def test_a_name_that_is_taken_stays_whose_it_was(tmp_path):
    path = save_picture(PICTURE, tmp_path / "a.png", INFO, replace=False)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        save_picture(PICTURE, path, {"prompt": "other"}, replace=False)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.png"]


def test_what_is_no_picture_is_named(tmp_path):
    PICTURE.save(tmp_path / "a.png")
    assert open_picture(tmp_path / "a.png").tobytes() == PICTURE.tobytes()
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    for name, reason in (
        ("nothing.png", "nothing.png does not exist"),
        ("", "is a folder"),
        ("text.png", "text.png is not: it is broken, or something else"),
        ("cut.png", "cut.png is not: .*truncated"),
    ):
        with pytest.raises(ValueError, match=f"`--image` must be the file of a picture, but .*{reason}"):
            open_picture(tmp_path / name, "--image")


def test_limits_are_asked_of_file_and_header(tmp_path, monkeypatch):
    path = save_picture(PICTURE, tmp_path / "a.png")
    data = path.read_bytes()
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("decoded"))
    for file in (path, data):
        first, second = (check_picture(file, "it", max_bytes=len(data), max_pixels=240)() for _ in range(2))
        assert first is not second and first.size == second.size == (20, 12)
        with pytest.raises(TooManyBytes, match=f"^it is larger than the {len(data) - 1} bytes that a picture may have"):
            check_picture(file, "it", max_bytes=len(data) - 1)
        with pytest.raises(ValueError, match=r"^it has 20 x 12 pixels, but a picture may have 239\. Send it smaller"):
            check_picture(file, "it", max_bytes=len(data), max_pixels=239)
    with pytest.raises(ValueError, match=r"^it is no picture that can be read\. Send PNG, JPEG, WebP, GIF or BMP"):
        check_picture(data[:20], "it", max_bytes=len(data))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "P"])
def test_fully_transparent_pixels_are_the_region(mode):
    mask = Image.new("RGBA", (4, 2), "#00000001")
    mask.paste((255, 255, 255, 0), (0, 0, 2, 2))
    if mode == "P":  # as a GIF has it
        mask = Image.new("P", (4, 2))
        mask.paste(1, (0, 0, 2, 2))
        mask.info["transparency"] = 1
    else:
        mask = mask.convert("LA").convert(mode)
    opened = transparent_region(mask)
    assert opened() is not opened() and opened().mode == "1"
    assert np.asarray(opened()).tolist() == [[True, True, False, False]] * 2


def test_masks_that_show_no_place_to_edit():
    for mask in (Image.new("RGB", (4, 2)), Image.new("RGBA", (4, 2), "#00000001")):
        with pytest.raises(ValueError, match="`mask` must have fully transparent pixels, which say where to edit"):
            transparent_region(mask)


def test_a_bomb_of_ones_own_is_named(tmp_path, monkeypatch):
    save_picture(PICTURE, tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"`--image` must .*a.png is not: it has more pixels than Pillow opens"):
        open_picture(tmp_path / "a.png", "--image")
