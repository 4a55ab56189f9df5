"""Inputs that once gave a wrong result in silence, or an error that did not say what was wrong."""

import base64
import functools
import http.server
import io
import threading

import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor

from transformers_wallaroo import WallarooDataCollator
from transformers_wallaroo.image_grid_wallaroo import parse_aspect_ratio, split_rows
from transformers_wallaroo.image_processing_wallaroo import to_rgb

from reference import variant


def test_single_row_image_keeps_its_shape(processor, model):
    inputs = processor(text="a", task="generate", height=16, width=64, return_tensors="pt")
    output = model.generate(**inputs, task="generate", do_sample=False, return_dict_in_generate=True)
    assert output.codes[0].shape == (1, 4)
    assert model.decode_image_tokens(output.sequences)[0].shape == (3, 16, 64)


def test_oblong_image_without_row_ends_is_refused(processor):
    square = variant(processor, row_ends=False, size_indicators="none")
    with pytest.raises(ValueError, match="an image is a square, but its size would be 32 x 48"):
        square(text="a", task="generate", height=32, width=48)


@pytest.mark.parametrize("settings", [{"padding": "max_length"}, {"truncation": True}])
def test_plain_tokenizer_ignores_what_an_earlier_call_set(settings, converted):
    clean, used = (AutoProcessor.from_pretrained(converted, size_indicators="text") for _ in range(2))
    used.tokenizer("abc", max_length=300 if "padding" in settings else 30, **settings)
    arguments = {"text": "a cat", "task": "generate"}
    assert used(**arguments)["input_ids"].tolist() == clean(**arguments)["input_ids"].tolist()


def test_base64_keeps_transparency_and_16_bits():
    for picture in (Image.new("RGBA", (2, 2), (10, 20, 30, 0)), Image.fromarray(np.full((2, 2), 0x8000, np.uint16))):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        from_text = to_rgb(base64.b64encode(buffer.getvalue()).decode())
        assert from_text.getpixel((0, 0)) == to_rgb(buffer.getvalue()).getpixel((0, 0))


def test_dark_16_bit_picture_stays_dark():
    assert to_rgb(Image.fromarray(np.full((2, 2), 255, np.uint16))).getpixel((0, 0)) == (0, 0, 0)


def test_chat_parts_without_a_type_are_not_dropped(processor):
    messages = [{"role": "user", "content": [{"text": "a red kangaroo"}]}]
    inputs = processor.apply_chat_template(messages, task="generate")
    assert "a red kangaroo" in processor.tokenizer.decode(inputs["input_ids"][0])


@pytest.mark.parametrize("part", [{"type": "video", "path": "x.mp4"}, {"type": "audio", "audio": "x.wav"}])
def test_chat_parts_that_have_no_place_are_refused(processor, part):
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "a cat"}]}]
    with pytest.raises(ValueError, match="`conversation` has a part that is neither text nor an image"):
        processor.apply_chat_template(messages, task="generate")


def test_chat_pictures_in_the_form_of_other_servers(processor, picture):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    expected = processor(text="a cat", images=picture, task="edit")
    for part in ({"type": "image_url", "image_url": {"url": url}}, {"image_url": url}, {"image": picture}):
        messages = [{"role": "user", "content": [part, {"type": "text", "text": "a cat"}]}]
        found = processor.apply_chat_template(messages, task="edit")
        assert np.array_equal(found["source_pixel_values"], expected["source_pixel_values"])


def test_videos_of_a_sample_are_not_ignored(processor):
    messages = [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "A cat."}]
    with pytest.raises((ValueError, ImportError), match="video"):
        WallarooDataCollator(processor)([{"task": "understand", "messages": messages, "videos": ["x.mp4"]}])


@pytest.mark.parametrize("ids", [[], [542, 10, 543]])
def test_split_rows_of_text_says_what_is_wrong(ids):
    with pytest.raises(ValueError, match="`sequences` must hold whole images"):
        split_rows(ids, 640, 256, 546)


@pytest.mark.parametrize("task", ["understand", "generate"])
def test_text_that_is_no_string(processor, task):
    with pytest.raises(ValueError, match="`text` must be"):
        processor(text=5, task=task)


def test_chat_image_without_its_picture(processor):
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "x"}]}]
    with pytest.raises(ValueError, match="image"):
        processor.apply_chat_template(messages, task="edit")


