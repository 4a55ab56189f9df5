# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Where the samples of a recipe come from: one small reader a layout, each a map-style data set."""

import difflib
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..conversations_wallaroo import PICTURE_KEYS
from ..json_lines import read_json_lines, read_text
from ..shapes import ShapesDataset
from .data.drops import DroppedSample
from .mixture import MixtureDataset, whole_ratio

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
BYTES_A_TOKEN = 4  # of text in UTF-8, about, in English as in Chinese


class FolderDataset(Sequence[dict[str, Any]]):
    """A folder of pictures with a text of the same name beside each (`cat.png`, `cat.txt`), for `generate`."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_dir():
            raise ValueError(f"`path` must be a folder of pictures, but there is none at {str(path)!r}.")
        self.pictures = sorted(file for file in self.path.rglob("*") if file.suffix.lower() in PICTURE_ENDINGS)
        if not self.pictures:
            raise ValueError(f"`path` {str(path)!r} holds no pictures ({', '.join(PICTURE_ENDINGS)}).")
        without = [picture.name for picture in self.pictures if not picture.with_suffix(".txt").is_file()]
        if without:
            raise ValueError(
                f"{len(without)} of {len(self.pictures)} pictures in {str(path)!r} have no text beside them, such as "
                f"{without[0]!r}: write its caption into {Path(without[0]).with_suffix('.txt').name!r}."
            )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        picture = self.pictures[index]
        try:
            prompt = read_text(picture.with_suffix(".txt")).strip()
        except ValueError as error:
            raise DroppedSample("unreadable", str(error)) from error
        return {"task": "generate", "prompt": prompt, "image": picture}

    def name_of(self, index: int) -> str:
        """The picture's path, for messages."""
        return str(self.pictures[index])


