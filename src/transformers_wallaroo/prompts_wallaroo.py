# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Prompts as data: instruction templates, the two layouts, and what fills them. Pure Python."""

import re

from .image_grid_wallaroo import EDIT, GENERATE

# The added tokens, in the order that gives them their ids: docs/protocol.md section 3.
GENERATE_START, GENERATE_END = "<|generate_start|>", "<|generate_end|>"
PIXEL_START, PIXEL_END = "<|pixel_start|>", "<|pixel_end|>"
ROW_END = "<|end_of_line>|"  # spelled so in the released tokenizer
CODE_PAD = "<|generate_image_pad|>"
MARKS = (GENERATE_START, GENERATE_END, PIXEL_START, PIXEL_END, ROW_END, CODE_PAD)
INDICATOR_SIZES = (352, 640, 384, 672, 704, 416, 608, 576, 448, 480, 544, 512)
ADDED_TOKENS = (*MARKS, *(f"<indicator:{size}>" for size in INDICATOR_SIZES))

# Tokens of Qwen2.5-VL that a prompt is made of.
IMAGE_PAD, VISION_START, VISION_END = "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"
TURN_START, TURN_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
VISION_BLOCK = f"{VISION_START}{IMAGE_PAD}{VISION_END}"
SYSTEM_PROMPT = "You are a helpful assistant."

# Ten English and ten Chinese templates a task. The first of each is the default at inference. Those of the released
# programs that docs/protocol.md and the parity fixtures state are marked; the others are our own wording.
TEMPLATES: dict[str, dict[str, list[str]]] = {
    GENERATE.name: {
        "en": [
            'Generate an image with resolution {target_w}x{target_h} based on the prompt: "{prompt}"',  # released
            'Create a {target_w}x{target_h} sized image using the following text: "{prompt}"',  # released
            'Please draw a picture of {target_w}x{target_h} pixels that shows: "{prompt}"',
            'Design an image using the prompt "{prompt}" with a resolution of {target_w}x{target_h}',  # released
            'Produce a {target_w}x{target_h} picture that matches this description: "{prompt}"',
            'Turn the text "{prompt}" into an image, {target_w} pixels wide and {target_h} pixels high',
            'I need an image of size {target_w}x{target_h} for this caption: "{prompt}"',
            'Make a {target_w}x{target_h} image whose content is: "{prompt}"',
            'Paint what these words describe at {target_w}x{target_h}: "{prompt}"',
            'Following the description "{prompt}", render an image of {target_w}x{target_h}',
        ],
        "zh": [
            "生成一幅图像，分辨率为{target_w}x{target_h}，基于文本提示：“{prompt}”",  # released
            "请根据描述“{prompt}”画一张{target_w}x{target_h}的图片",
            "请创作一张大小为{target_w}x{target_h}的图像，内容是：“{prompt}”",
            "把这段文字变成一张{target_w}x{target_h}的图片：“{prompt}”",
            "请绘制一幅{target_w}x{target_h}的画面：“{prompt}”",
            "我想要一张{target_w}x{target_h}像素的图片，描述如下：“{prompt}”",
            '根据提示："{prompt}"，构建一个{target_w}x{target_h}像素的视觉图片',  # released
            "以“{prompt}”为主题，制作一张分辨率为{target_w}x{target_h}的图像",
            "请按照文字“{prompt}”输出一张{target_w}x{target_h}的图像",
            "用{target_w}x{target_h}的尺寸画出：“{prompt}”",
        ],
    },
    EDIT.name: {
        "en": [
            'Edit the input image based on the text prompt: "{prompt}", and generate a new image with a resolution of '
            "{target_w}x{target_h}.",  # released
            'Change this picture as follows: "{prompt}", and return it at {target_w}x{target_h}.',
            'Modify the original image following the description: "{prompt}", and produce a new image sized '
            "{target_w}x{target_h}.",  # released
            'Apply the instruction "{prompt}" to the picture and give the result in {target_w}x{target_h}.',
            'Here is an image. Please do this to it: "{prompt}". The new image has {target_w}x{target_h} pixels.',
            'Adjust the given image according to the prompt: "{prompt}", and output an image of size '
            "{target_w}x{target_h}.",  # released
            'Rework the image so that it follows "{prompt}", with {target_w}x{target_h} pixels.',
            'Take the picture above, carry out "{prompt}", and draw it anew at {target_w}x{target_h}.',
            'Using the image as the start, make this edit: "{prompt}". Output size: {target_w}x{target_h}.',
            'Keep the picture but make this change: "{prompt}". Answer with an image of {target_w}x{target_h}.',
        ],
        "zh": [
            "根据输入图片，并结合文本提示：“{prompt}”，对图片进行编辑，生成一幅{target_w}x{target_h}的图像",  # released
            "请按照要求修改这张图片：“{prompt}”，并输出{target_w}x{target_h}的新图片",
            "对这幅图像执行如下操作：“{prompt}”，结果的尺寸为{target_w}x{target_h}",
            "以这张图为基础，完成编辑：“{prompt}”，得到一张{target_w}x{target_h}的图片",
            "结合图片和文本：“{prompt}”，产生一张分辨率为{target_w}x{target_h}的编辑后图片",  # released
            "请把图片改成：“{prompt}”，大小为{target_w}x{target_h}",
            "保留原图，只做这个改动：“{prompt}”，并给出{target_w}x{target_h}的图像",
            "根据指令“{prompt}”处理上面的图片，新图为{target_w}x{target_h}像素",
            "请编辑图像，要求是“{prompt}”，输出分辨率{target_w}x{target_h}",
            "参考输入的图像，按“{prompt}”重新绘制一张{target_w}x{target_h}的图",
        ],
    },
}

