"""Pictures in and out: every kind of picture a user may have, the sizes, and the fixtures' `preprocess` case."""

import base64
import io
import logging
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps

from transformers_wallaroo import WallarooImageProcessor
from transformers_wallaroo.image_grid_wallaroo import BUCKETS_512, center_crop_box, cover_size
from transformers_wallaroo.image_processing_wallaroo import logger, to_mask, to_rgb

from reference import assert_close, case, images

# What each EXIF orientation asks a viewer to do to the stored rows and columns.
ORIENTATIONS = {
    1: lambda pixels: pixels,
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels, 1),
}


def random_pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def pixels_of(image):
    assert image.mode == "RGB"
    return np.asarray(image)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def small():
    """A picture of 5 x 3 pixels (width x height), all different."""
    return Image.fromarray(random_pixels(3, 5, 3))


@pytest.fixture
def image_processor():
    return WallarooImageProcessor()


@pytest.fixture
def warnings_seen(caplog):
    """The warnings of the image processor, with none remembered from an earlier test."""
    type(logger).warning_once.cache_clear()
    caplog.set_level(logging.WARNING, logger=logger.name)
    return lambda: [record.getMessage() for record in caplog.records if record.name == logger.name]


# ---------------------------------------------------------------------- kinds of pictures


def test_to_rgb_keeps_rgb(small):
    assert np.array_equal(pixels_of(to_rgb(small)), np.asarray(small))


def test_to_rgb_of_greyscale_and_black_and_white():
    values = random_pixels(3, 5)
    assert np.array_equal(pixels_of(to_rgb(Image.fromarray(values))), np.stack([values] * 3, axis=-1))
    bits = Image.fromarray(values).point(lambda value: 255 * (value > 127), "1")
    assert np.array_equal(pixels_of(to_rgb(bits)), np.stack([255 * (values > 127)] * 3, axis=-1))


def test_to_rgb_of_a_palette():
    indexed = Image.new("P", (2, 1))
    indexed.putpalette([10, 20, 30, 40, 50, 60])
    indexed.putpixel((1, 0), 1)
    assert pixels_of(to_rgb(indexed)).tolist() == [[[10, 20, 30], [40, 50, 60]]]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_to_rgb_of_a_palette_with_a_transparent_entry(kind):
    indexed = Image.new("P", (2, 1))
    indexed.putpalette([10, 20, 30, 40, 50, 60])
    indexed.putpixel((1, 0), 1)
    data = encoded(indexed, kind, transparency=0)
    assert "transparency" in Image.open(io.BytesIO(data)).info
    assert pixels_of(to_rgb(data)).tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_to_rgb_of_a_palette_with_an_alpha_for_each_entry():
    indexed = Image.new("P", (2, 1))
    indexed.putpalette([0, 0, 0, 40, 50, 60])
    indexed.putpixel((1, 0), 1)
    assert pixels_of(to_rgb(encoded(indexed, transparency=bytes([0, 255])))).tolist() == [[[255] * 3, [40, 50, 60]]]


@pytest.mark.parametrize(("mode", "colour", "seen"), [("L", 7, 7), ("RGB", (7, 8, 9), (7, 8, 9))])
def test_to_rgb_of_a_transparent_colour(mode, colour, seen):
    picture = Image.new(mode, (2, 1), colour)
    picture.putpixel((1, 0), 200 if mode == "L" else (200, 200, 200))
    assert pixels_of(to_rgb(encoded(picture, transparency=seen))).tolist() == [[[255] * 3, [200] * 3]]


@pytest.mark.parametrize(
    ("mode", "colour", "seen"),
    [
        ("RGBA", (10, 20, 30, 0), [255, 255, 255]),
        ("RGBA", (10, 20, 30, 255), [10, 20, 30]),
        ("RGBA", (0, 0, 0, 51), [204, 204, 204]),
        ("LA", (10, 0), [255, 255, 255]),
        ("LA", (10, 255), [10, 10, 10]),
        ("LA", (0, 51), [204, 204, 204]),
    ],
)
def test_to_rgb_lays_transparency_on_white(mode, colour, seen):
    assert pixels_of(to_rgb(Image.new(mode, (2, 2), colour)))[1, 1].tolist() == seen
    assert pixels_of(to_rgb(encoded(Image.new(mode, (2, 2), colour))))[1, 1].tolist() == seen