class JsonLinesDataset(Sequence[dict[str, Any]]):
    """Samples as the collator takes them, one JSON object a line; pictures by paths relative to the file, also those
    that parts of messages hold."""

    PICTURES = ("image", "source_image", "images")
    CONVERSATIONS = ("messages", "conversations")

    def __init__(self, path: str | Path, task: str):
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"`path` must be a file of JSON lines, but there is none at {str(path)!r}.")
        self.samples = []
        self._lines = []
        self._lengths = []
        for line in read_json_lines(self.path):
            sample = line.fields
            if sample.setdefault("task", task) != task:
                raise ValueError(f"{line.where} must be a sample of {task!r}, but is {line.text[:80]!r}.")
            self.samples.append(sample)
            self._lines.append(line.number)
            self._lengths.append(len(line.text.encode()) // BYTES_A_TOKEN)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        sample = dict(self.samples[index])
        for name in self.PICTURES:
            if isinstance(sample.get(name), list):
                sample[name] = [self._resolve(entry) for entry in sample[name]]
            elif name in sample:
                sample[name] = self._resolve(sample[name])
        for name in self.CONVERSATIONS:
            if isinstance(sample.get(name), list):
                sample[name] = [self._resolve_message(message) for message in sample[name]]
        return sample

    def row(self, index: int) -> dict[str, Any]:
        """The object of a line, for filters."""
        return self.samples[index]

    def name_of(self, index: int) -> str:
        """File and line, for messages."""
        return f"{self.path}, line {self._lines[index]}"

    def length_of(self, index: int) -> int:
        """About how many tokens the text of a sample has."""
        return self._lengths[index]

    def _resolve(self, picture: Any) -> Any:
        """A path relative to the file, as it is; anything else (a URL, base64) stays."""
        if not isinstance(picture, str):
            return picture
        path = os.path.join(self.path.parent, picture)
        # Unlike `Path.is_file`, this takes what is too long for a path, as base64 is.
        return path if os.path.isfile(path) else picture

    def _resolve_message(self, message: Any) -> Any:
        if not isinstance(message, Mapping):
            return message
        return {
            name: [self._resolve_part(part) for part in value] if isinstance(value, list) else value
            for name, value in message.items()
        }

    def _resolve_part(self, part: Any) -> Any:
        if not isinstance(part, Mapping):
            return part
        return {name: self._resolve(value) if name in PICTURE_KEYS else value for name, value in part.items()}


def _shapes(task: str, length: int, seed: int, options: Mapping[str, Any]) -> ShapesDataset:
    options = {"seed": seed, "length": length, **options}
    if isinstance(options.get("bucket"), list):
        options["bucket"] = tuple(options["bucket"])
    return ShapesDataset(task, options.pop("seed"), options.pop("length"), **options)


def _folder(task: str, length: int, seed: int, options: Mapping[str, Any]) -> FolderDataset:  # noqa: ARG001
    if task != "generate":
        raise ValueError(f"`data` of {task!r}: a folder of pictures with captions is for 'generate'; use 'jsonl'.")
    return FolderDataset(**options)


def _jsonl(task: str, length: int, seed: int, options: Mapping[str, Any]) -> JsonLinesDataset:  # noqa: ARG001
    return JsonLinesDataset(task=task, **options)


def _encoded(task: str, length: int, seed: int, options: Mapping[str, Any]) -> Any:  # noqa: ARG001
    from .codes import EncodedDataset

    return EncodedDataset(task=task, **options)


def _published(module: str, name: str, **fixed: Any) -> Callable[[str, int, int, Mapping[str, Any]], Any]:
    """A maker of a class of `data/`, which is imported when it is needed."""

    def make(task: str, length: int, seed: int, options: Mapping[str, Any]) -> Any:  # noqa: ARG001
        found = importlib.import_module(f".data.{module}", __package__)
        given = {key: getattr(found, value) if key == "files" else value for key, value in fixed.items()}
        return getattr(found, name)(task, **given, **options)

    return make


# Name in a recipe -> maker from the task, the samples wanted of a source without end, its seed, and the options given.
SOURCES: dict[str, Callable[[str, int, int, Mapping[str, Any]], Any]] = {
    "shapes": _shapes,
    "folder": _folder,
    "jsonl": _jsonl,
    "parquet": _published("layouts", "OwnTable"),
    "encoded": _encoded,
    "llava": _published("conversations", "Llava"),
    "commonsense_qa": _published("conversations", "CommonsenseQA"),
    "imagenet": _published("imagenet", "ImageNet"),
    "webdataset": _published("layouts", "CaptionTars"),
    "sharegpt4o_image": _published("layouts", "PromptedImages", files="SHAREGPT_4O_IMAGE", layout="sharegpt4o_image"),
    "opengpt4o_image": _published("layouts", "PromptedImages", files="OPENGPT_4O_IMAGE", layout="opengpt4o_image"),
    "gpt_image_edit": _published("layouts", "GPTImageEdit"),
}
# Their samples have no pictures from outside, so that nothing of them can be broken.
UNSCREENED = ("shapes", "encoded")
# What an entry may have beside its layout.
EXTRAS = ("name", "weight", "filters", "max_dropped")


def open_source(task: str, entry: Any, length: int, *, seed: int = 1, order_seed: int = 1) -> Any:
    """The samples that a recipe names for a task: `{"folder": {"path": ...}}`, or a list of such entries, which become
    one `MixtureDataset` with their weights.

    Args:
        entry: a mapping with the name of a layout in `SOURCES` and its options as value; beside it `filters` (see
            `Filters`), `max_dropped` (share of the samples that may be broken), and in a list `name` and `weight` (1).
        length: samples that the run will take; a source without end, as a list is, is made this long.
        seed: of a source without end, where its options name none.
        order_seed: of the order in which a list has its samples.
    """
    entries = source_entries(task, entry)
    opened = {name: _open_entry(task, name, one, length, seed) for name, one in entries.items()}
    if not isinstance(entry, (list, tuple)):
        [source] = opened.values()
        return source
    weights = {name: one.get("weight", 1) for name, one in entries.items()}
    return MixtureDataset(opened, whole_ratio(weights), length, seed=order_seed)


def source_entries(task: str, entry: Any) -> dict[str, Mapping[str, Any]]:
    """Name -> entry of each source that a recipe names for a task, the entries checked."""
    if isinstance(entry, (list, tuple)) and not entry:
        raise ValueError(f"`data` of {task!r} is an empty list; it must name one source at least.")
    named: dict[str, Mapping[str, Any]] = {}
    for one in entry if isinstance(entry, (list, tuple)) else [entry]:
        layout = _layout_of(task, one)
        name, weight = str(one.get("name", layout)), one.get("weight", 1)
        if name in named:
            raise ValueError(f"`data` of {task!r} has two sources of the name {name!r}: give each a `name`.")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or weight <= 0:
            raise ValueError(f"`data` of {task!r}: `weight` of {name!r} must be a number above 0, but is {weight!r}.")
        named[name] = one
    return named


def _layout_of(task: str, entry: Any) -> str:
    keys = [key for key in entry if key not in EXTRAS] if isinstance(entry, Mapping) else []
    if len(keys) != 1 or keys[0] not in SOURCES:
        strange = [key for key in keys if key not in SOURCES]
        near = [close for key in strange for close in difflib.get_close_matches(str(key), [*SOURCES, *EXTRAS], n=1)]
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"`data` of {task!r} must be one of {', '.join(SOURCES)} with its options, but is {entry!r}.{hint}"
        )
    [layout] = keys
    if entry[layout] is not None and not isinstance(entry[layout], Mapping):
        raise ValueError(f"`data` of {task!r}: the options of {layout!r} must be a mapping, but are {entry[layout]!r}.")
    if layout in UNSCREENED:
        refused = [key for key in ("filters", "max_dropped") if key in entry]
        if refused:
            raise ValueError(f"`data` of {task!r}: {layout!r} takes no {' and no '.join(map(repr, refused))}.")
    return layout


def _open_entry(task: str, name: str, entry: Mapping[str, Any], length: int, seed: int) -> Any:
    """The samples of one source."""
    layout = _layout_of(task, entry)
    options = entry[layout]
    try:
        source = SOURCES[layout](task, length, seed, options or {})
    except TypeError as error:
        raise ValueError(
            f"`data` of {task!r}: {layout!r} does not take these options: {options!r} ({error})."
        ) from error
    if layout in UNSCREENED:
        return source
    from .data.screening import MAX_DROPPED, Filters, ScreenedDataset

    filters = Filters.from_dict(entry.get("filters") or {})
    return ScreenedDataset(source, name, filters=filters, max_dropped=entry.get("max_dropped", MAX_DROPPED))


__all__ = ["SOURCES", "FolderDataset", "JsonLinesDataset", "open_source", "source_entries"]
