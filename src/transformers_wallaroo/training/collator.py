# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Samples of the three tasks to one batch of `model(**batch)` (docs/protocol.md sections 4 to 7 and 12)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from ..image_grid_wallaroo import UNDERSTAND, ImageTask, Task, get_task
from ..image_processing_wallaroo import to_rgb
from ..modeling_wallaroo import IGNORE_INDEX
from ..processing_wallaroo import PICTURE_KEYS, WallarooProcessor
from ..prompts_wallaroo import (
    SYSTEM_PROMPT,
    TURN_END,
    TURN_START,
    VISION_BLOCK,
    check_prompt,
    insert_images,
)

# What LLaVA-style conversations call the speakers.
ROLES = {"human": "user", "gpt": "assistant"}


@dataclass
class EncodedSample:
    """One row of a batch.

    Attributes:
        task: the task of the sample.
        ids, labels: of the one id space; a code that is not known yet is the code placeholder in both.
        seen: pictures for the vision tower, in the order of their placeholders.
        source, target: pictures for the VQ tokenizer, with their size (height, width) in pixels.
        source_mask: bool a source cell, raster order; `True` cells are hidden from the model.
    """

    task: Task
    ids: list[int]
    labels: list[int]
    seen: list[Image.Image] = field(default_factory=list)
    source: Image.Image | None = None
    target: Image.Image | None = None
    size: tuple[int, int] | None = None
    source_mask: torch.Tensor | None = None


