# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Filters, and the limit within which samples that are broken are left out."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from transformers.utils import logging

from ...conversations_wallaroo import PICTURE_KEYS
from ...prompts_wallaroo import check_prompt
from ..conversations import turns_of
from ..recipes import check_keys
from .drops import FAULTS, DroppedSample
from .pictures import decode_picture, open_picture
from .rows import field as field_of

logger = logging.get_logger(__name__)

# Share of the samples that may be broken, where the recipe does not say; and how many may be in any case. The count is
# compared after each fault, so that it may also be some standard deviations above that share by chance.
MAX_DROPPED = 0.01
ALWAYS_ALLOWED = 10
DEVIATIONS = 4
# Broken samples of a source that each process names; the others it only counts.
NAMED = 5
BOUNDS = ("min", "max", "match")


@dataclass
class Filters:
    """Which samples of a source are wanted; sizes are of every picture of a sample, texts of all that it says.

    Attributes:
        min_width, min_height, max_width, max_height: in pixels.
        max_ratio: longest side over shortest.
        min_text, max_text: in characters.
        match, exclude: regular expressions, of which the first must and the second must not be found in the text.
        where: column of the published row -> the value it must have, a list of such values, or bounds:
            `{min: 4.5}`, `{max: 60}`, `{match: "^coco/"}`.
    """

    min_width: int = 0
    min_height: int = 0
    max_width: int | None = None
    max_height: int | None = None
    max_ratio: float | None = None
    min_text: int = 0
    max_text: int | None = None
    match: str | None = None
    exclude: str | None = None
    where: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        patterns = {"match": self.match, "exclude": self.exclude}
        for column, wanted in self.where.items():
            if not isinstance(wanted, Mapping):
                continue
            unknown = sorted(set(wanted) - set(BOUNDS))
            if unknown or not wanted:
                raise ValueError(f"`where` of {column!r} may have {', '.join(BOUNDS)}, but has {unknown or 'none'}.")
            patterns[f"where.{column}.match"] = wanted.get("match")
        for name, pattern in patterns.items():
            try:
                re.compile(pattern or "")
            except (re.error, TypeError) as error:
                raise ValueError(f"`{name}` must be a regular expression, but {pattern!r} is none: {error}.") from error

    @classmethod
    def from_dict(cls, values: Any) -> "Filters":
        if not isinstance(values, Mapping):
            raise ValueError(f"`filters` must be a mapping, but is {values!r}.")
        check_keys(cls, values, "`filters`")
        return cls(**values)

    def check_row(self, row: Mapping[str, Any], place: str) -> None:
        for column, wanted in self.where.items():
            # A column with nothing in it does not have the value; one that is not there is named.
            if not _fits(row[column] if column in row else field_of(row, column, place), wanted):
                raise DroppedSample("filtered", f"{place}: {column!r} is {str(row[column])[:60]!r}.")

    def check_text(self, text: str, place: str) -> None:
        if len(text) < self.min_text or (self.max_text is not None and len(text) > self.max_text):
            raise DroppedSample("filtered", f"{place}: its text has {len(text)} characters.")
        if self.match is not None and not re.search(self.match, text):
            raise DroppedSample("filtered", f"{place}: its text has no {self.match!r}.")
        if self.exclude is not None and re.search(self.exclude, text):
            raise DroppedSample("filtered", f"{place}: its text has {self.exclude!r}.")

    def check_size(self, width: int, height: int, place: str) -> None:
        small = width < self.min_width or height < self.min_height
        large = width > (self.max_width or width) or height > (self.max_height or height)
        if small or large:
            raise DroppedSample("filtered", f"{place}: a picture has {width} x {height} pixels.")
        ratio = max(width, height) / min(width, height)
        if self.max_ratio is not None and ratio > self.max_ratio:
            raise DroppedSample("filtered", f"{place}: the sides of a picture have the ratio {ratio:.2f}.")


