"""Templates, added tokens and layouts against docs/protocol.md sections 3, 4 and 12 and the case `layouts`."""

import re

import pytest
from transformers import AutoTokenizer

from transformers_wallaroo import add_wallaroo_tokens
from transformers_wallaroo.prompts_wallaroo import (
    ADDED_TOKENS,
    IMAGE_PAD,
    IMAGE_TURN_TAIL,
    INDICATOR_SIZES,
    LAYOUTS,
    MARKS,
    TEMPLATES,
    VISION_BLOCK,
    check_prompt,
    check_template,
    fill,
    insert_images,
    language_of,
)

from reference import REFERENCE, case

ALL_TEMPLATES = [
    (language, template)
    for languages in TEMPLATES.values()
    for language, templates in languages.items()
    for template in templates
]
# Written out again from docs/protocol.md section 4.
DEFAULTS = {
    ("generate", "en"): 'Generate an image with resolution {target_w}x{target_h} based on the prompt: "{prompt}"',
    ("generate", "zh"): "生成一幅图像，分辨率为{target_w}x{target_h}，基于文本提示：“{prompt}”",
    (
        "edit",
        "en",
    ): 'Edit the input image based on the text prompt: "{prompt}", and generate a new image with a resolution '
    "of {target_w}x{target_h}.",
    ("edit", "zh"): "根据输入图片，并结合文本提示：“{prompt}”，对图片进行编辑，生成一幅{target_w}x{target_h}的图像",
}
SPECIAL_TOKENS = [
    "<|generate_start|>",
    "<|generate_end|>",
    "<|pixel_start|>",
    "<|pixel_end|>",
    "<|end_of_line>|",
    "<|generate_image_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|im_start|>",
    "<|im_end|>",
]

# ---------------------------------------------------------------------- templates


def test_templates_are_ten_a_task_and_language_without_repeats():
    assert set(TEMPLATES) == {"generate", "edit"}
    for languages in TEMPLATES.values():
        assert list(languages) == ["en", "zh"]
        assert all(len(templates) == len(set(templates)) == 10 for templates in languages.values())


@pytest.mark.parametrize(("task", "language"), DEFAULTS)
def test_templates_start_with_the_documented_default(task, language):
    assert TEMPLATES[task][language][0] == DEFAULTS[task, language]


@pytest.mark.parametrize(("language", "template"), ALL_TEMPLATES)
def test_template_places_prompt_and_size_once_each(language, template):
    assert sorted(re.findall(r"\{.*?\}", template)) == ["{prompt}", "{target_h}", "{target_w}"]
    assert template.index("{target_w}") < template.index("{target_h}")
    words = template.replace("{prompt}", "").replace("{target_w}", "").replace("{target_h}", "")
    assert "{" not in words
    assert "}" not in words
    assert check_prompt(words) == words
    assert (language == "zh") == (language_of(words) == "zh")


def test_templates_of_the_loss_cases_are_those_of_the_fixtures():
    for name, task in (("t2i_loss", "generate"), ("edit_loss", "edit")):
        expected, _ = case(name)
        assert len(expected["samples"]) == 2
        for sample, text in zip(expected["samples"], expected["prompt_text"], strict=True):
            template = TEMPLATES[task][sample["language"]][sample["template_index"]]
            size = {"target_w": sample["width"], "target_h": sample["height"]}
            assert fill(template, prompt=sample["prompt"], **size) in text


@pytest.mark.parametrize(
    ("prompt", "language"),
    [
        ("", "en"),
        ("a red kangaroo", "en"),
        ("1234 !?", "en"),
        ("一只红色的袋鼠", "zh"),
        ("把天空变成粉红色", "zh"),
        ("画一只kangaroo", "zh"),
        ("猫 cat", "zh"),
        ("a red 猫", "en"),
        ("a sign that says 你好", "en"),
        ("ねこ", "en"),
        ("고양이", "en"),
        ("кенгуру", "en"),
        ("\u3400", "zh"),
        ("\uf900", "zh"),
    ],
)
def test_language_of_counts_characters_against_words(prompt, language):
    assert language_of(prompt) == language


def test_fill_leaves_braces_of_a_prompt_alone():
    prompt = r"{target_w} {prompt} {size} {} {0} }{ \1 \g<0> %s"
    assert fill('{target_w}x{target_h}: "{prompt}"', prompt=prompt, target_w=48, target_h=32) == f'48x32: "{prompt}"'


def test_fill_leaves_names_it_is_not_given_alone():
    assert fill("{a} {b} {{a}}", a=1) == "1 {b} {1}"


@pytest.mark.parametrize("template", ["", "no place", "{Prompt}", "{ prompt }", None, 5, ["{prompt}"]])
def test_check_template_wants_a_place_for_the_prompt(template):
    with pytest.raises(ValueError, match=r"`template` must hold \{prompt\}") as error:
        check_template(template)
    assert repr(template) in str(error.value)


def test_check_template_returns_a_template_without_sizes():
    assert check_template("draw {prompt}") == "draw {prompt}"


# ---------------------------------------------------------------------- prompts


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_check_prompt_refuses_each_special_token_by_name(token):
    for name in ("text", "negative_prompt"):
        with pytest.raises(ValueError, match=rf"`{name}` holds the special token {re.escape(token)}"):
            check_prompt(f"a cat {token} a dog", name)


