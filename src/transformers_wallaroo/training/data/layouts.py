# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Published layouts of pictures to draw and of edits, and tables of one's own; one small class a layout."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .drops import DroppedSample
from .pictures import PictureFinder
from .rows import JsonRows, ParquetRows, field, first_field, open_rows
from .tars import PICTURES, TarSamples

# What a sample of each task is made of; of names in one tuple it has one.
FIELDS = {
    "generate": (("prompt",), ("image",)),
    "edit": (("prompt",), ("source_image",), ("image",)),
    "understand": (("messages", "conversations"),),
}
PICTURE_FIELDS = ("image", "source_image", "images")


def tasks_only(layout: str, task: str, *allowed: str) -> None:
    """Raises where a layout is given for a task that it has no samples of."""
    if task not in allowed:
        raise ValueError(f"`data` of {task!r}: {layout!r} has samples of {' and '.join(map(repr, allowed))} alone.")


class RowSamples(Sequence[dict[str, Any]]):
    """Samples that are made of one row each."""

    def __init__(self, rows: JsonRows | ParquetRows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        return self.sample(self.rows[index], index)

    def row(self, index: int) -> Mapping[str, Any]:
        """The row as published, for filters."""
        return self.rows[index]

    def name_of(self, index: int) -> str:
        """File and row, for messages."""
        return self.rows.name_of(index)

    def sample(self, row: Mapping[str, Any], index: int) -> dict[str, Any]:
        raise NotImplementedError


class PromptedImages(RowSamples):
    """ShareGPT-4o-Image and OpenGPT-4o-Image: `input_prompt`, `output_image`, and of edits `input_image`, a list.

    Pictures are found by their path below the data set's folder and in the tars in it. An edit has one source here;
    rows with more are left out.

    Args:
        files: task -> file of the data set, or its path where it is not in the folder.
    """

    def __init__(self, task: str, path: Any, files: Mapping[str, str], *, images: Any = None, layout: str):
        tasks_only(layout, task, *files)
        self.task = task
        path = Path(path).expanduser()
        folder, file = (path, path / files[task]) if path.is_dir() else (path.parent, path)
        if not file.is_file():
            raise ValueError(
                f"`path` {str(path)!r} has no {files[task]!r}, where {layout!r} keeps what is for {task!r}."
            )
        super().__init__(open_rows(file))
        packed = sorted(entry.name for entry in folder.glob("*.tar.gz*"))
        self.finder = PictureFinder(folder if images is None else images)
        first = first_field(self.rows, "output_image")
        if packed and images is None and isinstance(first, str) and not os.path.exists(folder / first):
            stems = sorted({name.split(".tar.gz")[0] for name in packed})
            commands = "; ".join(f"cat {stem}.tar.gz* | tar -xzf -" for stem in stems)
            raise ValueError(
                f"{folder} still has its archives packed ({packed[0]}, ...), and compressed ones cannot be read in "
                f"place. Unpack them there: {commands}. If the pictures are elsewhere, name that folder as `images`."
            )

    def sample(self, row: Mapping[str, Any], index: int) -> dict[str, Any]:
        place = self.name_of(index)
        made = {"task": self.task, "prompt": field(row, "input_prompt", place, str)}
        if self.task == "edit":
            sources = field(row, "input_image", place)
            sources = sources if isinstance(sources, list) else [sources]
            if len(sources) != 1:
                raise DroppedSample("unsupported", f"{place} has {len(sources)} pictures to edit, but an edit has one.")
            made["source_image"] = self.finder.find(sources[0], place)
        made["image"] = self.finder.find(field(row, "output_image", place), place)
        return made


class GPTImageEdit(RowSamples):
    """GPT-Image-Edit-1.5M: `task`, `input`, `output`, `instruction` and `instruction_type` in
    `<set>/<task>/metadata/*.json`, with paths relative to `<set>/<task>`."""

    def __init__(self, task: str, path: Any):
        tasks_only("gpt_image_edit", task, "edit")
        path = Path(path).expanduser()
        files: Any = path if path.is_file() else str(path / "**" / "metadata" / "*.json")
        rows = open_rows(files)
        assert isinstance(rows, JsonRows)
        super().__init__(rows)

    def sample(self, row: Mapping[str, Any], index: int) -> dict[str, Any]:
        place = self.name_of(index)
        finder = PictureFinder(self.rows.file_of(index).parent.parent)  # type: ignore[union-attr]
        return {
            "task": "edit",
            "prompt": field(row, "instruction", place, str),
            "source_image": finder.find(field(row, "input", place), place),
            "image": finder.find(field(row, "output", place), place),
        }


class CaptionTars(Sequence[dict[str, Any]]):
    """BLIP3o-60k, and any webdataset of pictures with captions: `{key}.jpg` and `{key}.txt` in tars."""

    def __init__(self, task: str, path: Any, *, text: str = "txt"):
        tasks_only("webdataset", task, "generate")
        self.members = TarSamples(path, {"image": PICTURES, "text": (text,)})

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        member = self.members[index]
        try:
            prompt = member["text"].read().decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise DroppedSample("unreadable", f"{member['text']} is no text in UTF-8 ({error}).") from error
        return {"task": "generate", "prompt": prompt, "image": member["image"]}

    def name_of(self, index: int) -> str:
        return self.members.name_of(index)

    def length_of(self, index: int) -> int:
        """About how many tokens the caption has."""
        return self.members.length_of(index, "text") // 4

    @property
    def notes(self) -> list[str]:
        return notes_of(self.members)


def notes_of(members: TarSamples) -> list[str]:
    """What `wallaroo data check` says of the tars themselves."""
    endings = ", ".join("." + ending for endings in members.parts.values() for ending in endings)
    counts = {
        "incomplete samples where they break off": members.incomplete,
        f"samples with none of {endings} after the first dot of their name": members.strange,
        "members of a name that came before in the same tar": members.repeated,
    }
    notes = [f"{file} is truncated or corrupt" for file in members.truncated]
    return [*notes, *(f"{count} {what} are left out" for what, count in counts.items() if count)]


class OwnTable(RowSamples):
    """Parquet files of one's own, or a data set of the Hub, whose columns are those of the collator's samples.

    Args:
        columns: name in the sample -> column, where they differ, such as `{"prompt": "caption"}`.
        images: where paths in the table start, see `PictureFinder`; bytes need nothing.
    """

    def __init__(
        self,
        task: str,
        path: Any,
        *,
        columns: Mapping[str, str] | None = None,
        images: Any = None,
        cache_dir: str | None = None,
    ):
        super().__init__(open_rows(path, cache_dir=cache_dir))
        self.task = task
        self.columns = dict(columns or {})
        known = {*PICTURE_FIELDS, *(name for names in FIELDS[task] for name in names)}
        unknown = sorted(set(self.columns) - known)
        if unknown:
            raise ValueError(f"`columns` may name {', '.join(sorted(known))}, but has {', '.join(unknown)}.")
        self.finder = PictureFinder(images)

    def sample(self, row: Mapping[str, Any], index: int) -> dict[str, Any]:
        place = self.name_of(index)
        made: dict[str, Any] = {"task": self.task}
        for names in FIELDS[self.task]:
            chosen = next((name for name in names if row.get(self.columns.get(name, name)) is not None), names[0])
            made[chosen] = field(row, self.columns.get(chosen, chosen), place)
        if self.task == "understand":
            for name in ("images", "image"):
                value = row.get(self.columns.get(name, name))
                if value is not None:
                    made["images"] = value if isinstance(value, list) else [value]
                    break
        for name in PICTURE_FIELDS:
            if isinstance(made.get(name), list):
                made[name] = [self.finder.find(entry, place) for entry in made[name]]
            elif name in made:
                made[name] = self.finder.find(made[name], place)
        return made


SHAREGPT_4O_IMAGE = {"generate": "text_to_image.json", "edit": "text_and_image_to_image.json"}
OPENGPT_4O_IMAGE = {"generate": "gen.json", "edit": "editing.json"}

__all__ = ["CaptionTars", "GPTImageEdit", "OwnTable", "PromptedImages", "RowSamples"]