def _fits(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        above = "min" not in wanted or (isinstance(value, (int, float)) and value >= wanted["min"])
        below = "max" not in wanted or (isinstance(value, (int, float)) and value <= wanted["max"])
        return above and below and re.search(wanted.get("match") or "", "" if value is None else str(value)) is not None
    return value in wanted if isinstance(wanted, list) else value == wanted


class ScreenedDataset(Sequence[dict[str, Any]]):
    """The samples of a source with their pictures decoded, without those that its filters or their faults exclude.

    Asking for such a sample raises `DroppedSample`, which `MixtureDataset` counts and passes over. Where more than
    `max_dropped` of the samples that this process or worker has read so far have a fault of `FAULTS`, and more than
    chance and a few explain, a `ValueError` says so.

    Args:
        source: samples by index, which raise `DroppedSample` where they cannot be had.
        name: of the source, for messages.
        max_dropped: share in [0, 1].
    """

    def __init__(self, source: Any, name: str, *, filters: Filters | None = None, max_dropped: float = MAX_DROPPED):
        if isinstance(max_dropped, bool) or not isinstance(max_dropped, (int, float)) or not 0 <= max_dropped <= 1:
            raise ValueError(f"`max_dropped` must be a share in [0, 1], but got {max_dropped!r}.")
        self.source = source
        self.name = name
        self.filters = filters or Filters()
        self.max_dropped = max_dropped
        self.named = NAMED
        self.read = 0
        self.faults: Counter[str] = Counter()
        if self.filters.where and not hasattr(source, "row"):
            raise ValueError(f"`filters` of {name!r}: `where` needs columns, which this layout does not have.")

    def __len__(self) -> int:
        return len(self.source)

    def __getattr__(self, name: str) -> Any:
        # Lengths, where the source knows them.
        if name == "length_of" and "source" in self.__dict__:
            return getattr(self.source, name)
        raise AttributeError(name)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        self.read += 1
        try:
            return self._screened(index)
        except DroppedSample as error:
            if error.reason in FAULTS:
                self._count(error)
            raise

    def name_of(self, index: int) -> str:
        """Where the sample is from: file and row, where the source knows."""
        return self.source.name_of(index) if hasattr(self.source, "name_of") else f"{self.name}[{index}]"

    def _screened(self, index: int) -> dict[str, Any]:
        place = self.name_of(index)
        if self.filters.where:
            self.filters.check_row(self.source.row(index), place)
        sample = dict(self.source[index])
        text = text_of(sample)
        _check_fields(sample, place)
        self.filters.check_text(text, place)
        return self._with_pictures(sample, place)

    def _with_pictures(self, sample: dict[str, Any], place: str) -> dict[str, Any]:
        """The sample with decoded pictures: all are opened and judged before any is decoded."""
        opened: list[Image.Image] = []

        def look(picture: Any) -> int:
            image = open_picture(picture, place)
            self.filters.check_size(image.width, image.height, place)
            opened.append(image)
            return len(opened) - 1

        placed = map_pictures(sample, look)
        decoded = [decode_picture(image, place) for image in opened]
        return map_pictures(placed, lambda number: decoded[number])

    def _count(self, error: DroppedSample) -> None:
        self.faults[error.reason] += 1
        faults = sum(self.faults.values())
        if faults <= self.named:
            more = " More of them are only counted." if faults == self.named else ""
            logger.warning(f"{self.name}: a sample is left out ({error.reason}). {error}{more}")
        expected = self.max_dropped * self.read
        if faults > expected + DEVIATIONS * math.sqrt(expected) + ALWAYS_ALLOWED:
            counts = ", ".join(f"{count} {reason}" for reason, count in self.faults.most_common())
            raise ValueError(
                f"{self.name}: {faults} of the {self.read} samples read have a fault ({counts}), more than "
                f"`max_dropped` {self.max_dropped:g} allows. The last one: {error} Look at them with `wallaroo data "
                "check`, or allow more."
            ) from error


def map_pictures(sample: Mapping[str, Any], change: Any) -> dict[str, Any]:
    """The sample with each of its pictures changed, also those in parts of its messages."""
    made = dict(sample)
    for name in ("source_image", "image", "images"):
        value = made.get(name)
        if isinstance(value, (list, tuple)):
            made[name] = [change(picture) for picture in value]
        elif value is not None:
            made[name] = change(value)
    for name in ("messages", "conversations"):
        if isinstance(made.get(name), (list, tuple)):
            made[name] = [_map_message(message, change) for message in made[name]]
    return made


def _map_message(message: Any, change: Any) -> Any:
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, (list, tuple)):
        return message
    return {**message, "content": [_map_part(part, change) for part in content]}


def _map_part(part: Any, change: Any) -> Any:
    if not isinstance(part, Mapping) or part.get("type") != "image":
        return part
    name = next((name for name in PICTURE_KEYS if part.get(name) is not None), None)
    return part if name is None else {"type": "image", "image": change(part[name])}


def text_of(sample: Mapping[str, Any]) -> str:
    """All that a sample says: its prompt (the first of several), or its turns, one a line."""
    prompt = sample.get("prompt")
    if prompt is not None:
        return str(prompt[0]) if isinstance(prompt, (list, tuple)) and prompt else str(prompt)
    said = []
    messages = sample.get("messages") or sample.get("conversations")
    for message in messages if isinstance(messages, (list, tuple)) else []:
        content = message.get("content", message.get("value")) if isinstance(message, Mapping) else message
        parts = content if isinstance(content, (list, tuple)) else [content]
        said += [str(part.get("text", "")) if isinstance(part, Mapping) else str(part) for part in parts]
    return "\n".join(said)


def _check_fields(sample: Mapping[str, Any], place: str) -> None:
    """Leaves a sample out whose fields hold nothing, or something else than the collator takes. One that lacks a field
    altogether is another layout, which the collator tells of."""
    if sample["task"] == "understand":
        _check_messages(sample, place)
        return
    _check_prompts(sample, place)
    for name in ("image", "source_image"):
        value = sample.get(name)
        is_empty = name in sample and value is None and "codes" not in sample
        needed = name == "image" or sample["task"] == "edit"  # one table may hold both tasks
        if isinstance(value, (list, tuple)) or (is_empty and needed):
            raise DroppedSample("mismatch", f"{place}: {name!r} must be one picture, but is {str(value)[:60]!r}.")
    for name in ("height", "width"):
        value = sample.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise DroppedSample("mismatch", f"{place}: {name!r} must be pixels, a whole number, but is {value!r}.")


def _check_messages(sample: Mapping[str, Any], place: str) -> None:
    if not any(name in sample for name in ("messages", "conversations")):
        return
    images = sample.get("images", sample.get("image"))
    images = [] if images is None else images if isinstance(images, (list, tuple)) else [images]
    try:
        turns_of(sample, len(images))
    except ValueError as error:
        raise DroppedSample("mismatch", f"{place}: {error}") from error


def _check_prompts(sample: Mapping[str, Any], place: str) -> None:
    if "prompt" not in sample:
        return
    prompt = sample["prompt"]
    for one in prompt if isinstance(prompt, (list, tuple)) and prompt else [prompt]:
        if isinstance(one, str) and not one.strip():
            raise DroppedSample("mismatch", f"{place} has an empty prompt.")
        try:
            check_prompt(one, "prompt")
        except ValueError as error:
            raise DroppedSample("mismatch", f"{place}: {error}") from error


__all__ = ["Filters", "ScreenedDataset", "map_pictures", "text_of"]
