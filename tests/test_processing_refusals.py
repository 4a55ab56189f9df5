"""Arguments that the processor refuses, by name, and those that it passes over."""

import io

import pytest
from PIL import Image

from reference import assert_same, variant


def test_unknown_task_is_refused(processor):
    with pytest.raises(ValueError, match="`task` must be one of 'understand', 'generate', 'edit', but got 'draw'"):
        processor(text="x", task="draw")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("height", 512),
        ("width", 512),
        ("aspect_ratio", "1:1"),
        ("template", "{prompt}"),
        ("negative_prompt", "bad"),
        ("layout", "training"),
        ("region_mask", Image.new("L", (30, 30))),
        ("original_size", True),
    ],
)
def test_understand_refuses_arguments_of_images_to_be_made(processor, name, value):
    with pytest.raises(ValueError, match=rf"`{name}` is for images to be made: the tasks 'generate' and 'edit'"):
        processor(text="x", **{name: value})


@pytest.mark.parametrize("task", ["generate", "edit"])
def test_images_to_be_made_take_no_videos(processor, task):
    with pytest.raises(ValueError, match=rf"`videos` is not for the task '{task}', only for 'understand'"):
        processor(text="x", videos=[[Image.new("RGB", (30, 30))]], task=task)


def test_images_to_be_made_take_no_unknown_arguments(processor, picture):
    with pytest.raises(ValueError, match="The task 'generate' takes no `heigth`, `size`"):
        processor(text="x", task="generate", heigth=512, size={"shortest_edge": 784, "longest_edge": 784})
    with pytest.raises(ValueError, match="The task 'edit' takes no `images_kwargs`"):
        processor(text="x", images=picture, task="edit", images_kwargs={"size": None})


def test_images_to_be_made_pass_over_what_pipelines_add(processor):
    added = {"padding": True, "padding_side": "right", "truncation": True, "add_special_tokens": False, "foo": None}
    arguments = {"text": ["a cat", "a red kangaroo"], "task": "generate", "return_tensors": "pt"}
    assert_same(processor(**arguments, **added), processor(**arguments))


@pytest.mark.parametrize("text", [None, []])
def test_images_to_be_made_need_a_prompt(processor, text):
    with pytest.raises(ValueError, match=r"`text` must be a string or a list of strings, but got"):
        processor(text=text, task="generate")


@pytest.mark.parametrize("text", [[5], ["a", None], [["a"]]])
def test_prompts_must_be_strings(processor, text):
    with pytest.raises(ValueError, match="`text` must be a string or a list of strings, but got"):
        processor(text=text, task="generate")
    with pytest.raises(ValueError, match="`text` must be a string or a list of strings, but got"):
        processor(text=text)


@pytest.mark.parametrize("text", [None, []])
def test_understand_needs_a_text(processor, picture, text):
    with pytest.raises(ValueError, match="`text` must be a string or a list of strings, but got"):
        processor(text=text, images=picture)


def test_prompts_may_not_hold_special_tokens(processor):
    with pytest.raises(ValueError, match=r"`text` holds the special token <\|im_end\|>"):
        processor(text=["a", "b <|im_end|>"], task="generate")
    with pytest.raises(ValueError, match=r"`negative_prompt` holds the special token <\|pixel_end\|>"):
        processor(text="a", negative_prompt="<|pixel_end|>", task="generate")
    with pytest.raises(ValueError, match="`negative_prompt` must be a string or a list of strings, but got int"):
        processor(text="a", negative_prompt=5, task="generate")


def test_generate_refuses_pictures(processor, picture):
    with pytest.raises(ValueError, match=r"`images` is not for the task 'generate', but got 1\. .*task='edit'"):
        processor(text="x", images=picture, task="generate")


def test_edit_needs_one_picture_a_prompt(processor, picture):
    message_start = "`images` must hold one source picture a prompt for the task 'edit', but prompt"
    with pytest.raises(ValueError, match=f"{message_start} 0 has 0"):
        processor(text="x", task="edit")
    with pytest.raises(ValueError, match=f"{message_start} 0 has 2"):
        processor(text="x", images=[picture, picture], task="edit")
    with pytest.raises(ValueError, match=f"{message_start} 1 has 0"):
        processor(text=["x", "y"], images=[picture, None], task="edit")
    with pytest.raises(ValueError, match=f"{message_start} 1 has 2"):
        processor(text=["x", "y"], images=[[picture], [picture, picture]], task="edit")
    for given in (picture, [picture], [picture] * 3):
        with pytest.raises(ValueError, match=r"`images` must have one entry a prompt, but got \d for 2 prompts"):
            processor(text=["x", "y"], images=given, task="edit")