@pytest.mark.parametrize("messages", [[], [{"content": "a"}], [{"role": "user", "content": None}]])
def test_chat_that_is_none(processor, messages):
    with pytest.raises(ValueError, match=r"`conversation` (must be one user message|has no text)"):
        processor.apply_chat_template(messages, task="generate")


@pytest.mark.parametrize("task", ["understand", "edit"])
def test_picture_too_long_and_thin_names_the_argument(processor, task):
    with pytest.raises(ValueError, match="`images`"):
        processor(text="a", images=Image.new("RGB", (402, 2)), task=task)


@pytest.mark.parametrize("task", ["understand", "edit"])
def test_picture_without_pixels(processor, task):
    for picture in (Image.new("RGB", (0, 5)), Image.new("RGB", (5, 0)), np.zeros((0, 5, 3), np.uint8)):
        with pytest.raises(ValueError, match="`images`"):
            processor(text="a", images=picture, task=task)


def test_decompression_bomb(picture, monkeypatch):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="`images`"):
        to_rgb(buffer.getvalue())


def test_corrupt_dds_names_the_argument(picture):
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "DDS")
    with pytest.raises(ValueError, match="`images`"):
        to_rgb(buffer.getvalue()[:5000])


def test_premultiplied_grey_is_laid_on_white():
    assert to_rgb(Image.new("La", (2, 2))).getpixel((0, 0)) == (255, 255, 255)


def test_sample_whose_prompt_is_no_string(processor, picture):
    with pytest.raises(ValueError, match="must be a string"):
        WallarooDataCollator(processor)([{"task": "generate", "prompt": 5, "image": picture}])


@pytest.mark.parametrize("messages", ["hello", ["hello"], [{"role": "user", "content": 5}]])
def test_messages_that_are_none(processor, messages):
    with pytest.raises(ValueError, match="Sample 0"):
        WallarooDataCollator(processor)([{"task": "understand", "messages": messages}])


@pytest.mark.parametrize(
    "changes",
    [{"task": "draw"}, {"height": 20}, {"template": "none"}, {"prompt": "<|im_end|>"}, {"height": 1600, "width": 1600}],
)
def test_errors_of_image_samples_name_the_sample(processor, picture, changes):
    sample = {"task": "generate", "prompt": "a", "image": picture, "height": 32, "width": 48, **changes}
    with pytest.raises(ValueError, match=r"[Ss]ample 0|samples\[0\]"):
        WallarooDataCollator(processor)([sample])


@pytest.mark.parametrize("aspect_ratio", ["-16:-9", "16:", True])
def test_aspect_ratios_that_are_none(aspect_ratio):
    with pytest.raises(ValueError, match="`aspect_ratio`"):
        parse_aspect_ratio(aspect_ratio)


def test_text_settings_in_their_own_dict(processor):
    inputs = processor(text=["a", "b c d"], text_kwargs={"padding": "max_length", "max_length": 100})
    assert len(inputs["input_ids"][0]) == 100


def test_templates_without_a_language(processor):
    english = variant(processor, templates={"generate": {"en": ["draw {prompt}"]}})
    inputs = english(text="猫", task="generate")
    assert "draw 猫" in processor.tokenizer.decode(inputs["input_ids"][0])
    assert english.templates["edit"] == processor.templates["edit"]
    with pytest.raises(ValueError, match="`templates` has none for the task 'edit'"):
        variant(processor, templates={"edit": {"en": []}})


def test_tasks_that_are_no_strings(processor):
    with pytest.raises(ValueError, match="`task` must be one of"):
        processor(text="a", task={"edit"})
    with pytest.raises(ValueError, match=r"`task` must be one of .*, but got 3"):
        processor(text=["a", "b"], task=["generate", 3])


def test_error_names_the_whole_path(tmp_path):
    path = tmp_path / ("a_long_folder_name_" * 5) / "missing.png"
    with pytest.raises(ValueError, match=r"`images` holds '[^']*missing\.png', which is no readable picture"):
        to_rgb(path)


@pytest.fixture
def server(tmp_path):
    """Address of a folder with a transparent picture, served on this machine."""
    Image.new("RGBA", (3, 2), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_args):
        pass


def test_a_picture_from_a_url(server):
    assert to_rgb(f"{server}/clear.png").getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(ValueError, match=r"`images` holds 'http://127.*absent\.png', .*404"):
        to_rgb(f"{server}/absent.png")
