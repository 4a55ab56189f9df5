# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""A file of pictures to be made, a line each: read whole and checked before the first one is begun, and gone on with
where an earlier run has stopped."""

import difflib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..json_lines import read_json_lines
from .engine import Engine, ImageJob
from .pictures import open_picture, read_picture_info
from .sizes import parse_aspect, parse_size

# What a line may say; `prompt` it must.
FIELDS: dict[str, type] = {
    "prompt": str,
    "image": str,
    "size": str,
    "aspect": str,
    "seed": int,
    "negative": str,
    "image_guidance": float,
    "mask": str,
    "keep_source": bool,
    "original_size": bool,
    "output": str,
}
EXPECTED = {str: "a string", int: "a whole number", float: "a number from 0 on", bool: "true or false"}
# What the engine calls a field.
ENGINE_NAMES = {
    "`text`": "`prompt`",
    "`negative_prompt`": "`negative`",
    "`image_guidance_scale`": "`image_guidance`",
    "`region_mask`": "`mask`",
    "the job has no `source`": "the line has no `image`",
    "`speculative_window`": "`--speculative`",
}
EXAMPLE = {"prompt": "a red circle"}
# What tells two pictures apart; versions and devices change no more than rounding.
TELLING = (
    "task",
    "prompt",
    "negative_prompt",
    "height",
    "width",
    "seed",
    "sampling",
    "checkpoint_hash",
    "dtype",
)


@dataclass(frozen=True)
class Line:
    """One line of the file.

    Attributes:
        number: from 1 on.
        read: reads what is to be made with its pictures, which are not kept: there may be many lines.
        output: where it goes.
        done: whether it is there already, made by an earlier run.
    """

    number: int
    read: Callable[[], ImageJob]
    output: Path
    done: bool = False


class Jobs(Sequence[ImageJob]):
    """The jobs of some lines, whose pictures are read when a job is asked for."""

    def __init__(self, lines: Sequence[Line]):
        self.lines = lines

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: Any) -> Any:
        return [line.read() for line in self.lines[index]] if isinstance(index, slice) else self.lines[index].read()


def read_batch(
    path: Path,
    engine: Engine,
    folder: Path,
    *,
    defaults: Mapping[str, Any] | None = None,
    sampling: Mapping[str, Any] | None = None,
    needs_image: bool = False,
    force: bool = False,
) -> list[Line]:
    """Reads and checks all lines; the first that is wrong is a `ValueError` that names its number and field.

    Args:
        path: JSON lines with `FIELDS`. `image` and `mask` are looked for beside the file; with an `image` the line is
            an edit.
        engine: tells which sizes and prompts can be made.
        folder: where the pictures go. Without an `output`, the picture of line 7 of a.jsonl is `a-0007.png`.
        defaults: values of fields that a line does not have. Of `seed` it is that of line 1; line 2 has the next.
        sampling: of all pictures, as for [`ImageJob`]; an `image_guidance` of a line goes before it.
        needs_image: whether every line must be an edit.
        force: whether a file that is there, and is not the picture asked for, may be replaced.
    """
    lines: list[Line] = []
    numbers: dict[Path, int] = {}
    for number, fields in logging.tqdm(_read_fields(path), desc="checking", unit="line", disable=None, leave=False):
        where = f"{path}, line {number}"
        output = folder / fields.get("output", f"{path.stem}-{number:04}.png")
        if output.suffix.lower() != ".png":
            raise ValueError(f"{where}: `output` must end in .png, but got {fields['output']!r}.")
        if output.resolve() in numbers:
            raise ValueError(f"{where}: `output` is that of line {numbers[output.resolve()]}, {output}.")
        numbers[output.resolve()] = number
        told = _with_defaults(fields, defaults or {}, number)
        read = partial(_job, where, path.parent, told, engine, dict(sampling or {}))
        job = read()
        _check_job(where, job, engine)
        if needs_image and job.source is None:
            raise ValueError(f"{where}: `image` is missing, the picture to edit.")
        done = output.exists() and _is_of(job, output, engine)
        if output.exists() and not done and not force:
            raise ValueError(
                f"{where}: `output` {output} is there already and is another picture. Take another name, or --force."
            )
        lines.append(Line(number, read, output, done))
    if not lines:
        raise ValueError(f"{path} has no lines. A line is such as {json.dumps(EXAMPLE)}.")
    return lines


def _read_fields(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The fields of each line that is not empty, of the right types."""
    if not path.is_file():
        raise ValueError(f"`--batch` must be a file of JSON lines, but there is no file {path}.")
    found = []
    for line in read_json_lines(path, EXAMPLE):
        _check_fields(line.where, line.fields)
        found.append((line.number, line.fields))
    return found


