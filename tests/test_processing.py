"""Prompts and inputs of the three tasks, through the processor's public interface."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor
from transformers.utils import is_torchvision_available

from transformers_wallaroo import WallarooProcessor, processing_wallaroo
from transformers_wallaroo.image_grid_wallaroo import EDIT, GENERATE, TokenType
from transformers_wallaroo.processing_wallaroo import ImageRequest
from transformers_wallaroo.prompts_wallaroo import LAYOUTS, TEMPLATES

from reference import assert_same, case, variant

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
ASSISTANT = "<|im_start|>assistant\n"
PAD = "<|image_pad|>"
ROW_END = "<|end_of_line>|"
# The picture of 150 x 100 pixels is seen as 112 x 140 pixels: 8 x 10 patches, merged four to a token.
PATCHES, TOKENS = 80, 20
PREFIXES = ("", "unconditional_")


def vision(tokens=TOKENS):
    return f"<|vision_start|>{PAD * tokens}<|vision_end|>"


def ids_of(processor, text):
    return processor.tokenizer(text, add_special_tokens=False)["input_ids"]


def unpadded(inputs, row, name="input_ids", prefix=""):
    """One row's values, without its padding."""
    return inputs[f"{prefix}{name}"][row][inputs[f"{prefix}attention_mask"][row] == 1]


