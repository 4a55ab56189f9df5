# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`pipeline("any-to-any")` for Wallaroo: transformers' own, without its need of torchvision."""

from typing import Any

from transformers.pipelines.any_to_any import AnyToAnyPipeline, Chat
from transformers.pipelines.base import Pipeline
from transformers.utils import ModelOutput

from .image_grid_wallaroo import AUTO, EDIT, GENERATE


class WallarooPipeline(AnyToAnyPipeline):
    """Text with `generation_mode="text"` (the default), pictures with `generation_mode="image"`, and with `task="auto"`
    whatever the model chooses: a list of texts and pictures as `"generated_parts"`.

    With `"image"` the input is an instruction: with a picture the task is `"edit"`, else `"generate"`. `height`,
    `width`, `aspect_ratio`, `template`, `negative_prompt`, `layout`, `region_mask` and `original_size` go to the
    processor; what `model.generate` takes (`seed`, `guidance_scale`, ...) goes into `generate_kwargs`.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        # Past AnyToAnyPipeline's own __init__, whose only business is to ask for torchvision.
        Pipeline.__init__(self, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any):
        if kwargs.get("task") == AUTO.name and (kwargs.get("batch_size") or self._batch_size or 1) > 1:
            raise ValueError("`batch_size` must be 1 for the task 'auto'; `model.generate` takes batches of it.")
        return super().__call__(*args, **kwargs)

    def _sanitize_parameters(self, generation_mode: str | None = None, **kwargs: Any):
        preprocess, forward, postprocess = super()._sanitize_parameters(generation_mode=generation_mode, **kwargs)
        if generation_mode is not None:
            preprocess["generation_mode"] = generation_mode
        if kwargs.get("task") == AUTO.name and generation_mode is not None:
            raise ValueError(f"`generation_mode` is {generation_mode!r}, but the task 'auto' chooses by itself.")
        return preprocess, forward, postprocess

    def preprocess(self, inputs=None, generation_mode: str | None = None, **kwargs: Any):
        if generation_mode == "image":
            options = kwargs.pop("processor_kwargs", None) or {}
            passed = {
                name: kwargs.pop(name) for name in list(kwargs) if name not in ("timeout", "continue_final_message")
            }
            options = {"task": (EDIT if self._has_picture(inputs) else GENERATE).name, **passed, **options}
            kwargs["processor_kwargs"] = options
        return super().preprocess(inputs, **kwargs)

    def _forward(self, model_inputs, generate_kwargs=None):
        if "edit_prompts" in model_inputs:  # of the task "auto": an answer may go on after a picture
            generate_kwargs = {"processor": self.processor, **(generate_kwargs or {})}
        sizes = model_inputs.get("original_sizes")
        outputs = super()._forward(model_inputs, generate_kwargs)
        return outputs if sizes is None else {**outputs, "original_sizes": sizes}

    def postprocess(self, model_outputs, **kwargs: Any):
        generated = model_outputs["generated_sequence"]
        # A `WallarooAutoOutput`, whose class does not outlast the way here.
        if isinstance(generated, ModelOutput) and "answers" in generated:
            given = model_outputs["prompt_text"]
            texts = [given] if isinstance(given, (str, Chat)) else given
            return [
                {"input_text": text.messages if isinstance(text, Chat) else text, "generated_parts": parts}
                for text, parts in zip(texts, self.processor.post_process_auto(generated), strict=True)
            ]
        sizes = model_outputs.get("original_sizes")
        return super().postprocess(model_outputs, **kwargs, **({} if sizes is None else {"sizes": sizes}))

    @staticmethod
    def _has_picture(inputs: Any) -> bool:
        messages = getattr(inputs, "messages", None)
        if messages is None:
            return isinstance(inputs, dict) and bool(inputs.get("images"))
        return any(
            part.get("type") == "image"
            for message in messages
            if not isinstance(message["content"], str)
            for part in message["content"]
        )


__all__ = ["WallarooPipeline"]