def _check_fields(where: str, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise ValueError(f"{where}: there is no field `{name}`, only {', '.join(FIELDS)}.{hint}")
        kind = FIELDS[name]
        fits = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
        if not fits or (kind is float and not 0 <= value < math.inf):
            shown = json.dumps(value, ensure_ascii=False)
            raise ValueError(f"{where}: `{name}` must be {EXPECTED[kind]}, but got {shown}.")
    if not fields.get("prompt", "").strip():
        raise ValueError(f"{where}: `prompt` is missing or empty.")
    if "size" in fields and "aspect" in fields:
        raise ValueError(f"{where}: `size` and `aspect` do not go together.")


def _with_defaults(fields: Mapping[str, Any], defaults: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The fields of a line with what all lines have; a size of its own goes before an aspect of all."""
    own_size = "size" in fields or "aspect" in fields
    common = {name: value for name, value in defaults.items() if not (own_size and name in ("size", "aspect"))}
    return {**common, "seed": defaults.get("seed", 0) + number - 1, **fields}


def _job(where: str, beside: Path, fields: Mapping[str, Any], engine: Engine, sampling: dict[str, Any]) -> ImageJob:
    """The job of a line, its pictures read."""
    if "image_guidance" in fields:
        sampling = {**sampling, "image_guidance_scale": fields["image_guidance"]}
    height = width = aspect = None
    pictures: dict[str, Any] = {"image": None, "mask": None}
    paths = {name: str(beside / fields[name]) for name in pictures if name in fields}
    try:
        if "size" in fields:
            height, width = parse_size(fields["size"], engine.cell, engine.usual_sizes)
        elif "aspect" in fields:
            aspect = parse_aspect(fields["aspect"])
        pictures.update({name: open_picture(path, name) for name, path in paths.items()})
        return ImageJob(
            fields["prompt"],
            pictures["image"],
            paths.get("image"),
            height,
            width,
            aspect,
            fields["seed"],
            fields.get("negative", ""),
            sampling,
            pictures["mask"],
            paths.get("mask"),
            fields.get("original_size", False),
            fields.get("keep_source", False),
        )
    except ValueError as error:
        raise ValueError(f"{where}: {_in_words_of_lines(error)}") from error


def _check_job(where: str, job: ImageJob, engine: Engine) -> None:
    """Tries a job on the processor."""
    try:
        engine.prepare([job])
    except ValueError as error:
        raise ValueError(f"{where}: {_in_words_of_lines(error)}") from error


def _in_words_of_lines(error: ValueError) -> str:
    return re.sub("|".join(ENGINE_NAMES), lambda found: ENGINE_NAMES[found[0]], str(error))


def _is_of(job: ImageJob, path: Path, engine: Engine) -> bool:
    """Whether a file holds the picture that this job asks for."""
    try:
        info = read_picture_info(path)
    except (ValueError, OSError):
        return False
    expected = json.loads(json.dumps(engine.describe(job, engine.size_of(job))))
    for name in ("source", "region_mask"):
        if expected.get(name, {}).get("sha256") != (info.get(name) or {}).get("sha256"):
            return False
    if any(bool(info.get(name)) != bool(expected.get(name)) for name in ("original_size", "keep_source")):
        return False
    return all(info.get(name) == expected[name] for name in TELLING)


def pending(lines: Sequence[Line]) -> list[Line]:
    """The lines whose pictures are not there yet."""
    return [line for line in lines if not line.done]


__all__ = ["FIELDS", "Jobs", "Line", "pending", "read_batch"]