class WallarooDataCollator:
    """Turns samples into a batch for `model(**batch)`, which then holds `loss` and `losses`.

    A sample is a dict: `{"task": "generate", "prompt", "image"}`, `{"task": "edit", "prompt", "source_image",
    "image"}` or `{"task": "understand", "messages" (or "conversations"), "images"}`, optionally with `template`,
    `height` and `width` in pixels, and `source_mask` (bool a source cell, raster order).

    Args:
        processor (`WallarooProcessor`): tokens, templates and sizes.
        mask_ratio (`float`): share of the source cells of an edit that are hidden (paper section 4.1).
        unconditional_probability (`float`): share of image samples with an empty prompt, and a black source.
        generator (`torch.Generator`, *optional*): for templates, masks and dropout; torch's global state else. In a
            data loader's workers it is seeded from the loader's own seed, which differs by worker and epoch.
    """

    def __init__(
        self,
        processor: WallarooProcessor,
        mask_ratio: float = 0.6,
        unconditional_probability: float = 0.1,
        generator: torch.Generator | None = None,
    ):
        for name, value in (("mask_ratio", mask_ratio), ("unconditional_probability", unconditional_probability)):
            if not 0 <= value <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], but got {value!r}.")
        self.processor = processor
        self.mask_ratio = mask_ratio
        self.unconditional_probability = unconditional_probability
        self.generator = generator
        self._worker_seed: int | None = None

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Encodes and right-pads samples of any mixture of tasks; see `WallarooForConditionalGeneration.forward`."""
        if not samples:
            raise ValueError("`samples` must hold at least one sample.")
        self._part_from_other_workers()
        rows = [self.encode(sample, index) for index, sample in enumerate(samples)]
        length = max(len(row.ids) for row in rows)
        shape = (len(rows), length)
        ids = torch.full(shape, self.processor.tokenizer.pad_token_id)
        labels = torch.full(shape, IGNORE_INDEX)
        mask, types = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        for index, row in enumerate(rows):
            end = len(row.ids)
            ids[index, :end] = torch.tensor(row.ids)
            labels[index, :end] = torch.tensor(row.labels)
            mask[index, :end] = 1
            types[index, :end] = torch.from_numpy(self.processor.token_types(row.ids, row.task))
        batch = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types, "labels": labels}
        batch["task_ids"] = torch.tensor([row.task.index for row in rows])
        batch.update(self._pixels(rows))
        return batch

    def _part_from_other_workers(self) -> None:
        """Gives the generator of a data loader's worker a stream of its own: each starts with the same copy."""
        worker = torch.utils.data.get_worker_info()
        if self.generator is not None and worker is not None and worker.seed != self._worker_seed:
            self._worker_seed = worker.seed
            self.generator.manual_seed(worker.seed)

    def encode(self, sample: Mapping[str, Any], index: int = 0) -> EncodedSample:
        """One sample as a row; errors name the sample's place in the batch."""
        try:
            if not isinstance(sample, Mapping) or "task" not in sample:
                raise ValueError(f"it must be a dict with a 'task', but is {sample!r}.")
            task = get_task(sample["task"])
            row = self._encode_image_sample(task, sample) if isinstance(task, ImageTask) else self._encode_chat(sample)
            if len(row.ids) > self.processor.max_length:
                raise ValueError(
                    f"it has {len(row.ids)} tokens, but the limit is {self.processor.max_length} "
                    "(`processor.max_length`)."
                )
        except ValueError as error:
            raise ValueError(f"Sample {index}: {error}") from error
        return row

    # ------------------------------------------------------------------ images

    def _encode_image_sample(self, task: ImageTask, sample: Mapping[str, Any]) -> EncodedSample:
        names = ("prompt", "image", *(("source_image",) if task.has_source else ()))
        missing = [name for name in names if sample.get(name) is None]
        if missing:
            raise ValueError(f"the task {task.name!r} needs {', '.join(map(repr, missing))}.")
        misplaced = [name for name in ("source_image", "source_mask") if sample.get(name) is not None]
        if misplaced and not task.has_source:
            raise ValueError(f"the task {task.name!r} takes no {', '.join(map(repr, misplaced))}; is it an edit?")
        processor, prompt = self.processor, check_prompt(sample["prompt"], "prompt")
        target = to_rgb(sample["image"], "image")
        source = to_rgb(sample["source_image"], "source_image") if task.has_source else None
        height, width = sample.get("height"), sample.get("width")
        if height is None and width is None and source is None:
            height, width = processor.image_processor.bucket_of(target.height, target.width)
        template = sample.get("template")
        if template is None:
            template = self._choose(processor.templates_for(task, prompt))
        [request] = processor.image_requests(
            task, [prompt], source, height=height, width=width, template=template, layout="training"
        )
        if self._uniform() < self.unconditional_probability:
            prompt, request = "", processor.without_source(request)
        prompt_ids = processor.encode_prompt(request, prompt)
        turn_ids = processor.tokenize(processor.image_turn_text(request))
        # The start mark is the first token of the answer, so it is learned as well.
        labels = [IGNORE_INDEX] * (len(prompt_ids) - 1) + prompt_ids[-1:] + turn_ids
        row = EncodedSample(task, prompt_ids + turn_ids, labels, target=target, size=(request.height, request.width))
        if request.source is not None:
            row.seen, row.source = [request.source], request.source
            row.source_mask = self._source_mask(sample, (request.height, request.width))
        return row

    def _source_mask(self, sample: Mapping[str, Any], size: tuple[int, int]) -> torch.Tensor:
        """The sample's own mask, or a random one that keeps `int((1 - mask_ratio) * cells)` cells."""
        cells = size[0] * size[1] // self.processor.image_processor.downsample_factor**2
        given = sample.get("source_mask")
        if given is not None:
            try:
                mask = torch.as_tensor(given).bool().flatten()
            except (TypeError, ValueError, RuntimeError) as error:
                raise ValueError(f"`source_mask` must be bools, one a source cell, but got {given!r}.") from error
            if len(mask) != cells:
                raise ValueError(f"`source_mask` has {len(mask)} values, but the source has {cells} cells.")
            return mask
        mask = torch.ones(cells, dtype=torch.bool)
        # Rounded first, for 1 - 0.6 is not the same float as 0.4 for every ratio.
        kept = int(round(1 - self.mask_ratio, 9) * cells)
        mask[torch.randperm(cells, generator=self.generator)[:kept]] = False
        return mask

    def _uniform(self) -> float:
        return torch.rand((), generator=self.generator).item()

    def _choose(self, options: Sequence[str]) -> str:
        return options[int(torch.randint(len(options), (), generator=self.generator))]

    # ------------------------------------------------------------------ understanding

    def _encode_chat(self, sample: Mapping[str, Any]) -> EncodedSample:
        """Every assistant turn is learned, its end mark and newline included."""
        if sample.get("videos") is not None or sample.get("video") is not None:
            raise ValueError("videos are no training samples yet; take their frames as 'images'.")
        images = sample.get("images", sample.get("image"))
        images = [] if images is None else list(images) if isinstance(images, (list, tuple)) else [images]
        turns, placed = self._turns(sample, len(images))
        seen = [to_rgb(image) for image in images or placed]
        ids: list[int] = []
        labels: list[int] = []
        remaining = iter(seen)
        for role, text in turns:
            head = self._tokenize_chat(f"{TURN_START}{role}\n")
            body = self._tokenize_chat(self._expand(text, remaining) + f"{TURN_END}\n")
            ids += head + body
            labels += [IGNORE_INDEX] * len(head) + (body if role == "assistant" else [IGNORE_INDEX] * len(body))
        return EncodedSample(UNDERSTAND, ids, labels, seen=seen)

    def _tokenize_chat(self, text: str) -> list[int]:
        """As the processor tokenizes a chat: size indicators in it are what the tokenizer says, whatever the layout."""
        return self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _turns(self, sample: Mapping[str, Any], num_images: int) -> tuple[list[tuple[str, str]], list[Any]]:
        """(role, text) of each turn with a vision block for each picture, the system turn first; and the pictures
        that the messages themselves hold."""
        messages = sample.get("messages") or sample.get("conversations")
        if not isinstance(messages, (list, tuple)):
            raise ValueError(f"'messages' or 'conversations' must be a list of turns, but got {messages!r}.")
        held: list[Any] = []
        turns = [self._turn(message, held) for message in messages]
        if not any(role == "assistant" for role, _ in turns):
            raise ValueError("it has no assistant turn, so that there is nothing to learn.")
        if turns[0][0] != "system":
            turns.insert(0, ("system", SYSTEM_PROMPT))
        placed = sum(text.count(VISION_BLOCK) for _, text in turns)
        if placed == 0 and num_images:
            turns[1] = (turns[1][0], VISION_BLOCK * num_images + turns[1][1])
        elif placed != (num_images or len(held)):
            raise ValueError(f"it has {num_images or len(held)} images, but its messages place {placed}.")
        return turns, held

    @staticmethod
    def _turn(message: Any, held: list[Any]) -> tuple[str, str]:
        """Role and text of a message, in the words of transformers or of LLaVA; pictures as vision blocks. A picture
        that a part of the message holds is added to `held`."""
        fields = message if isinstance(message, Mapping) else {}
        role, content = fields.get("role", fields.get("from")), fields.get("content", fields.get("value"))
        role = ROLES.get(role, role)
        if role not in ("system", "user", "assistant") or not isinstance(content, (str, list, tuple)):
            raise ValueError(f"it has a message that is no turn of a conversation: {message!r}.")
        if isinstance(content, str):
            return role, insert_images(content)
        texts = []
        for part in content:
            if part.get("type", "text") == "text" and isinstance(part.get("text"), str):
                texts.append(insert_images(part["text"]))
            elif part.get("type") == "image":
                texts.append(VISION_BLOCK)
                held += [part[name] for name in PICTURE_KEYS if part.get(name) is not None][:1]
            else:
                raise ValueError(f"it has a message part that is neither text nor image: {part!r}.")
        return role, "".join(texts)

    def _expand(self, text: str, images: Any) -> str:
        """Gives each vision block as many placeholders as the vision tower makes of its picture."""
        parts = text.split(VISION_BLOCK)
        expanded = parts[0]
        for part in parts[1:]:
            expanded += self.processor.vision_block(next(images)) + part
        return expanded

    # ------------------------------------------------------------------ pixels

    def _pixels(self, rows: Sequence[EncodedSample]) -> dict[str, torch.Tensor]:
        image_processor = self.processor.image_processor
        batch: dict[str, torch.Tensor] = {}
        seen = [image for row in rows for image in row.seen]
        if seen:
            batch.update(image_processor(seen, return_tensors="pt"))
        for name in ("source", "target"):
            chosen = [row for row in rows if getattr(row, name) is not None]
            if chosen:
                pixels, grid = image_processor.preprocess_cells(
                    [getattr(row, name) for row in chosen], [row.size for row in chosen]
                )
                batch[f"{name}_pixel_values"] = torch.from_numpy(pixels)
                batch[f"{name}_grid"] = torch.from_numpy(grid)
        masks = [row.source_mask for row in rows if row.source_mask is not None]
        if masks:
            batch["source_mask"] = torch.nn.utils.rnn.pad_sequence(masks, batch_first=True)
        return batch


__all__ = ["WallarooDataCollator"]