@pytest.mark.parametrize(
    ("mode", "colour", "seen"),
    [
        ("CMYK", (0, 255, 255, 0), [255, 0, 0]),
        ("CMYK", (0, 0, 0, 255), [0, 0, 0]),
        ("YCbCr", (128, 128, 128), [128, 128, 128]),
        ("HSV", (0, 255, 255), [255, 0, 0]),
        ("RGBX", (10, 20, 30, 0), [10, 20, 30]),
    ],
)
def test_to_rgb_of_other_colour_spaces(mode, colour, seen):
    assert pixels_of(to_rgb(Image.new(mode, (2, 2), colour)))[0, 1].tolist() == seen


def test_to_rgb_of_a_cmyk_jpeg_file():
    data = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert np.abs(pixels_of(to_rgb(data)).astype(int) - [255, 0, 0]).max() <= 3


def test_to_rgb_of_16_bit_greyscale_keeps_the_high_byte():
    values = np.array([[0, 256, 0x7FFF], [0x8000, 0xFF00, 0xFFFF]], dtype=np.uint16)
    seen = np.stack([values >> 8] * 3, axis=-1)
    picture = Image.fromarray(values)
    assert picture.mode == "I;16"
    for given in (picture, encoded(picture), Image.fromarray(values.astype(np.int32))):
        assert np.array_equal(pixels_of(to_rgb(given)), seen)
    wide = Image.frombytes("I;16B", (3, 2), values.astype(">u2").tobytes())
    assert np.array_equal(pixels_of(to_rgb(wide)), seen)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_to_rgb_turns_a_picture_upright(small, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(small, exif=exif)
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == orientation
    upright = ORIENTATIONS[orientation](np.asarray(small))
    (tmp_path / "turned.png").write_bytes(data)
    for given in (data, Image.open(io.BytesIO(data)), tmp_path / "turned.png"):
        assert np.array_equal(pixels_of(to_rgb(given)), upright)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_to_rgb_turns_a_jpeg_as_pillow_does(picture, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture.convert("RGB"), "JPEG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert upright.size == ((150, 100) if orientation < 5 else (100, 150))
    assert np.array_equal(pixels_of(to_rgb(data)), np.asarray(upright))


def test_to_rgb_turns_once_only(small):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = to_rgb(encoded(small, exif=exif))
    assert np.array_equal(pixels_of(to_rgb(upright)), pixels_of(upright))


def test_to_rgb_does_not_change_what_it_is_given():
    given = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    to_rgb(given)
    assert given.mode == "RGBA"
    assert given.getpixel((0, 0)) == (10, 20, 30, 0)


# ---------------------------------------------------------------------- ways to hand one over


def test_to_rgb_of_files_bytes_and_base64(small, tmp_path):
    data = encoded(small)
    path = tmp_path / "a picture.png"
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    for given in (path, str(path), data, bytearray(data), text, f"data:image/png;base64,{text}"):
        assert np.array_equal(pixels_of(to_rgb(given)), np.asarray(small))


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_to_rgb_of_other_file_formats(small, kind):
    data = encoded(small, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(pixels_of(to_rgb(data)), np.asarray(small))


def test_to_rgb_of_arrays():
    values = random_pixels(6, 8, 3)
    for array in (values, values.transpose(2, 0, 1), np.asfortranarray(values), values / 255, values / np.float32(255)):
        assert np.array_equal(pixels_of(to_rgb(array)), values)


def test_to_rgb_of_grey_arrays():
    values = random_pixels(6, 8)
    seen = np.stack([values] * 3, axis=-1)
    for array in (values, values[..., None], values[None], values / 255, values[None] / 255):
        assert np.array_equal(pixels_of(to_rgb(array)), seen)


def test_to_rgb_of_arrays_with_alpha():
    values = np.concatenate([random_pixels(6, 8, 3), np.zeros((6, 8, 1), dtype=np.uint8)], axis=-1)
    values[0, :, 3] = 255
    seen = np.where(values[..., 3:] == 255, values[..., :3], 255)
    for array in (values, values.transpose(2, 0, 1), values / 255):
        assert np.array_equal(pixels_of(to_rgb(array)), seen)


def test_to_rgb_of_tensors():
    values = random_pixels(6, 8, 3)
    tensor = torch.from_numpy(values)
    floats = (tensor / 255).requires_grad_()
    for given in (tensor, tensor.permute(2, 0, 1), floats, floats.double(), floats.permute(2, 0, 1)):
        assert np.array_equal(pixels_of(to_rgb(given)), values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_to_rgb_of_half_precision_tensors(dtype):
    values = torch.tensor([[0.0, 0.25], [0.5, 1.0]], dtype=dtype)
    assert pixels_of(to_rgb(values))[..., 0].tolist() == [[0, 64], [128, 255]]


# ---------------------------------------------------------------------- what is no picture


@pytest.mark.parametrize("name", ["images", "samples[3]['image']"])
@pytest.mark.parametrize(
    "broken",
    [
        Image.new("F", (2, 2)),
        np.full((4, 4, 3), 255.0),
        np.full((4, 4, 3), -0.1),
        np.full((4, 4, 3), np.nan),
        np.zeros((4, 4, 3), dtype=np.int64),
        np.zeros((4, 4, 3), dtype=np.uint16),
        np.zeros((4, 4, 3), dtype=bool),
        np.zeros(4, dtype=np.uint8),
        np.zeros((6, 4, 2), dtype=np.uint8),
        np.zeros((5, 6, 7), dtype=np.uint8),
        np.zeros((2, 4, 4, 3), dtype=np.uint8),
        torch.full((3, 4, 4), 2.0),
        torch.zeros(2, 3, 4, 4),
        torch.zeros(3, 4, 4, dtype=torch.long),
        None,
        5,
        {"bytes": b""},
        io.BytesIO(b""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_to_rgb_refuses_what_is_no_picture_by_name(broken, name):
    with pytest.raises(ValueError) as error:
        to_rgb(broken, name)
    assert str(error.value).startswith(f"`{name}` holds a")


def test_to_rgb_says_why_it_refuses():
    with pytest.raises(ValueError, match=r"a picture of mode 'F'.*Convert it to 'RGB'"):
        to_rgb(Image.new("F", (2, 2)))
    with pytest.raises(ValueError, match=r"an array of shape \(5, 6, 7\) and dtype uint8, but expected uint8"):
        to_rgb(np.zeros((5, 6, 7), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"shape \(3, 4, 4\) and dtype float32.*floats in \[0, 1\]"):
        to_rgb(torch.full((3, 4, 4), 2.0))
    with pytest.raises(ValueError, match="a dict, but expected a PIL image, a path, a URL, base64, bytes or an array"):
        to_rgb({})


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_to_rgb_refuses_a_truncated_file(picture, kind, tmp_path):
    data = encoded(picture.convert("RGB"), kind)
    path = tmp_path / "truncated"
    path.write_bytes(data[: len(data) // 2])
    for given in (path, str(path), data[: len(data) // 2]):
        with pytest.raises(ValueError, match=r"`source` holds .*(truncated or corrupt|no readable picture)"):
            to_rgb(given, "source")


def test_to_rgb_refuses_a_corrupt_picture_opened_by_the_user(picture):
    data = encoded(picture)
    opened = Image.open(io.BytesIO(data[: len(data) // 2]))
    with pytest.raises(ValueError, match="`source` holds a picture that cannot be decoded, it is truncated or corrupt"):
        to_rgb(opened, "source")


def test_to_rgb_refuses_files_that_are_no_pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("not a picture")
    Path("empty.png").touch()
    Path("folder").mkdir()
    paths = [Path(name) for name in ("notes.txt", "empty.png", "folder", "missing.png")]
    for given in (*paths, *map(str, paths), b"", b"not a picture", "not base64!"):
        with pytest.raises(ValueError, match=r"`source` holds .* which is no readable picture: expected") as error:
            to_rgb(given, "source")
        assert repr(given if isinstance(given, bytes) else str(given)) in str(error.value)


def test_to_rgb_shortens_what_it_quotes():
    with pytest.raises(ValueError) as error:
        to_rgb(b"x" * 5000)
    assert len(str(error.value)) < 400


# ---------------------------------------------------------------------- sizes


@pytest.mark.parametrize("bad", [0, -16, 15, 24, 512.0, "512", True, (512,), float("nan")])
def test_check_size_refuses_a_bad_side(image_processor, bad):
    with pytest.raises(ValueError, match="`height` must be a positive multiple of 16 pixels, but got") as error:
        image_processor.check_size(bad, 512)
    assert repr(bad) in str(error.value)
    assert "512x512" in str(error.value)
    assert "`aspect_ratio=" in str(error.value)
    with pytest.raises(ValueError, match="`width` must be a positive multiple of 16 pixels, but got"):
        image_processor.check_size(512, bad)


def test_check_size_says_nothing_of_a_bucket(image_processor, warnings_seen):
    for _, height, width in BUCKETS_512:
        assert image_processor.check_size(height, width) == (height, width)
    assert warnings_seen() == []


def test_check_size_warns_once_of_a_size_that_is_no_bucket(image_processor, warnings_seen):
    for _ in range(3):
        assert image_processor.check_size(48, 720) == (48, 720)
    [message] = warnings_seen()
    assert message.startswith("48 x 720 (height x width) is none of the sizes")
    assert "352x704" in message


def test_check_size_takes_numpy_integers(image_processor):
    size = image_processor.check_size(np.int64(512), np.int32(512))
    assert size == (512, 512)
    assert all(type(side) is int for side in size)


def test_check_size_follows_the_downsample_factor():
    fine = WallarooImageProcessor(downsample_factor=8, buckets=[(1.0, 24, 24)])
    assert fine.check_size(24, 24) == (24, 24)
    with pytest.raises(ValueError, match=r"a positive multiple of 8 pixels, but got 20.*the usual sizes are 24x24"):
        fine.check_size(20, 24)


# ---------------------------------------------------------------------- the streams


def test_fit_covers_and_crops_as_pillow_does(image_processor):
    picture = Image.fromarray(random_pixels(50, 90, 3))
    resized = picture.resize((86, 48), Image.Resampling.BICUBIC)
    expected = resized.crop((19, 0, 67, 48))
    assert np.array_equal(pixels_of(image_processor.fit(picture, 48, 48)), np.asarray(expected))


def test_fit_leaves_a_picture_of_the_size_alone(image_processor):
    picture = Image.fromarray(random_pixels(32, 48, 3))
    assert np.array_equal(pixels_of(image_processor.fit(picture, 32, 48)), np.asarray(picture))


@pytest.mark.parametrize("size", [(1, 1), (1, 60), (60, 1), (31, 47), (2000, 15)])
def test_fit_gives_the_size_whatever_the_shape(image_processor, size):
    assert image_processor.fit(Image.new("RGB", size), 32, 48).size == (48, 32)


def test_vision_grid_is_what_the_vision_tower_gets(image_processor):
    for height, width in [(1, 1), (100, 150), (28, 28), (1000, 30), (30, 1000), (777, 555), (2, 300)]:
        seen = image_processor(Image.new("RGB", (width, height)), return_tensors="np")
        assert tuple(seen["image_grid_thw"][0]) == image_processor.vision_grid(height, width)


def test_preprocess_cells_scales_to_plus_minus_one(image_processor):
    values = random_pixels(16, 16, 3)
    pixels, grid = image_processor.preprocess_cells([Image.fromarray(values)], [(16, 16)])
    assert pixels.dtype == np.float32
    assert grid.dtype == np.int64
    assert grid.tolist() == [[1, 1]]
    np.testing.assert_allclose(pixels[0], (values / 255 * 2 - 1).transpose(2, 0, 1), atol=1e-6)


def test_preprocess_cells_pads_mixed_sizes_at_the_right_and_bottom(image_processor):
    pictures = [Image.fromarray(255 - random_pixels(*shape, 3) // 2) for shape in ((40, 70), (33, 64), (70, 20))]
    sizes = [(32, 48), (16, 64), (64, 16)]
    pixels, grid = image_processor.preprocess_cells(pictures, sizes)
    assert pixels.shape == (3, 3, 64, 64)
    assert grid.tolist() == [[2, 3], [1, 4], [4, 1]]
    for row, picture, (height, width) in zip(pixels, pictures, sizes, strict=True):
        [alone], _ = image_processor.preprocess_cells([picture], [(height, width)])
        assert alone.shape == (3, height, width)
        assert np.array_equal(row[:, :height, :width], alone)
        assert alone.min() > -0.1
        assert not row[:, height:].any()
        assert not row[:, :, width:].any()


def test_preprocess_cells_names_the_argument(image_processor):
    with pytest.raises(ValueError, match=r"`target` holds a int"):
        image_processor.preprocess_cells([5], [(16, 16)], "target")


def test_postprocess_scales_clamps_and_truncates(image_processor):
    values = torch.tensor([-3.0, -1.0, -0.999, -0.5, 0.0, 0.0039, 0.004, 0.5, 0.99, 1.0, 3.0])
    [picture] = image_processor.postprocess(values.expand(1, 3, 2, -1))
    assert picture.size == (11, 2)
    seen = pixels_of(picture)
    assert (seen == seen[:1, :, :1]).all()
    assert seen[0, :, 0].tolist() == [0, 0, 0, 64, 128, 128, 128, 191, 254, 255, 255]


def test_postprocess_inverts_preprocess_cells(image_processor):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels, _ = image_processor.preprocess_cells([values], [(16, 16)])
    [picture] = image_processor.postprocess(torch.from_numpy(pixels))
    # 127.5 * x + 128 is half a level above the value, so that truncating gives it back.
    assert np.array_equal(pixels_of(picture)[..., 0], values)


def test_postprocess_takes_mixed_sizes_and_types(image_processor):
    pixels = [torch.zeros(3, 32, 48), torch.ones(3, 16, 16, dtype=torch.bfloat16, requires_grad=True)]
    pictures = image_processor.postprocess(pixels)
    assert [picture.size for picture in pictures] == [(48, 32), (16, 16)]
    assert pictures[0].getpixel((0, 0)) == (128, 128, 128)
    assert pictures[1].getpixel((0, 0)) == (255, 255, 255)


# ---------------------------------------------------------------------- saving


def test_image_processor_keeps_its_settings_when_saved(tmp_path):
    buckets = [[0.5, 48, 96], [1.0, 80, 80]]
    saved = WallarooImageProcessor(
        buckets=buckets, downsample_factor=8, size={"shortest_edge": 3136, "longest_edge": 50176}
    )
    saved.save_pretrained(tmp_path)
    loaded = WallarooImageProcessor.from_pretrained(tmp_path)
    assert loaded.buckets == buckets
    assert loaded.downsample_factor == 8
    assert dict(loaded.size) == dict(saved.size)
    assert (
        loaded.vision_grid(1000, 700) == saved.vision_grid(1000, 700) != WallarooImageProcessor().vision_grid(1000, 700)
    )
    assert loaded.to_dict() == saved.to_dict()


def test_image_processor_defaults_are_the_released_ones(image_processor, processor):
    for made in (image_processor, processor.image_processor):
        assert [tuple(bucket) for bucket in made.buckets] == list(BUCKETS_512)
        assert made.downsample_factor == 16
        assert (made.size["shortest_edge"], made.size["longest_edge"]) == (12544, 188160)


# ---------------------------------------------------------------------- the fixtures' case `preprocess`


def test_preprocess_case_size_pick(image_processor):
    expected, _ = case("preprocess")
    assert len(expected["size_pick"]) == 24
    for row in expected["size_pick"]:
        height, width = row["height"], row["width"]
        bucket = image_processor.bucket_of(height, width)
        assert list(bucket) == row["size_hw"]
        assert next(key for key, *size in BUCKETS_512 if tuple(size) == bucket) == float(row["ratio_key"])
        covered = cover_size(height, width, *bucket)
        assert list(covered) == row["resize_hw"]
        assert center_crop_box(*covered, *bucket)[:2] == (row["crop_left"], row["crop_top"])


def test_preprocess_case_smart_resize(image_processor):
    expected, _ = case("preprocess")
    assert len(expected["smart_resize"]) == 24
    for row in expected["smart_resize"]:
        _, grid_height, grid_width = image_processor.vision_grid(row["height"], row["width"])
        assert [14 * grid_height, 14 * grid_width] == row["resized_hw"]


def test_preprocess_case_pictures(image_processor):
    expected, tensors = case("preprocess")
    table = [(float(key), *size) for key, size in expected["aspect_table"].items()]
    small_table = WallarooImageProcessor(buckets=table)
    for index, sample in enumerate(expected["samples"]):
        picture = images(sample["image"])
        assert picture.size == (sample["width"], sample["height"])
        size = small_table.bucket_of(picture.height, picture.width)
        assert list(size) == sample["closest_size_hw"]
        assert list(cover_size(picture.height, picture.width, *size)) == sample["resize_hw"]
        assert np.array_equal(
            pixels_of(small_table.fit(to_rgb(picture), *size)), np.asarray(images(sample["vq_image"]).convert("RGB"))
        )
        pixels, _ = small_table.preprocess_cells([picture], [size])
        assert_close(torch.from_numpy(pixels[0]), tensors[f"vq_pixels_{index}"], 1e-6)  # worst seen: 0
        # The vision tower's resize: what the resized picture gives when it is not resized again.
        resized = images(sample["vit_image"])
        assert [resized.height, resized.width] == sample["vit_resize_hw"]
        seen = image_processor(to_rgb(picture), return_tensors="pt")
        wanted = image_processor(to_rgb(resized), do_resize=False, return_tensors="pt")
        assert torch.equal(seen["image_grid_thw"], wanted["image_grid_thw"])
        assert_close(seen["pixel_values"], wanted["pixel_values"], 1e-6)  # worst seen: 0


# ---------------------------------------------------------------------- regions


def touched(mask, source_size, size, stretch, factor=16):
    """The cells that white pixels touch, one by one and in exact fractions."""
    resized = cover_size(*source_size, *size) if mask.shape == source_size and not stretch else size
    left, top, _, _ = center_crop_box(*resized, *size)
    cells = np.zeros((size[0] // factor, size[1] // factor), dtype=bool)
    for row, column in zip(*mask.nonzero(), strict=True):
        places = []
        for place, length, into, start, count in (
            (int(row), mask.shape[0], resized[0], top, cells.shape[0]),
            (int(column), mask.shape[1], resized[1], left, cells.shape[1]),
        ):
            low, high = (Fraction(edge * into, length) - start for edge in (place, place + 1))
            places.append([cell for cell in range(count) if low < (cell + 1) * factor and high > cell * factor])
        cells[np.ix_(*places)] = True
    return cells


@pytest.mark.parametrize("seed", range(12))
def test_mask_cells_are_those_that_white_pixels_touch(image_processor, seed):
    """Of sources of any size, cropped and stretched, and of masks of the source's size and of the image's."""
    random = np.random.default_rng(seed)
    source_size = tuple(int(side) for side in random.integers(5, 150, 2))
    size = tuple(int(side) for side in random.integers(1, 6, 2) * 16)
    for stretch in (True, False):
        for shape in (source_size, size):
            mask = random.random(shape) < 0.01
            expected = touched(mask, source_size, size, stretch)
            if expected.any() or not mask.any():
                found = image_processor.mask_cells(mask, source_size, size, stretch)
                assert found.tolist() == expected.tolist()
            else:
                with pytest.raises(ValueError, match=r"is white only where its source is cropped.*original_size=True"):
                    image_processor.mask_cells(mask, source_size, size, stretch)


def test_one_white_pixel_is_one_cell(image_processor):
    for row, column in ((0, 0), (15, 16), (31, 47)):
        mask = np.zeros((32, 48), dtype=bool)
        mask[row, column] = True
        cells = image_processor.mask_cells(mask, (32, 48), (32, 48))
        assert cells.sum() == 1 and cells[row // 16, column // 16]


def test_masks_of_all_kinds(image_processor, tmp_path):
    """Bools, bytes, floats, tensors, pictures with and without transparency, files."""
    white = np.zeros((32, 32), dtype=bool)
    white[:16, 16:] = True
    alpha = np.zeros((32, 32, 4), dtype=np.uint8)
    alpha[..., 3] = np.where(white, 0, 255)
    picture = Image.fromarray(white.astype(np.uint8) * 255)
    picture.save(tmp_path / "mask.png")
    masks = [white, white.astype(np.uint8) * 255, white.astype(np.float32), torch.from_numpy(white)]
    masks += [picture, picture.convert("1"), picture.convert("RGB"), Image.fromarray(alpha), tmp_path / "mask.png"]
    for mask in masks:
        assert np.array_equal(to_mask(mask), white)
        assert image_processor.mask_cells(mask, (64, 64), (32, 32)).tolist() == [[False, True], [False, False]]
    assert not to_mask(np.zeros((4, 4))).any()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.eye(32, dtype=np.uint8), "`region_mask` has no value above 1 of 255.*instead of 0 and 1"),
        (np.zeros((0, 0), dtype=bool), r"`region_mask` holds an array of shape \(0, 0\)"),
        (np.zeros((32, 32), dtype=np.int64), "`region_mask` holds an array of shape .* and dtype int64"),
        (3, "`region_mask` holds a int"),
        (np.ones((32, 31), dtype=bool), "`region_mask` must have the size of its source, 40 x 50, .* but is 32 x 31"),
    ],
)
def test_bad_masks(image_processor, mask, message):
    with pytest.raises(ValueError, match=message):
        image_processor.mask_cells(mask, (40, 50), (32, 32))


@pytest.mark.parametrize("of_source", [True, False])
@pytest.mark.parametrize("original", [True, False])
def test_keep_outside_leaves_the_sources_pixels(image_processor, of_source, original):
    """Pictures as made and of the source's own size, masks of either size."""
    source = Image.fromarray(random_pixels(50, 90, 3))
    shape = (50, 90) if original else (32, 48)
    picture = Image.fromarray(255 - random_pixels(*shape, 3) // 2)
    mask = np.zeros((50, 90) if of_source else (32, 48), dtype=bool)
    mask[: len(mask) // 2, : mask.shape[1] // 2] = True
    fitted = np.asarray(source if original else image_processor.fit(source, 32, 48))
    kept = np.asarray(image_processor.keep_outside(picture, source, mask))
    outside = (kept == fitted).all(axis=2)
    assert outside[shape[0] // 2 + 1 :].all() and outside[:, shape[1] // 2 + 1 :].all()
    inside = np.s_[: shape[0] // 2 - 1, : shape[1] // 2 - 1]
    assert np.array_equal(kept[inside], np.asarray(picture)[inside])
    assert not outside[inside].all()


def test_keep_outside_needs_a_mask_that_fits(image_processor):
    pictures = Image.new("RGB", (48, 32)), Image.new("RGB", (90, 50))
    with pytest.raises(
        ValueError, match="`region_mask` must have the size of `source`, 50 x 90, or of `picture`, 32 x 48"
    ):
        image_processor.keep_outside(*pictures, np.ones((5, 5), dtype=bool))


# ---------------------------------------------------------------------- the original size


@pytest.mark.parametrize("size", [(200, 300), (300, 200), (64, 1000), (641, 467)])
def test_the_original_size_keeps_all_in_place(image_processor, size):
    """Marks in the corners, at the edges and within come back where they were, to a pixel of the smaller picture."""
    height, width = size
    source = np.full((height, width, 3), 255, dtype=np.uint8)
    down, right = height // 4, width // 4
    marks = {(0, 0): (255, 0, 0), (0, 3): (0, 255, 0), (3, 0): (0, 0, 255), (3, 3): (0, 0, 0), (1, 2): (255, 0, 255)}
    for (row, column), color in marks.items():
        source[row * down if row < 3 else height - down :, column * right if column < 3 else width - right :][
            :down, :right
        ] = color
    bucket = image_processor.bucket_of(height, width)
    # Bicubic resizing, there and back, blurs two pixels of the smaller of the two on each side of an edge.
    reach = 2 + 2 * max(1, *(side // made for side, made in zip(size, bucket, strict=True)))
    picture = Image.fromarray(source)
    brightest, darkest = (
        picture.filter(each(2 * reach + 1)) for each in (ImageFilter.MaxFilter, ImageFilter.MinFilter)
    )
    plain = (np.asarray(brightest) == np.asarray(darkest)).all(axis=2)
    assert plain[0, 0] and plain[-1, -1] and plain.mean() > 0.25
    out_of_place = {}
    for stretch in (True, False):
        pixels, _ = image_processor.preprocess_cells([source], [bucket], stretch=[stretch])
        [back] = image_processor.postprocess(torch.from_numpy(pixels), sizes=[size])
        assert back.size == (width, height)
        out_of_place[stretch] = int((np.abs(np.asarray(back).astype(int) - source).max(axis=2) > 32)[plain].sum())
    assert out_of_place[True] == 0
    # Cropping loses what the test looks for, where it crops much.
    assert out_of_place[False] > 0 or size != (64, 1000)
