# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""A file of pictures to be made, a line each: read whole and checked before the first one is begun, and gone on with
where an earlier run has stopped."""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    "output": str,
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
        request: what is to be made, without the pixels of its source: there may be many lines.
        output: where it goes.
        done: whether it is there already, made by an earlier run.
    """

    number: int
    request: ImageJob
    output: Path
    done: bool = False

    @property
    def job(self) -> ImageJob:
        """What is to be made; its source is read now."""
        if self.request.source_path is None:
            return self.request
        return replace(self.request, source=open_picture(self.request.source_path))


class Jobs(Sequence[ImageJob]):
    """The jobs of some lines, whose sources are read when a job is asked for."""

    def __init__(self, lines: Sequence[Line]):
        self.lines = lines

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: Any) -> Any:
        return [line.job for line in self.lines[index]] if isinstance(index, slice) else self.lines[index].job


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
        path: JSON lines with `FIELDS`. An `image` is looked for beside the file; with one the line is an edit.
        engine: tells which sizes and prompts can be made.
        folder: where the pictures go. Without an `output`, the picture of line 7 of a.jsonl is `a-0007.png`.
        defaults: values of fields that a line does not have. Of `seed` it is that of line 1; line 2 has the next.
        sampling: of all pictures, as for [`ImageJob`].
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
        job = _job(where, path.parent, _with_defaults(fields, defaults or {}, number), engine, dict(sampling or {}))
        if needs_image and job.source is None:
            raise ValueError(f"{where}: `image` is missing, the picture to edit.")
        done = output.exists() and _is_of(job, output, engine)
        if output.exists() and not done and not force:
            raise ValueError(
                f"{where}: `output` {output} is there already and is another picture. Take another name, or --force."
            )
        lines.append(Line(number, replace(job, source=None), output, done))
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
        if not isinstance(value, kind) or isinstance(value, bool):
            expected = "a whole number" if kind is int else "a string"
            raise ValueError(f"{where}: `{name}` must be {expected}, but got {json.dumps(value, ensure_ascii=False)}.")
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
    """The job of a line, tried on the processor."""
    height = width = aspect = None
    try:
        if "size" in fields:
            height, width = parse_size(fields["size"], engine.cell, engine.usual_sizes)
        elif "aspect" in fields:
            aspect = parse_aspect(fields["aspect"])
        source = source_path = None
        if "image" in fields:
            source_path = str(beside / fields["image"])
            source = open_picture(source_path)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    job = ImageJob(
        fields["prompt"],
        source,
        source_path,
        height,
        width,
        aspect,
        fields["seed"],
        fields.get("negative", ""),
        sampling,
    )
    try:
        engine.prepare([job])
    except ValueError as error:
        words = str(error).replace("`text`", "`prompt`").replace("`negative_prompt`", "`negative`")
        raise ValueError(f"{where}: {words}") from error
    return job


def _is_of(job: ImageJob, path: Path, engine: Engine) -> bool:
    """Whether a file holds the picture that this job asks for."""
    try:
        info = read_picture_info(path)
    except (ValueError, OSError):
        return False
    expected = json.loads(json.dumps(engine.describe(job, engine.size_of(job))))
    same_source = expected.get("source", {}).get("sha256") == (info.get("source") or {}).get("sha256")
    return same_source and all(info.get(name) == expected[name] for name in TELLING)


def pending(lines: Sequence[Line]) -> list[Line]:
    """The lines whose pictures are not there yet."""
    return [line for line in lines if not line.done]


__all__ = ["FIELDS", "Jobs", "Line", "pending", "read_batch"]