def test_understand_needs_one_entry_of_images_a_prompt(processor, picture):
    for given, count in ((picture, 1), ([picture] * 3, 3), ([[picture]], 1)):
        with pytest.raises(ValueError, match=f"`images` must have one entry a prompt, but got {count} for 2 prompts"):
            processor(text=["x", "y"], images=given)


def test_understand_needs_a_picture_for_each_placeholder(processor, picture):
    block = "<|vision_start|><|image_pad|><|vision_end|>"
    turn = f"<|im_start|>user\n{block}x<|im_end|>\n"
    with pytest.raises(ValueError, match="`text` has 1 image placeholders, but `images` has 2 pictures for it"):
        processor(text=f"{block}x", images=[picture, picture])
    with pytest.raises(ValueError, match="`text` has 1 image placeholders, but `images` has 0 pictures for it"):
        processor(text=turn)
    with pytest.raises(ValueError, match="`text` has no image placeholder, but `images` has 1 pictures for it"):
        processor(text="<|im_start|>user\nx<|im_end|>\n", images=[[picture]])
    with pytest.raises(ValueError, match="`images` has 3 pictures, but the prompts have 2 image placeholders"):
        processor(text=[turn, turn], images=[picture] * 3)


@pytest.mark.parametrize(("name", "value"), [("height", 512), ("width", 512)])
def test_height_and_width_go_together(processor, name, value):
    with pytest.raises(ValueError, match=r"`height` and `width` go together, but got height=.* and width="):
        processor(text="x", task="generate", **{name: value})


def test_size_and_ratio_exclude_each_other(processor):
    with pytest.raises(ValueError, match="Pass `height` and `width`, or `aspect_ratio`, not both"):
        processor(text="x", task="generate", height=512, width=512, aspect_ratio="1:1")


def test_bad_sizes_and_ratios_are_refused(processor):
    with pytest.raises(ValueError, match="`height` must be a positive multiple of 16 pixels, but got 500"):
        processor(text="x", task="generate", height=500, width=512)
    with pytest.raises(ValueError, match="`width` must be a positive multiple of 16 pixels, but got 0"):
        processor(text=["x", "y"], task="generate", height=[512, 512], width=[512, 0])
    with pytest.raises(ValueError, match="`aspect_ratio` must be width:height"):
        processor(text="x", task="generate", aspect_ratio="wide")


@pytest.mark.parametrize(
    "argument",
    [
        {"height": [512] * 3, "width": 512},
        {"height": 512, "width": [512]},
        {"aspect_ratio": ["1:1"] * 3},
        {"negative_prompt": ["a"]},
    ],
)
def test_arguments_are_one_for_all_or_one_a_prompt(processor, argument):
    name = next(name for name, value in argument.items() if isinstance(value, list))
    with pytest.raises(ValueError, match=rf"`{name}` must be one for all or one a prompt, but got \d for 2 prompts"):
        processor(text=["x", "y"], task="generate", **argument)


def test_bad_templates_and_layouts_are_refused(processor):
    for template in ("no place", ["no place"], 5):
        with pytest.raises(ValueError, match=r"`template` must hold \{prompt\}"):
            processor(text="x", task="generate", template=template)
    with pytest.raises(ValueError, match=r"`layout` must be one of \['evaluation', 'training'\], but got 'eval'"):
        processor(text="x", task="generate", layout="eval")
    for name in ("template", "layout"):
        with pytest.raises(ValueError, match=f"`{name}` must be one for all or one a prompt, but got 2 for 1 prompts"):
            processor(text="x", task="generate", **{name: ["training", "{prompt}"]})
    with pytest.raises(ValueError, match=r"`layout` must be one of \['evaluation', 'training'\], but got 'eval'"):
        variant(processor, layout="eval")
    with pytest.raises(
        ValueError, match=r"`size_indicators` must be one of \('token', 'text', 'cells', 'none'\), but got 'row'"
    ):
        variant(processor, size_indicators="row")