def turned(picture, orientation):
    """The picture as a file whose EXIF says how to turn it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", exif=exif)
    return Image.open(buffer)


def test_processor_is_the_class_of_this_package(processor):
    assert type(processor) is WallarooProcessor


# ---------------------------------------------------------------------- the three tasks


def test_understand_gives_keys_shapes_and_ids(processor, picture):
    inputs = processor(text="What is this?", images=picture, task="understand", return_tensors="pt")
    assert set(inputs) == {
        "input_ids",
        "attention_mask",
        "mm_token_type_ids",
        "pixel_values",
        "image_grid_thw",
        "task_ids",
    }
    text = f"{SYSTEM}<|im_start|>user\n{vision()}What is this?<|im_end|>\n{ASSISTANT}"
    assert inputs["input_ids"].tolist() == [ids_of(processor, text)]
    assert (inputs["attention_mask"] == 1).all()
    is_patch = inputs["input_ids"] == processor.image_token_id
    assert is_patch.sum() == TOKENS
    assert torch.equal(inputs["mm_token_type_ids"], is_patch.long() * TokenType.IMAGE)
    assert inputs["pixel_values"].shape == (PATCHES, 1176)
    assert inputs["pixel_values"].dtype == torch.float32
    assert inputs["image_grid_thw"].tolist() == [[1, 8, 10]]
    assert inputs["task_ids"].tolist() == [0]


def test_understand_is_the_default_task(processor, picture):
    assert_same(
        processor(text="Hm?", images=picture, return_tensors="pt"),
        processor(text="Hm?", images=picture, task="understand", return_tensors="pt"),
    )


def test_generate_gives_keys_shapes_and_ids(processor):
    inputs = processor(text="a red kangaroo", task="generate", height=512, width=512, return_tensors="pt")
    names = {"input_ids", "attention_mask", "mm_token_type_ids"}
    assert set(inputs) == names | {f"unconditional_{name}" for name in names} | {"task_ids", "target_grid"}
    for prefix, prompt in zip(PREFIXES, ("a red kangaroo", ""), strict=True):
        text = (
            f"{SYSTEM}<|im_start|>user\nGenerate an image with resolution 512x512 based on the prompt: "
            f'"{prompt}" <indicator:512><indicator:512><|im_end|>\n{ASSISTANT}<|generate_start|>'
        )
        assert inputs[f"{prefix}input_ids"].tolist() == [ids_of(processor, text)]
        assert (inputs[f"{prefix}attention_mask"] == 1).all()
        assert (inputs[f"{prefix}mm_token_type_ids"] == TokenType.TEXT).all()
        assert all(inputs[f"{prefix}{name}"].dtype == torch.long for name in names)
    assert inputs["target_grid"].tolist() == [[32, 32]]
    assert inputs["task_ids"].tolist() == [1]


def test_edit_gives_keys_shapes_and_ids(processor, picture):
    inputs = processor(text="make it blue", images=picture, task="edit", height=32, width=48, return_tensors="pt")
    names = {
        "input_ids",
        "attention_mask",
        "mm_token_type_ids",
        "pixel_values",
        "image_grid_thw",
        "source_pixel_values",
        "source_grid",
    }
    assert set(inputs) == names | {f"unconditional_{name}" for name in names} | {"task_ids", "target_grid"}
    for prefix, prompt in zip(PREFIXES, ("make it blue", ""), strict=True):
        source = f"<|pixel_start|>{PAD * 3}{ROW_END}{PAD * 3}<|pixel_end|>"
        text = (
            f"{SYSTEM}<|im_start|>user\n{source}{vision()}Edit the input image based on the text prompt: "
            f'"{prompt}", and generate a new image with a resolution of 48x32. <indicator:32><indicator:48><|im_end|>\n'
            f"{ASSISTANT}<|generate_start|>"
        )
        ids = ids_of(processor, text)
        assert inputs[f"{prefix}input_ids"].tolist() == [ids]
        start = ids.index(processor.tokenizer.convert_tokens_to_ids("<|pixel_start|>"))
        types = np.zeros(len(ids), dtype=int)
        types[start + 1 : start + 4] = types[start + 5 : start + 8] = TokenType.SOURCE_CELL
        types[start + 10 : start + 10 + TOKENS] = TokenType.IMAGE
        assert inputs[f"{prefix}mm_token_type_ids"].tolist() == [types.tolist()]
        assert inputs[f"{prefix}pixel_values"].shape == (PATCHES, 1176)
        assert inputs[f"{prefix}image_grid_thw"].tolist() == [[1, 8, 10]]
        assert inputs[f"{prefix}source_pixel_values"].shape == (1, 3, 32, 48)
        assert inputs[f"{prefix}source_pixel_values"].dtype == torch.float32
        assert inputs[f"{prefix}source_grid"].tolist() == [[2, 3]]
    assert inputs["target_grid"].tolist() == [[2, 3]]
    assert inputs["task_ids"].tolist() == [2]


def test_edit_shows_the_crop_to_the_vq_and_the_whole_picture_to_the_vision_tower(processor, picture):
    inputs = processor(text="x", images=picture, task="edit", height=32, width=16, return_tensors="pt")
    cropped, _ = processor.image_processor.preprocess_cells([picture], [(32, 16)])
    whole = processor.image_processor(picture.convert("RGB"), return_tensors="pt")
    assert torch.equal(inputs["source_pixel_values"], torch.from_numpy(cropped))
    assert torch.equal(inputs["pixel_values"], whole["pixel_values"])


def test_edit_unconditional_source_is_black_and_of_the_same_size(processor, other):
    inputs = processor(text="x", images=other, task="edit", height=48, width=32, return_tensors="pt")
    black = processor.image_processor(Image.new("RGB", other.size), return_tensors="pt")
    assert torch.equal(inputs["unconditional_pixel_values"], black["pixel_values"])
    assert torch.equal(inputs["unconditional_image_grid_thw"], inputs["image_grid_thw"])
    assert torch.equal(inputs["unconditional_source_grid"], inputs["source_grid"])
    assert (inputs["unconditional_source_pixel_values"] == -1).all()
    assert not (inputs["source_pixel_values"] == -1).all()


# ---------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ({}, [32, 32]),
        ({"height": 480, "width": 544}, [30, 34]),
        ({"height": 64, "width": 96}, [4, 6]),
        ({"aspect_ratio": "16:9"}, [24, 42]),
        ({"aspect_ratio": "9:16"}, [42, 24]),
        ({"aspect_ratio": "1:1"}, [32, 32]),
        ({"aspect_ratio": 2.0}, [22, 44]),
        ({"aspect_ratio": "3x2"}, [26, 38]),
    ],
)
def test_generate_sizes(processor, size, grid):
    inputs = processor(text="a cat", task="generate", return_tensors="pt", **size)
    assert inputs["target_grid"].tolist() == [grid]
    height, width = 16 * grid[0], 16 * grid[1]
    text = processor.tokenizer.decode(inputs["input_ids"][0])
    assert f"resolution {width}x{height} based" in text
    assert f" <indicator:{height}><indicator:{width}><|im_end|>" in text


def test_edit_takes_the_bucket_of_its_source(processor, picture, other):
    inputs = processor(text=["x", "y"], images=[picture, other], task="edit", return_tensors="pt")
    assert inputs["target_grid"].tolist() == [[26, 38], [44, 22]]
    assert inputs["source_grid"].tolist() == [[26, 38], [44, 22]]
    assert inputs["source_pixel_values"].shape == (2, 3, 704, 608)


def test_edit_takes_a_size_or_ratio_when_given(processor, picture):
    for size in ({"height": 512, "width": 512}, {"aspect_ratio": "1:1"}):
        inputs = processor(text="x", images=picture, task="edit", return_tensors="pt", **size)
        assert inputs["target_grid"].tolist() == inputs["source_grid"].tolist() == [[32, 32]]


def test_edit_measures_a_source_after_turning_it(processor, picture):
    for orientation in (3, 6):
        turned_picture = turned(picture.convert("RGB"), orientation)
        upright = picture.convert("RGB").rotate({3: 180, 6: -90}[orientation], expand=True)
        assert_same(
            processor(text="x", images=turned_picture, task="edit", return_tensors="pt"),
            processor(text="x", images=upright, task="edit", return_tensors="pt"),
        )
        assert_same(
            processor(text="x", images=turned_picture, return_tensors="pt"),
            processor(text="x", images=upright, return_tensors="pt"),
        )


def test_sizes_are_one_for_all_or_one_a_prompt(processor):
    prompts = ["a cat", "a dog", "a fox"]
    same = processor(text=prompts, task="generate", height=32, width=48, return_tensors="pt")
    assert same["target_grid"].tolist() == [[2, 3]] * 3
    mixed = processor(
        text=prompts, task="generate", height=[32, None, 16], width=np.array([48, None, 64]), return_tensors="pt"
    )
    assert mixed["target_grid"].tolist() == [[2, 3], [32, 32], [1, 4]]
    ratios = processor(text=prompts, task="generate", aspect_ratio=["2:1", None, 0.5], return_tensors="pt")
    assert ratios["target_grid"].tolist() == [[22, 44], [32, 32], [44, 22]]
    both = processor(
        text=prompts,
        task="generate",
        height=[32, None, None],
        width=[48, None, None],
        aspect_ratio=[None, "1:2", None],
        return_tensors="pt",
    )
    assert both["target_grid"].tolist() == [[2, 3], [44, 22], [32, 32]]


# ---------------------------------------------------------------------- templates, layouts, negative prompts


@pytest.mark.parametrize("task", ["generate", "edit"])
def test_template_follows_the_language_of_the_prompt(processor, picture, task):
    prompts = ["make the sky pink", "把天空变成粉红色"]
    sources = [picture, picture] if task == "edit" else None
    inputs = processor(text=prompts, images=sources, task=task, height=32, width=48, return_tensors="pt")
    for row, (language, prompt) in enumerate(zip(("en", "zh"), prompts, strict=True)):
        for prefix, filled in ((PREFIXES[0], prompt), (PREFIXES[1], "")):
            instruction = TEMPLATES[task][language][0].format(prompt=filled, target_w=48, target_h=32)
            text = processor.tokenizer.decode(unpadded(inputs, row, prefix=prefix))
            assert f"{instruction} <indicator:32><indicator:48><|im_end|>" in text


def test_template_of_the_call_is_used_for_every_prompt(processor):
    template = "{prompt}, {target_h} high, {target_w} wide, {prompt}"
    inputs = processor(
        text=["a cat", "一只猫"], task="generate", height=32, width=48, template=template, return_tensors="pt"
    )
    for row, prompt in enumerate(("a cat", "一只猫")):
        for prefix, filled in ((PREFIXES[0], prompt), (PREFIXES[1], "")):
            text = f"<|im_start|>user\n{filled}, 32 high, 48 wide, {filled} <indicator:32>"
            assert text in processor.tokenizer.decode(unpadded(inputs, row, prefix=prefix))


def test_prompt_with_braces_stays_as_it_is(processor):
    prompt = "a {prompt} of {target_w} {size} {source} \\1"
    inputs = processor(text=prompt, task="generate", height=32, width=48, return_tensors="pt")
    text = processor.tokenizer.decode(inputs["input_ids"][0])
    assert f'the prompt: "{prompt}" <indicator:32>' in text


@pytest.mark.parametrize("task", ["generate", "edit"])
def test_layout_of_the_call_and_of_the_processor(processor, picture, task):
    arguments = {"text": "x", "task": task, "height": 32, "width": 48, "return_tensors": "pt"}
    if task == "edit":
        arguments["images"] = picture
    training = processor(**arguments)
    evaluation = processor(**arguments, layout="evaluation")
    assert_same(processor(**arguments, layout="training"), training)
    assert_same(variant(processor, layout="evaluation")(**arguments), evaluation)
    assert_same(variant(processor, layout="evaluation")(**arguments, layout="training"), training)
    end = {
        ("generate", "training"): f'"x" <indicator:32><indicator:48><|im_end|>\n{ASSISTANT}<|generate_start|>',
        ("generate", "evaluation"): f'"x"<|im_end|>\n <indicator:32><indicator:48>{ASSISTANT}<|generate_start|>',
        ("edit", "training"): f"48x32. <indicator:32><indicator:48><|im_end|>\n{ASSISTANT}<|generate_start|>",
        ("edit", "evaluation"): "48x32. <indicator:32><indicator:48><|im_end|>\n<|generate_start|>",
    }
    for layout, inputs in (("training", training), ("evaluation", evaluation)):
        assert processor.tokenizer.decode(inputs["input_ids"][0]).endswith(end[task, layout])


def test_negative_prompt_replaces_the_empty_unconditional_prompt(processor, picture):
    for task, sources in (("generate", None), ("edit", [picture, picture])):
        arguments = {"task": task, "images": sources, "height": 32, "width": 48, "return_tensors": "pt"}
        plain = processor(text=["a cat", "a dog"], **arguments)
        one = processor(text=["a cat", "a dog"], negative_prompt="blurry", **arguments)
        each = processor(text=["a cat", "a dog"], negative_prompt=["blurry", None], **arguments)
        as_prompt = processor(text=["blurry", ""], **arguments)
        assert torch.equal(one["input_ids"], plain["input_ids"])
        assert torch.equal(each["unconditional_input_ids"], as_prompt["input_ids"])
        assert torch.equal(each["unconditional_attention_mask"], as_prompt["attention_mask"])
        assert one["unconditional_input_ids"].tolist() == [each["unconditional_input_ids"][0].tolist()] * 2
        if task == "edit":
            assert torch.equal(one["unconditional_pixel_values"], plain["unconditional_pixel_values"])


def test_negative_prompt_keeps_the_template_of_the_prompt(processor):
    inputs = processor(text="一只猫", negative_prompt="blurry", task="generate", height=32, width=48)
    text = processor.tokenizer.decode(inputs["unconditional_input_ids"][0])
    assert "生成一幅图像，分辨率为48x32，基于文本提示：“blurry”" in text


# ---------------------------------------------------------------------- batches


def test_batch_is_left_padded_and_masked(processor):
    inputs = processor(
        text=["a cat", "a very long description of a red kangaroo"], task="generate", height=32, width=48
    )
    short = len(processor(text="a cat", task="generate", height=32, width=48)["input_ids"][0])
    mask = inputs["attention_mask"]
    assert mask.shape == inputs["input_ids"].shape == inputs["mm_token_type_ids"].shape
    assert mask.sum(axis=1).tolist() == [short, mask.shape[1]]
    padding = mask.shape[1] - short
    assert padding > 0
    assert not mask[0, :padding].any()
    assert mask[0, padding:].all()
    assert (inputs["input_ids"][0, :padding] == processor.tokenizer.pad_token_id).all()
    assert not inputs["mm_token_type_ids"][0, :padding].any()


@pytest.mark.parametrize("layout", ["training", "evaluation"])
@pytest.mark.parametrize("task", ["generate", "edit"])
def test_batch_rows_are_what_each_prompt_gives_alone(processor, picture, other, task, layout):
    prompts = ["a cat", "一只红色的袋鼠在草原上", "a very long description of a red kangaroo"]
    heights, widths = [32, 48, 16], [48, 16, 64]
    sources = [picture, other, picture.rotate(90, expand=True)] if task == "edit" else [None] * 3
    batch = processor(
        text=prompts,
        images=sources if task == "edit" else None,
        task=task,
        height=heights,
        width=widths,
        layout=layout,
        negative_prompt=["", "no cats and no dogs", "blurry"],
        return_tensors="pt",
    )
    patches = dict.fromkeys(PREFIXES, 0)
    for row, (prompt, source, height, width) in enumerate(zip(prompts, sources, heights, widths, strict=True)):
        alone = processor(
            text=prompt,
            images=source,
            task=task,
            height=height,
            width=width,
            layout=layout,
            negative_prompt=["", "no cats and no dogs", "blurry"][row],
            return_tensors="pt",
        )
        assert alone.keys() == batch.keys()
        assert torch.equal(batch["target_grid"][row], alone["target_grid"][0])
        assert torch.equal(batch["task_ids"][row], alone["task_ids"][0])
        for prefix in PREFIXES:
            for name in ("input_ids", "mm_token_type_ids"):
                assert torch.equal(unpadded(batch, row, name, prefix), alone[f"{prefix}{name}"][0])
            if task == "edit":
                assert torch.equal(batch[f"{prefix}image_grid_thw"][row], alone[f"{prefix}image_grid_thw"][0])
                assert torch.equal(batch[f"{prefix}source_grid"][row], alone[f"{prefix}source_grid"][0])
                pixels = batch[f"{prefix}source_pixel_values"][row]
                assert torch.equal(pixels[:, :height, :width], alone[f"{prefix}source_pixel_values"][0])
                assert not pixels[:, height:].any()
                assert not pixels[:, :, width:].any()
                seen = alone[f"{prefix}pixel_values"]
                start = patches[prefix]
                assert torch.equal(batch[f"{prefix}pixel_values"][start : start + len(seen)], seen)
                patches[prefix] += len(seen)


def test_batch_of_questions_with_different_numbers_of_pictures(processor, picture, other):
    questions = ["What?", "Is it so?", "Compare these two pictures, please."]
    pictures = [[picture], [], [other, picture]]
    batch = processor(text=questions, images=pictures, return_tensors="pt")
    assert batch["image_grid_thw"].tolist() == [[1, 8, 10], [1, 16, 6], [1, 8, 10]]
    assert batch["task_ids"].tolist() == [0, 0, 0]
    patches = 0
    for row, (question, shown) in enumerate(zip(questions, pictures, strict=True)):
        alone = processor(text=question, images=shown or None, return_tensors="pt")
        for name in ("input_ids", "mm_token_type_ids"):
            assert torch.equal(unpadded(batch, row, name), alone[name][0])
        if shown:
            seen = alone["pixel_values"]
            assert torch.equal(batch["pixel_values"][patches : patches + len(seen)], seen)
            patches += len(seen)
        padding = batch["attention_mask"].shape[1] - alone["input_ids"].shape[1]
        assert not batch["attention_mask"][row, :padding].any()
        assert batch["attention_mask"][row, padding:].all()
    assert patches == len(batch["pixel_values"])
    with_none = processor(text=questions, images=[picture, None, (other, picture)], return_tensors="pt")
    assert_same(with_none, batch)


@pytest.mark.parametrize("task", ["understand", "generate", "edit"])
def test_return_tensors(processor, picture, task):
    arguments = {"text": ["x", "y z"], "images": [picture, picture] if task != "generate" else None, "task": task}
    if task != "understand":
        arguments.update(height=32, width=48)
    tensors = processor(**arguments, return_tensors="pt")
    arrays = processor(**arguments, return_tensors="np")
    plain = processor(**arguments)
    assert tensors.keys() == arrays.keys() == plain.keys()
    for name, tensor in tensors.items():
        assert isinstance(tensor, torch.Tensor)
        assert isinstance(arrays[name], np.ndarray)
        assert isinstance(plain[name], (np.ndarray, list))
        assert np.array_equal(arrays[name], tensor.numpy())
        assert np.array_equal(np.asarray(plain[name]), tensor.numpy())


# ---------------------------------------------------------------------- understanding


def test_understand_without_pictures(processor):
    inputs = processor(text="Hello?", return_tensors="pt")
    assert set(inputs) == {"input_ids", "attention_mask", "mm_token_type_ids", "task_ids"}
    text = f"{SYSTEM}<|im_start|>user\nHello?<|im_end|>\n{ASSISTANT}"
    assert inputs["input_ids"].tolist() == [ids_of(processor, text)]
    assert not inputs["mm_token_type_ids"].any()


def test_understand_puts_pictures_first_unless_the_text_places_them(processor, picture, other):
    first = processor(text="Compare.", images=[picture, other], return_tensors="pt")
    text = f"{SYSTEM}<|im_start|>user\n{vision()}{vision(24)}Compare.<|im_end|>\n{ASSISTANT}"
    assert first["input_ids"].tolist() == [ids_of(processor, text)]
    block = vision(1)
    placed = processor(text=f"A{block}B{block}C", images=[picture, other], return_tensors="pt")
    text = f"{SYSTEM}<|im_start|>user\nA{vision()}B{vision(24)}C<|im_end|>\n{ASSISTANT}"
    assert placed["input_ids"].tolist() == [ids_of(processor, text)]
    assert torch.equal(placed["pixel_values"], first["pixel_values"])


def test_understand_passes_settings_on(processor, picture):
    small = processor(text="x", images=picture, size={"shortest_edge": 784, "longest_edge": 6272}, return_tensors="pt")
    assert small["image_grid_thw"].tolist() == [[1, 4, 6]]
    assert (small["input_ids"] == processor.image_token_id).sum() == 6
    right = processor(text=["x", "x and more"], padding_side="right", return_tensors="pt")
    assert right["attention_mask"][0, 0] == 1
    assert right["attention_mask"][0, -1] == 0


def conversation(picture, other):
    return [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "image", "image": picture},
                {"type": "text", "text": "What is it?"},
                {"type": "image", "image": other},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "Two pictures."}]},
        {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "And now?"}]},
    ]


CONVERSATION = (
    f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{vision()}What is it?{vision(24)}<|im_end|>\n"
    f"{ASSISTANT}Two pictures.<|im_end|>\n<|im_start|>user\n{vision()}And now?<|im_end|>\n{ASSISTANT}"
)
CHAT_FLAGS = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
CHAT = {**CHAT_FLAGS, "return_tensors": "pt"}


def test_chat_of_several_turns_and_pictures(processor, picture, other):
    inputs = processor.apply_chat_template(conversation(picture, other), **CHAT)
    assert inputs["input_ids"].tolist() == [ids_of(processor, CONVERSATION)]
    assert inputs["image_grid_thw"].tolist() == [[1, 8, 10], [1, 16, 6], [1, 8, 10]]
    assert inputs["task_ids"].tolist() == [0]
    named = processor.apply_chat_template(conversation(picture, other), task="understand", **CHAT)
    assert_same(named, inputs)


def test_chat_rendered_first_gives_the_same(processor, picture, other):
    messages = conversation(picture, other)
    rendered = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert rendered == re.sub(rf"(?:{re.escape(PAD)})+", PAD, CONVERSATION)
    shown = [picture, other, picture]
    expected = processor.apply_chat_template(messages, **CHAT)
    for pictures in (shown, [shown]):
        assert_same(processor(text=rendered, images=pictures, return_tensors="pt"), expected)
    assert_same(processor(text=[rendered], images=shown, return_tensors="pt"), expected)


def test_chat_batches_share_out_a_flat_list_of_pictures(processor, picture, other):
    messages = [conversation(picture, other), [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]]
    messages.append([{"role": "user", "content": [{"type": "image", "image": other}]}])
    batch = processor.apply_chat_template(messages, **CHAT)
    for row, single in enumerate(messages):
        alone = processor.apply_chat_template(single, **CHAT)
        assert torch.equal(unpadded(batch, row), alone["input_ids"][0])
    rendered = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    for pictures in ([picture, other, picture, other], [[picture, other, picture], [], [other]]):
        assert_same(processor(text=rendered, images=pictures, return_tensors="pt"), batch)


# ---------------------------------------------------------------------- chat messages for images to be made


def message(*parts):
    content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image", **part} for part in parts]
    return [{"role": "user", "content": content}]


def test_chat_template_generates(processor):
    size = {"height": 32, "width": 48, "return_tensors": "pt"}
    expected = processor(text="a red kangaroo", task="generate", **size)
    for messages in (
        [{"role": "user", "content": "a red kangaroo"}],
        [{"role": "system", "content": "ignored"}, {"role": "user", "content": "a red kangaroo"}],
        message("a red kangaroo"),
        message("a red", "kangaroo"),
    ):
        assert_same(processor.apply_chat_template(messages, task="generate", **size), expected)
        assert_same(processor.apply_chat_template(messages, task="generate", **size, **CHAT_FLAGS), expected)
        inner = {"task": "generate", "height": 32, "width": 48}
        assert_same(
            processor.apply_chat_template(messages, processor_kwargs=inner, return_tensors="pt", **CHAT_FLAGS), expected
        )


def test_chat_template_edits(processor, picture, tmp_path):
    path = tmp_path / "source.png"
    picture.save(path)
    expected = processor(text="make it blue", images=picture, task="edit", return_tensors="pt")
    for source in ({"image": picture}, {"image": str(path)}, {"path": str(path)}, {"url": str(path)}):
        for parts in ((source, "make it blue"), ("make it blue", source)):
            inputs = processor.apply_chat_template(message(*parts), task="edit", return_tensors="pt")
            assert_same(inputs, expected)


def test_chat_template_takes_batches(processor, picture, other):
    size = {"height": [32, 48], "width": [48, 16], "return_tensors": "pt"}
    edits = [message({"image": picture}, "make it blue"), message({"image": other}, "变成红色")]
    assert_same(
        processor.apply_chat_template(edits, task="edit", negative_prompt="bad", **size),
        processor(
            text=["make it blue", "变成红色"], images=[picture, other], task="edit", negative_prompt="bad", **size
        ),
    )
    drawings = [message("a cat"), message("一只猫")]
    assert_same(
        processor.apply_chat_template(drawings, task="generate", layout="evaluation", **size),
        processor(text=["a cat", "一只猫"], task="generate", layout="evaluation", **size),
    )


def test_chat_template_refuses_other_conversations(processor, picture):
    turns = [*message("a cat"), {"role": "assistant", "content": "here"}, *message("a dog")]
    for messages, roles in (
        (turns, r"\['user', 'assistant', 'user'\]"),
        ([{"role": "assistant", "content": "a cat"}], r"\['assistant'\]"),
        ([{"role": "system", "content": "a cat"}], r"\['system'\]"),
    ):
        with pytest.raises(ValueError, match=rf"`conversation` must be one user message.*'generate'.*roles {roles}"):
            processor.apply_chat_template(messages, task="generate")
    with pytest.raises(ValueError, match="`tokenize` must be True for the task 'generate'"):
        processor.apply_chat_template(message("a cat"), task="generate", tokenize=False)
    with pytest.raises(ValueError, match="`task` must be one of"):
        processor.apply_chat_template(message("a cat"), task="draw")
    with pytest.raises(ValueError, match="`images` is not for the task 'generate', but got 1"):
        processor.apply_chat_template(message({"image": picture}, "a cat"), task="generate")
    with pytest.raises(ValueError, match="one source picture a prompt for the task 'edit', but prompt 0 has 2"):
        processor.apply_chat_template(message({"image": picture}, {"image": picture}, "a cat"), task="edit")


# ---------------------------------------------------------------------- videos


def test_videos_need_torchvision(processor, picture, monkeypatch):
    monkeypatch.setattr(processing_wallaroo, "is_torchvision_available", lambda: False)
    with pytest.raises(ImportError, match=r"`videos` needs torchvision.*`pip install torchvision`"):
        processor(text="What happens?", videos=[[picture, picture]])
    clip = [
        {"role": "user", "content": [{"type": "video", "video": [picture, picture]}, {"type": "text", "text": "?"}]}
    ]
    if not is_torchvision_available():  # transformers itself loads the frames before it asks us
        with pytest.raises(ImportError, match=r"`videos` needs torchvision.*`pip install torchvision`"):
            processor.apply_chat_template(clip, **CHAT)
    with pytest.raises(AttributeError, match=r"videos need torchvision: `pip install torchvision`"):
        _ = processor.video_processor


# ---------------------------------------------------------------------- settings and saving


def test_size_indicators_off(processor, picture):
    plain = variant(processor, size_indicators="none")
    for task, layout, tail in (
        ("generate", "training", f'"x"<|im_end|>\n{ASSISTANT}<|generate_start|>'),
        ("generate", "evaluation", f'"x"<|im_end|>\n{ASSISTANT}<|generate_start|>'),
        ("edit", "training", f"512x512.<|im_end|>\n{ASSISTANT}<|generate_start|>"),
        ("edit", "evaluation", "512x512.<|im_end|>\n<|generate_start|>"),
    ):
        sources = picture if task == "edit" else None
        inputs = plain(text="x", images=sources, task=task, height=512, width=512, layout=layout)
        text = plain.tokenizer.decode(inputs["input_ids"][0])
        assert text.endswith(tail)
        assert "<indicator" not in text


def test_row_ends_off(processor, picture):
    square = variant(processor, row_ends=False)
    with_row_ends = processor(text="x", images=picture, task="edit", height=48, width=48)
    inputs = square(text="x", images=picture, task="edit", height=48, width=48)
    text = square.tokenizer.decode(inputs["input_ids"][0])
    assert f"<|pixel_start|>{PAD * 9}<|pixel_end|>" in text
    assert inputs["input_ids"].shape[1] == with_row_ends["input_ids"].shape[1] - 2
    assert (inputs["mm_token_type_ids"] == TokenType.SOURCE_CELL).sum() == 9
    request = ImageRequest(GENERATE, 48, 48, "{prompt}", "training")
    assert square.image_turn_text(request) == "<|generate_image_pad|>" * 9 + "<|generate_end|><|im_end|>\n"
    # The limit counts what the image turn really takes: 9 cells, no row ends, 3 tokens of its tail.
    length = inputs["input_ids"].shape[1] + 12
    limited = variant(processor, row_ends=False, max_length=length)
    assert limited(text="x", images=picture, task="edit", height=48, width=48).keys() == inputs.keys()


def test_image_turn_text_spells_the_image_out(processor):
    request = ImageRequest(EDIT, 32, 48, "{prompt}", "training")
    row = "<|generate_image_pad|>" * 3
    assert processor.image_turn_text(request) == f"{row}{ROW_END}{row}<|generate_end|><|im_end|>\n"


def test_settings_survive_saving(processor, picture, tmp_path):
    settings = {
        "templates": {task: {"en": ["{prompt} {target_w}"], "zh": ["{prompt}！"]} for task in ("generate", "edit")},
        "layouts": {**LAYOUTS, "short": {"generate": "{instruction}{size}", "edit": "{source}{image}{instruction}"}},
        "layout": "short",
        "size_indicators": "text",
        "row_ends": False,
        "max_length": 700,
    }
    changed = variant(processor, **settings)
    request = {"text": ["a cat", "一只猫"], "task": "generate", "height": 352, "width": 352, "return_tensors": "pt"}
    before = changed(**request)
    changed.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in settings} == settings
    assert loaded.chat_template == processor.chat_template
    assert_same(loaded(**request), before)
    assert loaded.tokenizer.decode(unpadded(before, 1)) == "一只猫！ <indicator:352><indicator:352>"
    assert_same(
        loaded(text="What?", images=picture, return_tensors="pt"),
        processor(text="What?", images=picture, return_tensors="pt"),
    )


def test_settings_can_be_given_when_loading(converted):
    loaded = AutoProcessor.from_pretrained(converted, layout="evaluation", size_indicators="none", row_ends=False)
    assert (loaded.layout, loaded.size_indicators, loaded.row_ends) == ("evaluation", "none", False)


def test_settings_of_two_processors_are_apart(processor):
    first, second = variant(processor), variant(processor)
    first.templates["generate"]["en"][0] = "changed {prompt}"
    first.layouts["training"]["generate"] = "changed"
    assert second.templates == TEMPLATES
    assert second.layouts == LAYOUTS


def test_defaults_are_the_documented_ones(processor):
    for made in (processor, variant(processor)):
        assert (made.layout, made.size_indicators, made.row_ends, made.max_length) == ("training", "token", True, 4096)
        assert made.templates == TEMPLATES
        assert made.layouts == LAYOUTS


def test_model_input_names_cover_what_calls_return(processor, picture):
    names = set(processor.model_input_names)
    for task, sources in (("understand", picture), ("generate", None), ("edit", picture)):
        inputs = processor(text="x", images=sources, task=task)
        assert {name for name in inputs if not name.startswith("unconditional_")} <= names


# ---------------------------------------------------------------------- outputs


def test_post_process_gives_text(processor):
    ids = ids_of(processor, "Two pictures.<|im_end|>\n")
    for generated in ([ids], torch.tensor([ids])):
        assert processor.post_process_multimodal_output(generated) == ["Two pictures.\n"]
        assert processor.post_process_multimodal_output(generated, generation_mode="text") == ["Two pictures.\n"]
    shown = processor.post_process_multimodal_output([ids], skip_special_tokens=False)
    assert shown == ["Two pictures.<|im_end|>\n"]


def test_post_process_gives_pictures(processor):
    pixels = [torch.zeros(3, 32, 48), torch.ones(3, 16, 16)]
    pictures = processor.post_process_multimodal_output(pixels, generation_mode="image")
    assert [(picture.size, picture.getpixel((0, 0))) for picture in pictures] == [
        ((48, 32), (128, 128, 128)),
        ((16, 16), (255, 255, 255)),
    ]


def test_post_process_refuses_other_modes(processor):
    with pytest.raises(ValueError, match="unexpected generation_mode=audio"):
        processor.post_process_multimodal_output([[1]], generation_mode="audio")


# ---------------------------------------------------------------------- the fixtures' case `layouts`


def layout_rows():
    expected, _ = case("layouts")
    for row in expected["rows"]:
        assert row["kind"] == "t2i"
        yield (
            row,
            {
                "text": row["prompt"],
                "task": "generate",
                "height": row["height"],
                "width": row["width"],
                "template": TEMPLATES["generate"][row["template_language"]][row["template_index"]],
                "layout": {"training": "training", "eval": "evaluation"}[row["layout"]],
            },
        )


def test_layouts_case_prompt_and_null_ids(processor):
    rows = list(layout_rows())
    assert {(row["layout"], row["height"], row["width"]) for row, _ in rows} == {
        (layout, *size) for layout in ("training", "eval") for size in ((512, 512), (480, 544), (704, 352))
    }
    for row, arguments in rows:
        inputs = processor(**arguments)
        assert inputs["input_ids"].tolist() == [row["prompt_ids"]]
        assert inputs["unconditional_input_ids"].tolist() == [row["null_ids"]]
        assert processor.tokenizer.decode(row["prompt_ids"]) == row["prompt_text"]
        assert processor.tokenizer.decode(row["null_ids"]) == row["null_text"]


def test_layouts_case_with_indicators_as_text(processor):
    as_text = variant(processor, size_indicators="text")
    for row, arguments in layout_rows():
        inputs = as_text(**arguments)
        assert inputs["input_ids"].tolist() == [row["prompt_ids_with_row_col_list"]]
        assert as_text.tokenizer.decode(inputs["input_ids"][0]) == row["prompt_text"]
