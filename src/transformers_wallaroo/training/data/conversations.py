# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Questions and answers as published: LLaVA's conversations with and without pictures, and multiple choice."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from ...prompts_wallaroo import IMAGE_PLACEHOLDER
from ..conversations import ROLES
from .drops import DroppedSample
from .layouts import RowSamples, tasks_only
from .pictures import PictureFinder
from .rows import JsonRows, field, first_field, open_rows
from .videos import read_frames

IMAGE, VIDEO = IMAGE_PLACEHOLDER, "<video>"
PICTURES, VIDEOS = ("image", "images"), ("video", "videos")
SPEAKERS = ("system", "user", "assistant")


class Llava(RowSamples):
    """LLaVA's layout: `id`, `image` and `conversations` of `{"from", "value"}`, with `<image>` where a picture stands.

    Several pictures (`image` or `images` a list), none, and videos (`video`, of which `frames` are taken, evenly
    spread, each a picture) are taken. Without any mark the pictures come first.

    Args:
        path: JSON, JSON lines or Parquet, see `open_rows`.
        images: where the paths of pictures and videos start, see `PictureFinder`.
        frames: pictures that a video becomes.
    """

    def __init__(self, task: str, path: Any, *, images: Any = None, frames: int = 8, cache_dir: str | None = None):
        tasks_only("llava", task, "understand")
        if frames < 1:
            raise ValueError(f"`frames` must be 1 or more, but got {frames!r}.")
        super().__init__(open_rows(path, cache_dir=cache_dir))
        self.finder = PictureFinder(images)
        self.frames = frames
        first_field(self.rows, ("conversations", "messages"))

    def length_of(self, index: int) -> int:
        """About how many tokens the text has."""
        return self.rows.length_of(index) // 4 if isinstance(self.rows, JsonRows) else 0

    def sample(self, row: Mapping[str, Any], index: int) -> dict[str, Any]:
        place = self.name_of(index)
        turns = field(row, ("conversations", "messages"), place, list)
        messages = [_message(turn, place) for turn in turns]
        if not any(role == "assistant" for role, _ in messages):
            raise DroppedSample("mismatch", f"{place} has no answer to learn.")
        images = [self.finder.find(picture, place) for picture in _listed(row, PICTURES)]
        videos = [self.finder.find(video, place) for video in _listed(row, VIDEOS)]
        text = "".join(content for _, content in messages)
        if videos:
            # LLaVA-Video has <image> where its one video stands.
            mark = VIDEO if VIDEO in text else IMAGE
            if images or len(videos) > 1:
                raise DroppedSample("unsupported", f"{place} has more than one video, or a video beside pictures.")
            images = read_frames(videos[0], self.frames, place)
            if text.count(mark) > 1:
                raise DroppedSample("mismatch", f"{place} has one video, but {text.count(mark)} marks for it.")
            messages = [(role, content.replace(mark, IMAGE * len(images))) for role, content in messages]
        self._check_marks(row, place, sum(content.count(IMAGE) for _, content in messages), len(images))
        made = {"task": "understand", "messages": [{"role": role, "content": text} for role, text in messages]}
        return {**made, "images": images} if images else made

    @staticmethod
    def _check_marks(row: Mapping[str, Any], place: str, marks: int, pictures: int) -> None:
        if marks == pictures or not marks:
            return
        known = (*PICTURES, *VIDEOS)
        # A text may speak of "<image>", but a row with a field of nearly that name is of another layout.
        if not any(name in row for name in known) and any(difflib.get_close_matches(name, row, n=1) for name in known):
            field(row, PICTURES, place)
        raise DroppedSample("mismatch", f"{place} has {pictures} pictures, but {marks} marks for them.")


def _listed(row: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """What the row has in the first of the columns that is not empty, as a list."""
    value = next((row[name] for name in names if row.get(name)), None)
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def _message(turn: Any, place: str) -> tuple[str, str]:
    turn = turn if isinstance(turn, Mapping) else {}
    role, content = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    role = ROLES.get(role, role) if isinstance(role, str) else None
    if role not in SPEAKERS or not isinstance(content, str):
        raise DroppedSample("mismatch", f"{place} has a turn that is none: {str(turn)[:80]}.")
    return role, content


class CommonsenseQA(RowSamples):
    """commonsense_qa: `question`, `choices` with `label` and `text`, and `answerKey`. The answer is the letter."""

    def __init__(self, task: str, path: Any, *, cache_dir: str | None = None):
        tasks_only("commonsense_qa", task, "understand")
        super().__init__(open_rows(path, cache_dir=cache_dir))

    def sample(self, row: Mapping[str, Any], index: int) -> dict[str, Any]:
        place = self.name_of(index)
        question, choices = field(row, "question", place, str), field(row, "choices", place)
        if row.get("answerKey") == "":
            raise DroppedSample("unsupported", f"{place} has no answer, as in the test split.")
        answer = field(row, "answerKey", place, str)
        if isinstance(choices, Mapping):
            labels, texts = field(choices, "label", place, list), field(choices, "text", place, list)
            if len(labels) != len(texts):
                raise DroppedSample("mismatch", f"{place} has {len(texts)} choices, but {len(labels)} letters.")
            pairs = list(zip(labels, texts, strict=True))
        else:  # a list of choices, as files of JSON lines have it
            listed = field(row, "choices", place, list)
            if not all(isinstance(choice, Mapping) for choice in listed):
                raise DroppedSample("mismatch", f"{place}: 'choices' must be objects, but are {str(listed)[:60]}.")
            pairs = [(field(choice, "label", place), field(choice, "text", place)) for choice in listed]
        if not all(isinstance(part, str) for pair in pairs for part in pair):
            raise DroppedSample("mismatch", f"{place}: 'choices' must be texts, but are {str(pairs)[:60]}.")
        asked = "\n".join([question, *(f"{label}. {text}" for label, text in pairs), "Answer with the letter alone."])
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        return {"task": "understand", "messages": messages}


__all__ = ["CommonsenseQA", "Llava"]