def test_bad_pictures_are_refused_by_name(processor, picture, tmp_path):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    path = tmp_path / "broken.png"
    path.write_bytes(buffer.getvalue()[:200])
    for task in ("understand", "edit"):
        with pytest.raises(ValueError, match="`images` holds a picture that cannot be decoded"):
            processor(text="x", images=path, task=task)
        with pytest.raises(ValueError, match="`images` holds a picture of mode 'F'"):
            processor(text="x", images=Image.new("F", (30, 30)), task=task)
        with pytest.raises(ValueError, match=r"`images` holds a int, but expected"):
            processor(text="x", images=5, task=task)


def test_max_length_counts_prompt_and_image(processor):
    request = {"text": "a red kangaroo", "task": "generate", "height": 32, "width": 48}
    prompt = len(processor(**request)["input_ids"][0])
    image = 2 * 3 + 1 + 3  # cells, a row end, and the end of the turn
    assert len(variant(processor, max_length=prompt + image)(**request)["input_ids"][0]) == prompt
    message_text = (
        rf"`text` gives a prompt of {prompt} tokens, with {image} for the image of 32 x 48 pixels, but the limit"
    )
    with pytest.raises(ValueError, match=rf"{message_text} is {prompt + image - 1} \(`max_length`\)"):
        variant(processor, max_length=prompt + image - 1)(**request)
    with pytest.raises(ValueError, match=r"but the limit is 4096 \(`max_length`\)"):
        processor(text="a red kangaroo", task="generate", height=1024, width=1024)
    with pytest.raises(ValueError, match=r"but the limit is 4096 \(`max_length`\)"):
        processor(text="x", negative_prompt="kangaroo " * 2000, task="generate", height=32, width=48)


def test_a_huge_edit_is_refused_before_its_placeholders_are_written(processor, picture, monkeypatch):
    monkeypatch.setattr(type(processor), "prompt_text", lambda *_: pytest.fail("the prompt was written"))
    with pytest.raises(
        ValueError, match=r"An image of 16000 x 16000 pixels takes \d+ tokens, .* but the limit is 4096"
    ):
        processor(text="a", images=picture, task="edit", height=16000, width=16000)


def test_max_length_counts_text_and_pictures(processor, picture):
    length = len(processor(text="What?", images=picture)["input_ids"][0])
    assert len(variant(processor, max_length=length)(text="What?", images=picture)["input_ids"][0]) == length
    with pytest.raises(ValueError, match=rf"a prompt of {length} tokens with its pictures.* limit is {length - 1}"):
        variant(processor, max_length=length - 1)(text="What?", images=picture)


@pytest.mark.parametrize("name, value", [("region_mask", Image.new("L", (512, 512))), ("original_size", True)])
def test_what_edits_keep_is_not_for_drawings(processor, picture, name, value):
    with pytest.raises(
        ValueError, match=rf"`{name}` is for the task 'edit', but there is a prompt of the task 'generate'"
    ):
        processor(text="a", task="generate", **{name: value})
    with pytest.raises(ValueError, match=rf"`{name}` is for the task 'edit'.* In a mixed batch pass a list, with None"):
        processor([picture, None], ["a", "b"], task=["edit", "generate"], height=32, width=48, **{name: [None, value]})


@pytest.mark.parametrize("value", ["yes", 1, [[True]]])
def test_original_size_is_a_bool(processor, picture, value):
    with pytest.raises(ValueError, match="`original_size` must be True or False, for all or one a prompt, but got"):
        processor(picture, "a", task="edit", original_size=value)


def test_masks_of_the_wrong_size(processor, picture):
    arguments = {"images": picture, "text": "a", "task": "edit", "height": 32, "width": 48}
    message = (
        r"`region_mask` must have the size of its source, 100 x 150, or of the image to be made, 32 x 48 .* 150 x 100"
    )
    with pytest.raises(ValueError, match=message):
        processor(**arguments, region_mask=Image.new("L", (100, 150)))
    with pytest.raises(ValueError, match="`region_mask` must be one for all or one a prompt, but got 2 for 1 prompts"):
        processor(**arguments, region_mask=[None, None])


def test_several_sources_are_more_than_the_checkpoint_was_trained_with(processor, picture):
    message = r"prompt 0 has 2\. The checkpoint was trained with one source picture an edit"
    with pytest.raises(ValueError, match=message):
        processor([[picture, picture]], ["a"], task="edit")
