# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Samples as the VQ tokenizer needs them to make cached codes: read, sized and cropped, in workers if wished."""

import copy
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers.utils import logging

from ..image_processing_wallaroo import BROKEN
from ..processing_wallaroo import WallarooProcessor
from .collator import DroppedSample, WallarooDataCollator
from .mixture import with_one_prompt

logger = logging.get_logger(__name__)

# Fields of a sample that have columns of their own, or that the codes stand for.
OWN_FIELDS = ("task", "prompt", "height", "width", "image", "source_image", "dropped")
NO_LIMIT = 2**62  # tokens


@dataclass(frozen=True)
class PreparedSample:
    """What the encoder needs of a sample.

    Attributes:
        index: in the data set.
        prompt, fields: its text, and its other plain fields.
        size: (height, width) in pixels.
        pixels: float32 `(1 or 2, 3, height, width)` in [-1, 1]: the image, and the source of an edit.
        source: the whole source picture as PNG.
    """

    index: int
    prompt: str
    fields: dict[str, Any]
    size: tuple[int, int]
    pixels: torch.Tensor
    source: bytes | None


@dataclass(frozen=True)
class LeftOutSample:
    """A sample that is not encoded; `reason` is one of the collator's `DROP_REASONS`, or `None` if it failed."""

    index: int
    reason: str | None
    message: str


class SamplesToEncode(Dataset):
    """The samples of a data set, made ready; see `encode_dataset` for the arguments.

    Args:
        task: name of the task that all samples must have.
        skip: whether a sample that fails is a `LeftOutSample`; else it raises.
    """

    def __init__(
        self,
        dataset: Any,
        task: str,
        processor: WallarooProcessor,
        *,
        min_side: int,
        max_ratio: float | None,
        skip: bool,
    ):
        processor = copy.copy(processor)
        # Nothing is too long here: lengths are counted in training, where templates and limits are known.
        processor.max_length = NO_LIMIT
        self.collator = WallarooDataCollator(
            processor, mask_ratio=0, unconditional_probability=0, min_side=min_side, max_ratio=max_ratio
        )
        self.dataset = dataset
        self.task = task
        self.skip = skip

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> PreparedSample | LeftOutSample:
        try:
            return self._prepare(index)
        except DroppedSample as error:
            return LeftOutSample(index, error.reason, str(error))
        except BROKEN as error:
            message = str(error) if str(error).startswith("Sample ") else f"Sample {index}: {error}"
            if not self.skip:
                raise ValueError(message) from error
            return LeftOutSample(index, None, message)

    def _prepare(self, index: int) -> PreparedSample:
        sample = self.dataset[index]
        if isinstance(sample, Mapping):
            sample = with_one_prompt(dict(sample), index)
        task = sample.get("task") if isinstance(sample, Mapping) else None
        if task != self.task:
            raise ValueError(
                f"its task is {task!r}, but that of sample 0 is {self.task!r}: encode each task by itself."
            )
        if sample.get("codes") is not None:
            raise ValueError("it has `codes` already.")
        # The collator settles the size; a seed keeps its choice of a template away from torch's global state.
        encoded = self.collator.encode({**sample, "seed": 0}, index)
        assert encoded.size is not None and encoded.target is not None
        pictures = [encoded.target] if encoded.source is None else [encoded.target, encoded.source]
        pixels, _ = self.collator.processor.image_processor.preprocess_cells(pictures, [encoded.size] * len(pictures))
        return PreparedSample(
            index, sample["prompt"], plain_fields(sample), encoded.size, torch.from_numpy(pixels), _png(encoded.source)
        )


def plain_fields(sample: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a sample that JSON can hold and that are not kept elsewhere; arrays become lists."""
    kept, left = {}, []
    for name, value in sample.items():
        if name in OWN_FIELDS or value is None:
            continue
        value = value.tolist() if isinstance(value, (np.ndarray, np.generic, torch.Tensor)) else value
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            left.append(name)
        else:
            kept[name] = value
    if left:
        logger.warning_once(f"These fields are no plain values and are not kept with the codes: {', '.join(left)}.")
    return kept


def _png(picture: Image.Image | None) -> bytes | None:
    if picture is None:
        return None
    file = io.BytesIO()
    picture.save(file, format="png")
    return file.getvalue()
