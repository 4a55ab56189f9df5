# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The parts of a checkpoint, by the names of its weights."""

from collections.abc import Iterable, Sequence
from math import prod

from ..configuration_wallaroo import MLP_NAMES

# Beginning of a weight's name -> the part it belongs to; the first that fits.
PARTS: tuple[tuple[str, str], ...] = (
    ("model.visual.", "vision tower"),
    ("model.language_model.", "language model"),
    ("lm_head.", "text head"),
    ("model.vq_model.", "VQ tokenizer"),
    *((f"model.{name}.", name.replace("_", " ")) for name in MLP_NAMES if name.endswith("adapter")),
    *((f"{name}.", name.replace("_", " ")) for name in MLP_NAMES if name.endswith("head")),
    ("", "other weights"),
)


def count_parameters(shapes: Iterable[tuple[str, Sequence[int]]]) -> dict[str, int]:
    """Numbers in each part that has any, in the order of `PARTS`, from the names and shapes of weights."""
    counts: dict[str, int] = {}
    for name, shape in shapes:
        part = next(part for beginning, part in PARTS if name.startswith(beginning))
        counts[part] = counts.get(part, 0) + prod(shape)
    return {part: counts[part] for _, part in PARTS if counts.get(part)}


__all__ = ["PARTS", "count_parameters"]
