# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Where the samples of a recipe come from: one small reader a layout, each a map-style data set."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..shapes import ShapesDataset

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class FolderDataset(Sequence[dict[str, Any]]):
    """A folder of pictures with a text of the same name beside each (`cat.png`, `cat.txt`), for `generate`."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_dir():
            raise ValueError(f"`path` must be a folder of pictures, but there is none at {str(path)!r}.")
        self.pictures = sorted(file for file in self.path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        if not self.pictures:
            raise ValueError(f"`path` {str(path)!r} holds no pictures ({', '.join(IMAGE_SUFFIXES)}).")
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
        prompt = picture.with_suffix(".txt").read_text(encoding="utf-8").strip()
        return {"task": "generate", "prompt": prompt, "image": picture}


class JsonLinesDataset(Sequence[dict[str, Any]]):
    """Samples as the collator takes them, one JSON object a line; pictures by paths relative to the file."""

    PICTURES = ("image", "source_image", "images")

    def __init__(self, path: str | Path, task: str):
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"`path` must be a file of JSON lines, but there is none at {str(path)!r}.")
        self.samples = []
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                sample = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{self.path}, line {number} is no JSON: {error}.") from error
            if not isinstance(sample, dict) or sample.setdefault("task", task) != task:
                raise ValueError(f"{self.path}, line {number} must be a sample of {task!r}, but is {line[:80]!r}.")
            self.samples.append(sample)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        sample = dict(self.samples[index])
        for name in self.PICTURES:
            if isinstance(sample.get(name), str):
                sample[name] = self._resolve(sample[name])
            elif isinstance(sample.get(name), list):
                sample[name] = [self._resolve(entry) for entry in sample[name]]
        return sample

    def _resolve(self, picture: str) -> str:
        """A path relative to the file, as it is; anything else (a URL, base64) stays."""
        return str(self.path.parent / picture) if (self.path.parent / picture).is_file() else picture


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


# Name in a recipe -> maker from the task, the samples wanted of a source without end, its seed, and the options given.
SOURCES: dict[str, Callable[[str, int, int, Mapping[str, Any]], Any]] = {
    "shapes": _shapes,
    "folder": _folder,
    "jsonl": _jsonl,
    "encoded": _encoded,
}


def open_source(task: str, entry: Any, length: int, *, seed: int = 1) -> Sequence[dict[str, Any]]:
    """The samples that a recipe names for a task: `{"folder": {"path": ...}}`.

    Args:
        entry: a mapping with one key, the name of a layout in `SOURCES`, and its options as value.
        length: samples that the run will take; a source without end is made this long.
        seed: of a source without end, where its options name none.
    """
    if not isinstance(entry, Mapping) or len(entry) != 1 or next(iter(entry)) not in SOURCES:
        raise ValueError(f"`data` of {task!r} must be one of {', '.join(SOURCES)} with its options, but is {entry!r}.")
    [(name, options)] = entry.items()
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(f"`data` of {task!r}: the options of {name!r} must be a mapping, but are {options!r}.")
    try:
        return SOURCES[name](task, length, seed, options or {})
    except TypeError as error:
        raise ValueError(f"`data` of {task!r}: {name!r} does not take these options: {options!r} ({error}).") from error


__all__ = ["SOURCES", "FolderDataset", "JsonLinesDataset", "open_source"]