def test_check_prompt_covers_every_mark():
    assert set(MARKS) <= set(SPECIAL_TOKENS)


@pytest.mark.parametrize("prompt", ["", "a cat", "一只猫", "<|not a token|>", "a < b | c > d", "x" * 10000])
def test_check_prompt_returns_a_plain_prompt(prompt):
    assert check_prompt(prompt) is prompt


@pytest.mark.parametrize(("prompt", "kind"), [(None, "NoneType"), (5, "int"), (b"cat", "bytes"), (["a"], "list")])
def test_check_prompt_refuses_what_is_no_string(prompt, kind):
    with pytest.raises(ValueError, match=rf"`negative_prompt` must be a string or a list of strings, but got {kind}\."):
        check_prompt(prompt, "negative_prompt")


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("What is it?", "What is it?"),
        ("<image>", "[]"),
        ("<image>What?", "[]What?"),
        ("<image>\nWhat?", "[]What?"),
        ("What?\n<image>", "What?[]"),
        ("See\n<image>\nand say", "See[]and say"),
        ("See\n\n<image>\n\nand say", "See\n[]\nand say"),
        ("See <image> and", "See [] and"),
        ("<image>\n<image>\nCompare", "[][]Compare"),
        ("<image>\n\n<image>", "[][]"),
        ("<image><image>", "[][]"),
        ("<Image>", "<Image>"),
    ],
)
def test_insert_images_takes_one_newline_on_each_side(text, filled):
    assert insert_images(text) == filled.replace("[]", VISION_BLOCK)


def test_insert_images_takes_another_placeholder_literally():
    assert insert_images("a.b\n<a.b>\n<image>", "<a.b>") == f"a.b{VISION_BLOCK}<image>"


# ---------------------------------------------------------------------- tokens and layouts


def test_added_tokens_stand_in_the_released_order():
    expected, _ = case("layouts")
    assert list(ADDED_TOKENS) == expected["added_tokens_in_order"]
    assert list(MARKS) == list(ADDED_TOKENS[:6])
    assert INDICATOR_SIZES == (352, 640, 384, 672, 704, 416, 608, 576, 448, 480, 544, 512)


def test_add_wallaroo_tokens_gives_the_released_ids_as_ordinary_tokens():
    expected, _ = case("layouts")
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE / "base")
    before = len(tokenizer)
    assert add_wallaroo_tokens(tokenizer) is tokenizer
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in ADDED_TOKENS} == expected["added_token_ids"]
    assert len(tokenizer) == before + 18 == expected["tokenizer_length"]
    assert not any(tokenizer.added_tokens_decoder[before + index].special for index in range(18))
    assert len(add_wallaroo_tokens(tokenizer)) == expected["tokenizer_length"]


def test_converted_tokenizer_has_the_same_added_tokens(processor):
    expected, _ = case("layouts")
    ids = expected["added_token_ids"]
    assert {token: processor.tokenizer.convert_tokens_to_ids(token) for token in ids} == ids
    assert len(processor.tokenizer) == expected["tokenizer_length"]
    assert processor.tokenizer(expected["indicator_text"])["input_ids"] == expected["indicator_ids_hw"]
    assert processor.tokenizer(expected["small_indicator_text"])["input_ids"] == expected["small_indicator_ids"]


def test_layouts_rows_fill_to_the_texts_of_the_fixtures():
    expected, _ = case("layouts")
    assert len(expected["rows"]) == 6
    for row in expected["rows"]:
        task = {"t2i": "generate", "edit": "edit"}[row["kind"]]
        layout = {"training": "training", "eval": "evaluation"}[row["layout"]]
        template = TEMPLATES[task][row["template_language"]][row["template_index"]]
        size = f" <indicator:{row['height']}><indicator:{row['width']}>"
        for prompt, text in ((row["prompt"], row["prompt_text"]), ("", row["null_text"])):
            instruction = fill(template, prompt=prompt, target_w=row["width"], target_h=row["height"])
            assert fill(LAYOUTS[layout][task], instruction=instruction, size=size) == text


def test_layouts_of_edit_put_the_source_cells_before_the_vision_block():
    head = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    parts = {"source": "[cells]", "image": "[patches]", "instruction": "[text]", "size": " [size]"}
    training, evaluation = (fill(LAYOUTS[name]["edit"], **parts) for name in ("training", "evaluation"))
    turn = f"{head}[cells][patches][text] [size]<|im_end|>\n"
    assert training == f"{turn}<|im_start|>assistant\n<|generate_start|>"
    assert evaluation == f"{turn}<|generate_start|>"


def test_layouts_end_with_the_start_mark_and_the_tail_ends_the_turn():
    assert all(layout.endswith("<|generate_start|>") for tasks in LAYOUTS.values() for layout in tasks.values())
    assert IMAGE_TURN_TAIL == "<|generate_end|><|im_end|>\n"
    assert f"<|vision_start|>{IMAGE_PAD}<|vision_end|>" == VISION_BLOCK


@pytest.mark.parametrize(
    ("prompt", "language"),
    [
        ('a sign that says "你好世界"', "en"),
        ("写着“HELLO WORLD AND MORE”的牌子", "zh"),
        ("a red 袋鼠", "en"),
        ("红色的 kangaroo", "zh"),
        ("“你好”", "zh"),
        ('"HELLO"', "en"),
    ],
)
def test_quoted_text_does_not_choose_the_language(prompt, language):
    assert language_of(prompt) == language