# Where the parts of a prompt stand: docs/protocol.md section 4. `{size}` brings its own leading space.
_HEAD = f"{TURN_START}system\n{SYSTEM_PROMPT}{TURN_END}\n{TURN_START}user\n"
_ANSWER = f"{TURN_START}assistant\n{GENERATE_START}"
LAYOUTS: dict[str, dict[str, str]] = {
    "training": {
        GENERATE.name: f"{_HEAD}{{instruction}}{{size}}{TURN_END}\n{_ANSWER}",
        EDIT.name: f"{_HEAD}{{source}}{{image}}{{instruction}}{{size}}{TURN_END}\n{_ANSWER}",
    },
    "evaluation": {
        GENERATE.name: f"{_HEAD}{{instruction}}{TURN_END}\n{{size}}{_ANSWER}",
        EDIT.name: f"{_HEAD}{{source}}{{image}}{{instruction}}{{size}}{TURN_END}\n{GENERATE_START}",
    },
}
# Chinese characters, and text between quotation marks of either language.
# Where a picture stands in the text of a conversation to learn from, as LLaVA has it.
IMAGE_PLACEHOLDER = "<image>"
# What a prompt may not hold, for the layouts place it.
RESERVED = (*MARKS, IMAGE_PAD, "<|video_pad|>", VISION_START, VISION_END, TURN_START, TURN_END, END_OF_TEXT)
CHINESE = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
QUOTED = r"\"[^\"]*\"|“[^”]*”|「[^」]*」|『[^』]*』|《[^》]*》"
# What an answer writes before a picture that it makes, by the task that makes it; the vision block of the picture
# follows. The cells of an edit's source are not repeated between their marks.
PICTURE_MARKS: dict[str, str] = {
    GENERATE.name: GENERATE_START,
    EDIT.name: f"{GENERATE_START}{PIXEL_START}{PIXEL_END}",
}
# What stands between an image being made and the end of its turn.
IMAGE_TURN_TAIL = f"{GENERATE_END}{TURN_END}\n"


class TooLongError(ValueError):
    """A prompt or sample of more tokens than the limit."""


def language_of(prompt: str) -> str:
    """The language an instruction is written in: `"zh"` where it has more Chinese characters than words of Latin
    letters, else `"en"`; as many of both, what stands first. Quoted text, such as what a sign says, does not count."""
    plain = re.sub(QUOTED, " ", prompt)
    letters = re.findall(rf"[{CHINESE}]|[A-Za-z]+", plain) or re.findall(rf"[{CHINESE}]|[A-Za-z]+", prompt)
    chinese = sum(not letter.isascii() for letter in letters)
    if 2 * chinese == len(letters):
        return "zh" if letters and not letters[0].isascii() else "en"
    return "zh" if 2 * chinese > len(letters) else "en"


def fill(template: str, **values: object) -> str:
    """Replaces each `{name}` of `values` once and at one go: a prompt may itself hold braces."""
    pattern = "|".join(re.escape(f"{{{name}}}") for name in values)
    return re.sub(pattern, lambda match: str(values[match.group()[1:-1]]), template)


def check_template(template: str) -> str:
    """Returns the template, or raises where it has no place for the prompt."""
    if not isinstance(template, str) or "{prompt}" not in template:
        raise ValueError(
            f"`template` must hold {{prompt}} (and may hold {{target_w}} and {{target_h}}), but got {template!r}."
        )
    return template


def check_prompt(prompt: str, name: str = "text") -> str:
    """Returns the prompt, or raises where it holds tokens that would break the layout."""
    if not isinstance(prompt, str):
        raise ValueError(f"`{name}` must be a string or a list of strings, but got {type(prompt).__name__}.")
    for token in RESERVED:
        if token in prompt:
            raise ValueError(
                f"`{name}` holds the special token {token}, which the layout of this task places by itself. "
                "Pass the plain instruction."
            )
    return prompt


def insert_images(text: str, placeholder: str = IMAGE_PLACEHOLDER) -> str:
    """Puts the vision block where `<image>` stands, with one neighbouring newline on each side taken away."""
    return re.sub(rf"\n?{re.escape(placeholder)}\n?", lambda _: VISION_BLOCK, text)
