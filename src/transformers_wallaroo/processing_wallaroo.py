# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Prompts and inputs of the three tasks; decoded pixels and ids back to pictures and text."""

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer
from transformers.feature_extraction_utils import BatchFeature
from transformers.utils import is_torchvision_available

from .auto_processing_wallaroo import AutoPrompts, refuse_unknown
from .conversations_wallaroo import PICTURE_OPTIONS, parts_of
from .image_grid_wallaroo import (
    AUTO,
    UNDERSTAND,
    ImageTask,
    Task,
    TokenType,
    get_task,
    image_turn_length,
    join_rows,
    parse_aspect_ratio,
)
from .image_processing_wallaroo import WallarooImageProcessor, to_rgb
from .prompts_wallaroo import (
    ADDED_TOKENS,
    CODE_PAD,
    IMAGE_PAD,
    IMAGE_TURN_TAIL,
    LAYOUTS,
    PIXEL_END,
    PIXEL_START,
    ROW_END,
    TEMPLATES,
    TURN_START,
    VISION_END,
    VISION_START,
    TooLongError,
    check_prompt,
    check_template,
    fill,
    language_of,
)

SIZE_INDICATORS = ("token", "text", "cells", "none")


def add_wallaroo_tokens(tokenizer: Any) -> Any:
    """Adds Wallaroo's tokens to a Qwen2.5-VL tokenizer, in the released order and as ordinary tokens."""
    tokenizer.add_tokens(list(ADDED_TOKENS))
    return tokenizer


@dataclass
class ImageRequest:
    """One image to be made: everything its prompt depends on but the prompt itself.

    Attributes:
        task: `GENERATE` or `EDIT`.
        height, width: of the image, in pixels.
        template: instruction template.
        layout: name of the layout.
        source: the source picture of an edit, upright RGB.
        original_size: whether the source is stretched to the size, so that the image can be resized back to it.
        region: bools `(grid_height, grid_width)`, the cells that are drawn anew; `None` where all are.
    """

    task: ImageTask
    height: int
    width: int
    template: str
    layout: str
    source: Image.Image | None = None
    original_size: bool = False
    region: np.ndarray | None = None

    def grid(self, factor: int) -> tuple[int, int]:
        """Cells, (grid_height, grid_width), of `factor` pixels along each side."""
        return self.height // factor, self.width // factor

    @property
    def final_size(self) -> tuple[int, int]:
        """Size (height, width) in pixels that the image is to have in the end."""
        if self.source is None or not self.original_size:
            return self.height, self.width
        return self.source.height, self.source.width


