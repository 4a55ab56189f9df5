# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The processor's part of `task="auto"`: the prompts of all that the model may choose, and its answers read."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor

from .conversations_wallaroo import PICTURE_OPTIONS, AutoRequest
from .image_grid_wallaroo import AUTO, EDIT, GENERATE, ImageTask
from .prompts_wallaroo import RESERVED, TooLongError

# What pipelines and chat templates add to every call; image prompts are always padded, and never truncated.
PASSED_OVER = ("add_special_tokens", "padding", "padding_side", "return_mm_token_type_ids", "truncation")


def refuse_unknown(task: str, given: Mapping[str, Any]) -> None:
    """Raises for arguments that a task does not take."""
    unknown = [name for name, value in given.items() if value is not None and name not in PASSED_OVER]
    if unknown:
        raise ValueError(f"The task {task!r} takes no {', '.join(f'`{name}`' for name in unknown)}.")


class AutoPrompts(Qwen2_5_VLProcessor):
    """Methods of `WallarooProcessor`, which has the rest of what they use."""

    row_ends: bool
    image_requests: Any
    encode_prompt: Any
    _one_a_prompt: Any
    _understand: Any

    @staticmethod
    def _refuse_for_auto(**given: Any) -> None:
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"`{name}` is not for the task 'auto': ask for the task that it belongs to by name.")

    def _auto(self, conversations, options, return_tensors, kwargs) -> BatchFeature:
        """The inputs of conversations that wait for an answer; `options` are those of its pictures."""
        count = len(conversations)
        columns = {name: self._one_a_prompt(name, value, count) for name, value in options.items()}
        requests = [
            AutoRequest.of(conversation, {name: values[index] for name, values in columns.items()})
            for index, conversation in enumerate(conversations)
        ]
        return self.prepare_auto(requests, return_tensors=return_tensors, **kwargs)

    def prepare_auto(
        self, requests: Sequence[AutoRequest], *, return_tensors: str | None = "pt", **kwargs: Any
    ) -> BatchFeature:
        """The inputs of `generate` for some requests; see `__call__` with `task="auto"`."""
        if not self.row_ends:
            raise ValueError(
                "The task 'auto' needs a checkpoint that draws and edits (stage 3b or later), but this one makes "
                "squares only (`row_ends=False`). Name the task."
            )
        refuse_unknown(AUTO.name, kwargs)
        data = self.prepare_answers(requests, return_tensors=return_tensors)
        noted: dict[str, Any] = {
            "task_ids": np.full(len(requests), AUTO.index),
            "has_picture": np.array([bool(request.pictures) for request in requests]),
        }
        for task in (GENERATE, EDIT):
            rows = [index for index, request in enumerate(requests) if self.can_make(request, task)]
            noted[f"{task.name}_prompts"] = np.array(rows, dtype=np.int64)
            chosen = [requests[index] for index in rows]
            if not chosen:
                continue
            options: dict[str, Any] = {name: [each.options.get(name) for each in chosen] for name in PICTURE_OPTIONS}
            inputs = self(
                text=[request.prompt for request in chosen],
                images=[[request.pictures[-1]] for request in chosen] if task.has_source else None,
                task=task.name,
                return_tensors=return_tensors,
                **options,
            )
            inputs.pop("task_ids")
            data.update({f"{task.name}_{name}": value for name, value in inputs.items()})
        data.update(BatchFeature(noted, tensor_type=return_tensors))
        data["requests"] = list(requests)
        return data

    def can_make(self, request: AutoRequest, task: ImageTask) -> bool:
        """Whether what the user said last can be the prompt of a picture: not of an edit without one to change, nor
        where it holds special tokens or is too long, which a question may. Whatever else is wrong raises."""
        if not self.row_ends or (task.has_source and not request.pictures):
            return False
        if any(token in request.prompt for token in RESERVED):
            return False
        source = [request.pictures[-1:]] if task.has_source else None
        options = {name: request.options.get(name) for name in PICTURE_OPTIONS if name != "negative_prompt"}
        try:
            [wanted] = self.image_requests(task, [request.prompt], source, **options)
            self.encode_prompt(wanted, request.prompt)
        except TooLongError:
            return False
        return True

    def prepare_answers(self, requests: Sequence[AutoRequest], *, return_tensors: str | None = "pt") -> BatchFeature:
        """The inputs of `generate` for the texts of the answers alone."""
        rendered = []
        for request in requests:
            turns, answer = request.turns()
            text = super().apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            rendered.append(text + (answer or ""))
        pictures = [request.pictures for request in requests]
        return self._understand(pictures if any(pictures) else None, rendered, None, return_tensors, {})

    def _auto_template(self, conversations, kwargs) -> BatchFeature:
        self._refuse_for_auto(
            **{
                name: kwargs.pop(name, None)
                for name in ("chat_template", "template", "layout", "region_mask", "original_size")
            }
        )
        options = {name: kwargs.pop(name, None) for name in PICTURE_OPTIONS}
        return self._auto(conversations, options, kwargs.pop("return_tensors", None), kwargs)

    def post_process_auto(self, outputs: Any) -> list[list[str | Image.Image]]:
        """The answers of `generate(task="auto")`, each a list of texts and pictures in their order."""
        return [[self.read_part(part) for part in answer] for answer in outputs["answers"]]

    def read_part(self, part: Any) -> str | Image.Image:
        """Text or picture of a part of an answer, see `AnswerPart`."""
        if part.pixel_values is not None:
            return self.image_processor.postprocess([part.pixel_values])[0]
        return self.tokenizer.decode(part.ids, skip_special_tokens=True).strip()


__all__ = ["AutoPrompts", "refuse_unknown"]
