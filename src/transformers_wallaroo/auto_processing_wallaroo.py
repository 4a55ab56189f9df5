# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The processor's part of `task="auto"`: the prompts of all that the model may choose, and its answers read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor

from .conversations_wallaroo import PICTURE_OPTIONS, AutoRequest
from .image_grid_wallaroo import AUTO, EDIT, GENERATE


class AutoPrompts(Qwen2_5_VLProcessor):
    """Methods of `WallarooProcessor`, which has the rest of what they use."""

    row_ends: bool
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
        data = self.prepare_answers(requests, return_tensors=return_tensors, **kwargs)
        edits = [index for index, request in enumerate(requests) if request.pictures]
        for task, rows in ((GENERATE, range(len(requests))), (EDIT, edits)):
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
        noted = {"task_ids": np.full(len(requests), AUTO.index), "edit_prompts": np.array(edits, dtype=np.int64)}
        data.update(BatchFeature(noted, tensor_type=return_tensors))
        data["requests"] = list(requests)
        return data

    def prepare_answers(
        self, requests: Sequence[AutoRequest], *, return_tensors: str | None = "pt", **kwargs: Any
    ) -> BatchFeature:
        """The inputs of `generate` for the texts of the answers alone."""
        rendered = []
        for request in requests:
            turns, answer = request.turns()
            text = super().apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            rendered.append(text + (answer or ""))
        pictures = [request.pictures for request in requests]
        return self._understand(pictures if any(pictures) else None, rendered, None, return_tensors, kwargs)

    def _auto_template(self, conversation, kwargs) -> BatchFeature:
        if not kwargs.pop("tokenize", True):
            raise ValueError("`tokenize` must be True for the task 'auto': its prompts are more than text.")
        for name in ("add_generation_prompt", "continue_final_message", "return_dict", "processor_kwargs"):
            kwargs.pop(name, None)
        self._refuse_for_auto(
            **{name: kwargs.pop(name, None) for name in ("template", "layout", "region_mask", "original_size")}
        )
        options = {name: kwargs.pop(name, None) for name in PICTURE_OPTIONS}
        batched = bool(conversation) and isinstance(conversation[0], (list, tuple))
        return self._auto(
            conversation if batched else [conversation], options, kwargs.pop("return_tensors", None), kwargs
        )

    def post_process_auto(self, outputs: Any) -> list[list[str | Image.Image]]:
        """The answers of `generate(task="auto")`, each a list of texts and pictures in their order."""
        return [[self.read_part(part) for part in answer] for answer in outputs["answers"]]

    def read_part(self, part: Any) -> str | Image.Image:
        """Text or picture of a part of an answer, see `AnswerPart`."""
        if part.pixel_values is not None:
            return self.image_processor.postprocess([part.pixel_values])[0]
        return self.tokenizer.decode(part.ids, skip_special_tokens=True).strip()


__all__ = ["AutoPrompts"]