class WallarooProcessor(AutoPrompts):
    """Builds the inputs of understanding, drawing and editing, and turns outputs back into text and pictures.

    Args:
        image_processor, tokenizer, chat_template: as Qwen2.5-VL's. There is no video processor to pass: it is made
            when a video comes, from torchvision.
        templates: instruction templates, task -> language (`"en"`, `"zh"`) -> list; the first is the default. A task
            that is not named keeps the templates of `prompts_wallaroo.py`.
        layouts: prompt layouts, name -> task -> format; see `prompts_wallaroo.py`.
        layout: name of the layout used unless a call says otherwise.
        size_indicators: `"token"` (the paper's `<hw_info>`), `"text"` (the same characters as plain text, as stage
            4's program had them), `"cells"` (tokens of the rows and columns of cells, an ablation of paper section 5;
            the tokenizer must have them), or `"none"` (stages 1 to 3a).
        row_ends: whether rows of cells are parted by row ends; off for stages 1 to 3a.
        max_length: longest sequence, prompt and image turn together (paper section 4.1).
    """

    _auto_class = "AutoProcessor"

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        chat_template=None,
        templates=None,
        layouts=None,
        layout="training",
        size_indicators="token",
        row_ends=True,
        max_length=4096,
        **kwargs,
    ):
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template, **kwargs)
        self.templates = copy.deepcopy({**TEMPLATES, **(templates or {})})
        for task, languages in self.templates.items():
            if not any(languages.values()):
                raise ValueError(f"`templates` has none for the task {task!r}, in any language.")
        self.layouts = copy.deepcopy(LAYOUTS if layouts is None else layouts)
        if layout not in self.layouts:
            raise ValueError(f"`layout` must be one of {sorted(self.layouts)}, but got {layout!r}.")
        if size_indicators not in SIZE_INDICATORS:
            raise ValueError(f"`size_indicators` must be one of {SIZE_INDICATORS}, but got {size_indicators!r}.")
        self.layout = layout
        self.size_indicators = size_indicators
        self.row_ends = row_ends
        self.max_length = max_length

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As usual, without what earlier calls left on the tokenizer: where it came from, and how it padded."""
        for name in ("is_local", "local_files_only"):
            self.tokenizer.init_kwargs.pop(name, None)
        self.tokenizer.backend_tokenizer.no_padding()
        self.tokenizer.backend_tokenizer.no_truncation()
        return super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):  # noqa: ARG003
        """Loads the parts by name: `AutoImageProcessor` cannot be had without torchvision in transformers 5.17."""
        tokenizer = cls._load_tokenizer_from_pretrained("tokenizer", pretrained_model_name_or_path, **kwargs)
        return [WallarooImageProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs), tokenizer]

    @property
    def video_processor(self):
        """Qwen2.5-VL's video processor; there is none without torchvision."""
        if not is_torchvision_available():
            raise AttributeError("videos need torchvision: `pip install torchvision`")
        if "_video_processor" not in self.__dict__:
            from transformers import Qwen2VLVideoProcessor

            self._video_processor = Qwen2VLVideoProcessor()
        return self._video_processor

    @property
    def model_input_names(self) -> list[str]:
        image_names = ["task_ids", "target_grid", "source_pixel_values", "source_grid", "region_mask", "original_sizes"]
        return [*super().model_input_names, *image_names]

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        *,
        task: str | Sequence[str] | None = None,
        height: int | Sequence[int] | None = None,
        width: int | Sequence[int] | None = None,
        aspect_ratio: str | float | Sequence[str | float] | None = None,
        template: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        layout: str | Sequence[str] | None = None,
        region_mask: Any = None,
        original_size: bool | Sequence[bool] | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Builds the inputs of `model.generate` for one prompt or a list of them.

        Args:
            images: for `"understand"` any number of pictures, for `"edit"` one a prompt, else none. With a list of
                prompts: a list with one entry a prompt, each a picture or a list of pictures.
            text: the question, prompt or instruction; for `"understand"` also what `apply_chat_template` rendered.
            videos: for `"understand"`, with torchvision installed.
            task: `"understand"` (the default), `"generate"` or `"edit"`; or a list of the latter two, one a prompt.
                With `"auto"` the model chooses by itself: the result has the prompts of all that it may choose.
            height, width: of the image to be made, in pixels, multiples of 16; one for all or one a prompt.
            aspect_ratio: instead, such as `"16:9"` (width first): the usual size nearest to it. Without any of them:
                512 x 512 for `"generate"`, the usual size nearest to the source's shape for `"edit"`.
            template: instruction template with `{prompt}`, and optionally `{target_w}` and `{target_h}`, one for all or
                one a prompt. By default the first of the language that the prompt is written in.
            negative_prompt: stands in the unconditional prompt, which is else empty.
            layout: `"training"` or `"evaluation"`, one for all or one a prompt: see docs/protocol.md section 4.
            region_mask: for edits, what is to be drawn anew: white in a picture, true in an array of bools; of the size
                of the source or of the image. Cells that it does not touch keep the source's codes. One for all or a
                list of one a prompt, `None` for those that are drawn anew as a whole.
            original_size: for edits, whether the image is to have its source's size in the end, and nothing cropped:
                `post_process_multimodal_output(..., sizes=inputs["original_sizes"])`. One for all or one a prompt.
            return_tensors: `"pt"`, `"np"` or `None`.
            kwargs: for `"understand"`, passed to the tokenizer and the image processor, as in transformers.

        Returns:
            `BatchFeature` with `input_ids`, `attention_mask`, `mm_token_type_ids` (all
            `(batch_size, sequence_length)`, left-padded), `task_ids` `(batch_size,)`; `pixel_values` and
            `image_grid_thw` where the vision tower sees pictures; for images to be made `target_grid`
            `(batch_size, 2)`, (grid_height, grid_width) in cells, and the unconditional prompt under the same names
            prefixed `unconditional_`; for edits `source_pixel_values` `(batch_size, 3, max_height, max_width)` in
            [-1, 1] and `source_grid`; where it is asked for, `region_mask` `(batch_size, max_grid_height,
            max_grid_width)`, bools, the cells that are drawn anew, and `original_sizes` `(batch_size, 2)`, (height,
            width) in pixels that images are to have in the end. For `"auto"` what `"understand"` gives, what
            `"generate"` gives prefixed `generate_` and what `"edit"` gives (of several pictures the last is its source)
            prefixed `edit_`, both for the prompts that can be made into one, whose indices are `generate_prompts` and
            `edit_prompts`; `has_picture` `(batch_size,)`; and `requests`, a list of [`AutoRequest`].
        """
        if task == AUTO.name:
            self._refuse_for_auto(
                videos=videos, template=template, layout=layout, region_mask=region_mask, original_size=original_size
            )
            texts = self._texts(text)
            conversations = [
                [{"role": "user", "content": [*({"type": "image", "image": each} for each in of), *parts_of(asked)]}]
                for asked, of in zip(texts, self._images_a_prompt(images, len(texts)), strict=True)
            ]
            given = (height, width, aspect_ratio, negative_prompt)
            return self._auto(conversations, dict(zip(PICTURE_OPTIONS, given, strict=True)), return_tensors, kwargs)
        names: list[Any] = list(task) if isinstance(task, (list, tuple)) else ["understand" if task is None else task]
        tasks = [get_task(name) for name in names]
        resolved = next((each for each in tasks if isinstance(each, ImageTask)), UNDERSTAND)
        if isinstance(resolved, ImageTask) and UNDERSTAND in tasks:
            raise ValueError(f"`task` mixes 'understand' with tasks that make images: {names}. Call once for each.")
        if not isinstance(resolved, ImageTask):
            image_arguments = {
                "height": height,
                "width": width,
                "aspect_ratio": aspect_ratio,
                "template": template,
                "negative_prompt": negative_prompt,
                "layout": layout,
                "region_mask": region_mask,
                "original_size": original_size,
            }
            for name, value in image_arguments.items():
                if value is not None:
                    raise ValueError(f"`{name}` is for images to be made: the tasks 'generate' and 'edit'.")
            return self._understand(images, text, videos, return_tensors, kwargs)
        refuse_unknown(resolved.name, kwargs)
        if videos is not None:
            raise ValueError(f"`videos` is not for the task {resolved.name!r}, only for 'understand'.")
        prompts = self._texts(text)
        tasks = self._one_a_prompt("task", tasks if len(tasks) > 1 else tasks[0], len(prompts))
        requests = self.image_requests(
            tasks, prompts, images, height, width, aspect_ratio, template, layout, region_mask, original_size
        )
        negatives = self._one_a_prompt("negative_prompt", negative_prompt, len(prompts), default="")
        negatives = [check_prompt(negative, "negative_prompt") for negative in negatives]
        data = self.encode_requests(requests, prompts)
        unconditional = self.encode_requests([self.without_source(request) for request in requests], negatives)
        unconditional.pop("target_grid")
        data["task_ids"] = np.array([each.index for each in tasks], dtype=np.int64)
        data.update({f"unconditional_{name}": value for name, value in unconditional.items()})
        if any(request.region is not None for request in requests):
            data["region_mask"] = self._region_mask(requests, data["target_grid"])
        if any(request.original_size for request in requests):
            data["original_sizes"] = np.array([request.final_size for request in requests], dtype=np.int64)
        return BatchFeature(data, tensor_type=return_tensors)

    # ------------------------------------------------------------------ images to be made

    def image_requests(
        self,
        tasks,
        prompts,
        images=None,
        height=None,
        width=None,
        aspect_ratio=None,
        template=None,
        layout=None,
        region_mask=None,
        original_size=None,
    ) -> list[ImageRequest]:
        """Checks the arguments of a call and settles size, template and source of each image; `tasks` is one for all
        or one a prompt."""
        count = len(prompts)
        tasks = self._one_a_prompt("task", tasks, count)
        sources = self._sources(tasks, images, count)
        heights, widths = self._one_a_prompt("height", height, count), self._one_a_prompt("width", width, count)
        ratios = self._one_a_prompt("aspect_ratio", aspect_ratio, count)
        templates = self._one_a_prompt("template", template, count)
        layouts = self._one_a_prompt("layout", layout, count, default=self.layout)
        # An array is one mask, not a list of them.
        masks = region_mask if isinstance(region_mask, (list, tuple)) else [region_mask] * count
        masks = self._one_a_prompt("region_mask", masks, count)
        originals = self._one_a_prompt("original_size", original_size, count, default=False)
        requests = []
        for index, prompt in enumerate(prompts):
            check_prompt(prompt)
            if not isinstance(layouts[index], str) or layouts[index] not in self.layouts:
                raise ValueError(f"`layout` must be one of {sorted(self.layouts)}, but got {layouts[index]!r}.")
            size = self._settle_size(sources[index], heights[index], widths[index], ratios[index])
            chosen = self.templates_for(tasks[index], prompt)[0] if templates[index] is None else templates[index]
            request = ImageRequest(tasks[index], *size, check_template(chosen), layouts[index], sources[index])
            requests.append(self._with_what_stays(request, masks[index], originals[index]))
        return requests

    def _with_what_stays(self, request: ImageRequest, region_mask: Any, original_size: Any) -> ImageRequest:
        """The request with its region and its original size, which edits alone may have."""
        if not isinstance(original_size, (bool, np.bool_)):
            raise ValueError(
                f"`original_size` must be True or False, for all or one a prompt, but got {original_size!r}."
            )
        source = request.source
        if source is None:
            for name, given in (("region_mask", region_mask is not None), ("original_size", original_size)):
                if given:
                    raise ValueError(
                        f"`{name}` is for the task 'edit', but there is a prompt of the task {request.task.name!r}, "
                        "which has no source picture. In a mixed batch pass a list, with None for such prompts."
                    )
            return request
        request.original_size = bool(original_size)
        if region_mask is not None:
            sizes = (source.height, source.width), (request.height, request.width)
            request.region = self.image_processor.mask_cells(region_mask, *sizes, request.original_size)
        return request

    @staticmethod
    def _region_mask(requests: Sequence[ImageRequest], grids: np.ndarray) -> np.ndarray:
        """The regions of some requests as one array, true beyond an image and where it has no region."""
        cells = np.ones((len(requests), *grids.max(axis=0)), dtype=bool)
        for row, request, (height, width) in zip(cells, requests, grids, strict=True):
            if request.region is not None:
                row[:height, :width] = request.region
        return cells

    def templates_for(self, task: ImageTask, prompt: str) -> list[str]:
        """The templates of the prompt's language, or of another where there are none."""
        languages = self.templates[task.name]
        return languages.get(language_of(prompt)) or next(filter(None, languages.values()))

    def without_source(self, request: ImageRequest) -> ImageRequest:
        """The request of the unconditional branch: a black source of the same size (docs/protocol.md section 8)."""
        request = copy.copy(request)
        if request.source is not None:
            request.source = Image.new("RGB", request.source.size)
        return request

    def encode_requests(self, requests: Sequence[ImageRequest], prompts: Sequence[str]) -> dict[str, np.ndarray]:
        """Tokens and pixels of some prompts as one left-padded batch."""
        rows = [self.encode_prompt(request, prompt) for request, prompt in zip(requests, prompts, strict=True)]
        length = max(len(row) for row in rows)
        pad_id = self.tokenizer.pad_token_id
        ids = np.full((len(rows), length), pad_id, dtype=np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for index, (row, request) in enumerate(zip(rows, requests, strict=True)):
            start = length - len(row)
            ids[index, start:] = row
            mask[index, start:] = 1
            types[index, start:] = self.token_types(row, request.task)
        data = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types}
        factor = self.image_processor.downsample_factor
        data["target_grid"] = np.array([request.grid(factor) for request in requests], dtype=np.int64)
        edits = [request for request in requests if request.source is not None]
        if edits:
            sources, sizes = [edit.source for edit in edits], [(edit.height, edit.width) for edit in edits]
            seen = self.image_processor(sources, return_tensors="np")
            data.update(pixel_values=seen["pixel_values"], image_grid_thw=seen["image_grid_thw"])
            data["source_pixel_values"], data["source_grid"] = self.image_processor.preprocess_cells(
                sources, sizes, stretch=[edit.original_size for edit in edits]
            )
        return data

    def encode_prompt(self, request: ImageRequest, prompt: str) -> list[int]:
        """Ids of a prompt, up to and with the token that starts the image; raises where they are too many."""
        grid = request.grid(self.image_processor.downsample_factor)
        image_length = image_turn_length(*grid, self.row_ends) + len(self.tokenize(IMAGE_TURN_TAIL))
        if image_length > self.max_length:  # told before a placeholder is written for each cell of a source
            raise TooLongError(
                f"An image of {request.height} x {request.width} pixels takes {image_length} tokens, without its "
                f"prompt, but the limit is {self.max_length} (`max_length`). Take a smaller size."
            )
        ids = self.tokenize(self.prompt_text(request, prompt))
        if len(ids) + image_length > self.max_length:
            raise TooLongError(
                f"`text` gives a prompt of {len(ids)} tokens, with {image_length} for the image of {request.height} x "
                f"{request.width} pixels, but the limit is {self.max_length} (`max_length`). Shorten it or take a "
                "smaller size."
            )
        return ids

    def prompt_text(self, request: ImageRequest, prompt: str) -> str:
        """The prompt of an image as text, placeholders spelled out."""
        grid = request.grid(self.image_processor.downsample_factor)
        parts = {
            "instruction": fill(request.template, prompt=prompt, target_w=request.width, target_h=request.height),
            "size": "",
        }
        if self.size_indicators != "none":
            height, width = grid if self.size_indicators == "cells" else (request.height, request.width)
            parts["size"] = f" <indicator:{height}><indicator:{width}>"
        if request.source is not None:
            parts["source"] = f"{PIXEL_START}{self._rows(*grid, IMAGE_PAD)}{PIXEL_END}"
            parts["image"] = self.vision_block(request.source)
        return fill(self.layouts[request.layout][request.task.name], **parts)

    def vision_block(self, picture: Image.Image) -> str:
        """The text of a picture that the vision tower sees: a placeholder for each of its features, between marks."""
        patches = math.prod(self.image_processor.vision_grid(picture.height, picture.width))
        return f"{VISION_START}{IMAGE_PAD * (patches // self.image_processor.merge_size**2)}{VISION_END}"

    def image_turn_text(self, request: ImageRequest) -> str:
        """The image turn as text, from after its start mark to the end of the turn, with placeholders for codes."""
        return self._rows(*request.grid(self.image_processor.downsample_factor), CODE_PAD) + IMAGE_TURN_TAIL

    def _rows(self, grid_height: int, grid_width: int, cell: str) -> str:
        return join_rows(grid_height, grid_width, cell, ROW_END if self.row_ends else "")

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text; with `size_indicators="text"` the size indicators are split like any other text."""
        if self.size_indicators == "text":
            return self._plain_tokenizer.encode(text, add_special_tokens=False).ids
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    @property
    def _plain_tokenizer(self) -> Tokenizer:
        """The tokenizer without its size indicators, made once."""
        if "_plain_backend" not in self.__dict__:
            state = json.loads(self.tokenizer.backend_tokenizer.to_str())
            state["padding"] = state["truncation"] = None  # whatever an earlier call of the tokenizer has set
            state["added_tokens"] = [
                token for token in state["added_tokens"] if not token["content"].startswith("<indicator:")
            ]
            self._plain_backend = Tokenizer.from_str(json.dumps(state))
        return self._plain_backend

    def token_types(self, sequence: Sequence[int], task: Task) -> np.ndarray:
        """The routing table of one sequence, see `TokenType`."""
        task = get_task(task.name)  # a caller's task may come from another copy of these files (remote code)
        ids = np.asarray(sequence)
        convert = self.tokenizer.convert_tokens_to_ids
        types = np.zeros_like(ids)
        types[ids == self.image_token_id] = TokenType.IMAGE
        types[ids == self.video_token_id] = TokenType.VIDEO
        inside = np.cumsum(ids == convert(PIXEL_START)) - np.cumsum(ids == convert(PIXEL_END))
        types[(ids == self.image_token_id) & (inside > 0)] = TokenType.SOURCE_CELL
        if isinstance(task, ImageTask):
            types[ids == convert(CODE_PAD)] = task.code_type
        return types

    def _settle_size(self, source, height, width, aspect_ratio) -> tuple[int, int]:
        if (height is None) != (width is None):
            raise ValueError(f"`height` and `width` go together, but got height={height!r} and width={width!r}.")
        if height is not None and aspect_ratio is not None:
            raise ValueError("Pass `height` and `width`, or `aspect_ratio`, not both.")
        if height is not None:
            size = self.image_processor.check_size(height, width)
        elif aspect_ratio is not None:
            size = self.image_processor.bucket_of(parse_aspect_ratio(aspect_ratio), 1)
        elif source is not None:
            size = self.image_processor.bucket_of(source.height, source.width)
        else:
            size = self.image_processor.bucket_of(1, 1)
        if size[0] != size[1] and not self.row_ends:
            raise ValueError(
                f"Without row ends (`row_ends=False`, stages 1 to 3a) an image is a square, but its size would be "
                f"{size[0]} x {size[1]}. Pass `height` and `width`."
            )
        return size

    def _sources(self, tasks: Sequence[ImageTask], images: Any, count: int) -> list[Image.Image | None]:
        """The source picture of each prompt, upright RGB."""
        given = self._images_a_prompt(images, count)
        for index, (task, pictures) in enumerate(zip(tasks, given, strict=True)):
            if not task.has_source and pictures:
                raise ValueError(
                    f"`images` is not for the task {task.name!r}, but got {len(pictures)}. To change a picture use "
                    "task='edit'."
                )
            if task.has_source and len(pictures) != 1:
                why = " The checkpoint was trained with one source picture an edit." if pictures else ""
                raise ValueError(
                    f"`images` must hold one source picture a prompt for the task {task.name!r}, but prompt "
                    f"{index} has {len(pictures)}.{why}"
                )
        return [to_rgb(pictures[0]) if pictures else None for pictures in given]

    @staticmethod
    def _texts(text: Any) -> list[str]:
        """`text` as a list of strings."""
        texts = [text] if isinstance(text, str) else list(text) if isinstance(text, (list, tuple)) else []
        if not texts or not all(isinstance(entry, str) for entry in texts):
            raise ValueError(f"`text` must be a string or a list of strings, but got {text!r}.")
        return texts

    @staticmethod
    def _images_a_prompt(images: Any, count: int) -> list[list[Any]]:
        """`images` as one list a prompt."""
        if images is None or (isinstance(images, (list, tuple)) and not images):
            return [[] for _ in range(count)]
        if not isinstance(images, (list, tuple)):
            images = [images]
        nested = any(isinstance(entry, (list, tuple)) or entry is None for entry in images)
        if not nested and count == 1:
            return [list(images)]
        if len(images) != count:
            raise ValueError(f"`images` must have one entry a prompt, but got {len(images)} for {count} prompts.")
        return [
            [] if entry is None else list(entry) if isinstance(entry, (list, tuple)) else [entry] for entry in images
        ]

    @staticmethod
    def _one_a_prompt(name: str, value: Any, count: int, default: Any = None) -> list[Any]:
        """`value` for each prompt: one for all, or a list of them."""
        values = list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value] * count
        if len(values) != count:
            raise ValueError(
                f"`{name}` must be one for all or one a prompt, but got {len(values)} for {count} prompts."
            )
        return [default if entry is None else entry for entry in values]

    # ------------------------------------------------------------------ understanding

    def _understand(self, images, text, videos, return_tensors, kwargs) -> BatchFeature:
        """Qwen2.5-VL's own processing, after a plain question has been put into a chat turn."""
        if videos is not None and not is_torchvision_available():
            raise ImportError("`videos` needs torchvision, which is not installed: `pip install torchvision`.")
        texts = self._texts(text)
        if images is not None:
            given = images if isinstance(images, (list, tuple)) else [images]
            if any(TURN_START in entry for entry in texts) and not any(
                isinstance(entry, (list, tuple)) or entry is None for entry in given
            ):
                given = self._split_by_placeholders(texts, given)
            pictures = [[to_rgb(image) for image in entry] for entry in self._images_a_prompt(given, len(texts))]
        else:
            pictures = [[] for _ in texts]
        clips = [] if videos is None else self._images_a_prompt(videos, len(texts))
        rendered = [
            self._chat_turn(entry, len(images_of), len(clips[index]) if clips else 0)
            for index, (entry, images_of) in enumerate(zip(texts, pictures, strict=True))
        ]
        flat = [image for images_of in pictures for image in images_of]
        for name, value in (("padding", True), ("padding_side", "left")):
            if name not in (kwargs.get("text_kwargs") or {}):
                kwargs.setdefault(name, value)
        data = super().__call__(
            images=flat or None, text=rendered, videos=videos, return_tensors=return_tensors, **kwargs
        )
        longest = max(len(ids) for ids in data["input_ids"])
        if longest > self.max_length:
            raise TooLongError(
                f"`text` gives a prompt of {longest} tokens with its pictures, but the limit is {self.max_length} "
                "(`max_length`). Shorten it or pass fewer or smaller pictures."
            )
        data.update(BatchFeature({"task_ids": np.full(len(texts), UNDERSTAND.index)}, tensor_type=return_tensors))
        return data

    def _split_by_placeholders(self, texts: list[str], images: Sequence[Any]) -> list[list[Any]]:
        """Hands a flat list of pictures to rendered prompts by the placeholders that they hold."""
        counts = [entry.count(self.image_token) for entry in texts]
        if sum(counts) != len(images):
            raise ValueError(
                f"`images` has {len(images)} pictures, but the prompts have {sum(counts)} image placeholders."
            )
        remaining = iter(images)
        return [[next(remaining) for _ in range(count)] for count in counts]

    def _chat_turn(self, text: str, num_images: int, num_videos: int) -> str:
        """A rendered prompt as it is; a plain question as a user turn, pictures first unless it places them."""
        placed = text.count(self.image_token)
        if placed and placed != num_images:
            raise ValueError(f"`text` has {placed} image placeholders, but `images` has {num_images} pictures for it.")
        if TURN_START in text:
            if placed != num_images:
                raise ValueError(f"`text` has no image placeholder, but `images` has {num_images} pictures for it.")
            return text
        content: list[dict[str, Any]] = [] if placed else [{"type": "image"}] * num_images
        if self.video_token not in text:
            content = content + [{"type": "video"}] * num_videos
        content = [*content, {"type": "text", "text": text}]
        return super().apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )

    def apply_chat_template(self, conversation, chat_template=None, **kwargs):
        """As in transformers; with `task="generate"` or `"edit"` (here or in `processor_kwargs`) the one user message
        is the prompt and its picture the source, and the result is what calling the processor gives. With `"auto"` the
        conversation is of any length, answers may hold pictures (with the `"task"` that made them, `"generate"` unless
        the part says `"edit"`), and it may end in the answer so far."""
        inner = dict(kwargs.get("processor_kwargs") or {})
        task = kwargs.pop("task", None) or inner.pop("task", None)
        is_auto = task == AUTO.name
        if not is_auto and (task is None or not isinstance(get_task(task), ImageTask)):
            if inner or "processor_kwargs" in kwargs:
                kwargs["processor_kwargs"] = inner
            return super().apply_chat_template(conversation, chat_template, **kwargs)
        if not kwargs.pop("tokenize", True):
            raise ValueError(f"`tokenize` must be True for the task {task!r}: its prompt is more than text.")
        for name in ("add_generation_prompt", "continue_final_message", "return_dict", "processor_kwargs"):
            kwargs.pop(name, None)
        batched = bool(conversation) and isinstance(conversation[0], (list, tuple))
        conversations = conversation if batched else [conversation]
        if is_auto:
            return self._auto_template(conversations, {"chat_template": chat_template, **inner, **kwargs})
        parsed = [self._single_request(messages, task) for messages in conversations]
        prompts, images = [prompt for prompt, _ in parsed], [pictures for _, pictures in parsed]
        return self(text=prompts, images=images, task=task, **{**inner, **kwargs})

    @staticmethod
    def _single_request(messages, task: str) -> tuple[str, list[Any]]:
        """Prompt and pictures of a conversation that is one user message, with or without a system message."""
        roles = [message.get("role") if isinstance(message, dict) else message for message in messages]
        if [role for role in roles if role != "system"] != ["user"]:
            raise ValueError(
                f"`conversation` must be one user message for the task {task!r}, but has the roles {roles}."
            )
        content = messages[roles.index("user")].get("content")
        parts = parts_of(content)
        prompts = [part["text"] for part in parts if part["type"] == "text"]
        images = [part["image"] for part in parts if part["type"] == "image"]
        if not prompts:
            raise ValueError(f"`conversation` has no text, which is the prompt of the task {task!r}.")
        return " ".join(prompts), images

    # ------------------------------------------------------------------ outputs

    def post_process_multimodal_output(
        self, generated_outputs, skip_special_tokens=True, generation_mode=None, sizes=None, **kwargs
    ) -> list[str] | list[Image.Image]:
        """PIL images of decoded pixels with `generation_mode="image"`, else text of ids.

        `sizes` are those that images are resized to: the processor's `original_sizes`, see
        `WallarooImageProcessor.postprocess`.
        """
        if generation_mode == "image":
            return self.image_processor.postprocess(generated_outputs, sizes)
        return super().post_process_multimodal_output(
            generated_outputs, skip_special_tokens=skip_special_tokens, generation_mode=generation_mode, **kwargs
        )


__all__ = ["WallarooProcessor"]
