# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Texts and images while they are made: words, finished rows, and a way to stop."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from transformers import StoppingCriteria, TextIteratorStreamer
from transformers.generation.streamers import BaseStreamer

from ..prompts_wallaroo import MARKS, VISION_START

# What the text head writes before a picture; special or ordinary tokens, as the tokenizer has them.
MARKS_AND_STARTS = (*MARKS, VISION_START)


class Stopped(Exception):
    """Raised out of a call that was told to stop."""


class StopWhen(StoppingCriteria):
    """Ends the text that is written where `stop()` says so."""

    def __init__(self, stop: Callable[[], bool]):
        self.stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ARG002
        return torch.full((len(input_ids),), self.stop(), dtype=torch.bool, device=input_ids.device)


class AnswerStreamer(TextIteratorStreamer):
    """The words of an answer, without the marks of the pictures in it."""

    def put(self, value: torch.Tensor) -> None:
        if not self.next_tokens_are_prompt and self.tokenizer.decode(value.flatten()) in MARKS_AND_STARTS:
            return
        super().put(value)


class ImageStreamer(BaseStreamer):
    """Takes the codes of images from `generate(streamer=...)` and tells of their progress.

    Args:
        grids: (grid_height, grid_width) of each image, in cells.
        text_vocab_size: of the config; ids from there on are codes.
        on_code: gets the number of codes that are known of every image, and how many the largest has in all.
        on_rows: gets the streamer at each code that ends a row of some image; `picture` shows what is there.
        stop: asked at each code; where it says yes, `generate` ends in [`Stopped`].
    """

    def __init__(
        self,
        grids: Sequence[tuple[int, int]],
        text_vocab_size: int,
        *,
        on_code: Callable[[int, int], None] | None = None,
        on_rows: Callable[["ImageStreamer"], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ):
        self.grids, self.text_vocab_size = list(grids), text_vocab_size
        self.on_code, self.on_rows, self.stop = on_code, on_rows, stop
        self.total = max(height * width for height, width in grids)
        self.codes: list[torch.Tensor] = []

    def put(self, value: torch.Tensor) -> None:
        """Takes the ids of a code an image, or of row ends, which are no codes."""
        if self.stop is not None and self.stop():
            raise Stopped
        if bool((value < self.text_vocab_size).any()):
            return
        self.codes.append(value - self.text_vocab_size)
        known = len(self.codes)
        if self.on_code is not None:
            self.on_code(known, self.total)
        if self.on_rows is not None and any(
            known % width == 0 and known <= height * width for height, width in self.grids
        ):
            self.on_rows(self)

    def end(self) -> None:
        """Nothing: the whole images come from `generate`."""

    def rows(self, index: int) -> int:
        """Finished rows of an image."""
        height, width = self.grids[index]
        return min(len(self.codes) // width, height)

    @torch.no_grad()
    def picture(self, model: Any, processor: Any, index: int) -> Image.Image | None:
        """The finished rows of an image, on a grey picture of its size; `None` before there are any.

        They are decoded without the rows that are to come, which the last of them will look a little different with.
        """
        rows = self.rows(index)
        if rows == 0:
            return None
        height, width = self.grids[index]
        known = torch.stack(self.codes[: rows * width])[:, index].view(1, rows, width).to(model.device)
        [done] = processor.image_processor.postprocess(model.model.vq_model.decode(known))
        picture = Image.new("RGB", (done.width, done.height // rows * height), (128, 128, 128))
        picture.paste(done, (0, 0))
        return picture


__all__ = ["AnswerStreamer", "ImageStreamer", "StopWhen", "Stopped"]
