# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""GenEval (arXiv 2310.11513): are the things there, in number, colour and place? Four pictures a prompt."""

import json
from pathlib import Path
from typing import Any

from ..json_lines import shown
from .prompt_files import Row, check_prompts_path, data_set, data_set_rows, is_on_hub, json_lines
from .samples import Benchmark, BenchmarkSample

PICTURES = 4  # a prompt
EXPECTED = "the file evaluation_metadata.jsonl of GenEval"


def read(prompts: str | Path) -> list[BenchmarkSample]:
    """Samples of `evaluation_metadata.jsonl`, or of a data set with its fields.

    The scorer wants a folder a prompt, numbered by the line, with that line in it and the pictures in `samples`.
    """
    if is_on_hub(prompts):
        rows = [(row, json.dumps(row.fields)) for row in data_set_rows(prompts, data_set(prompts))]
    else:
        path = check_prompts_path(prompts, EXPECTED)
        if path.is_dir():
            raise ValueError(f"`prompts` must be {EXPECTED}, but {path} is a folder.")
        rows = list(json_lines(path))
    return [_sample(number, row, line) for number, (row, line) in enumerate(rows)]


def _sample(number: int, row: Row, line: str) -> BenchmarkSample:
    row.text("tag", "the kind of the prompt, such as 'counting'")
    for name, needed in (("include", True), ("exclude", False)):
        if needed or name in row.fields:
            things = row.get(name, list, "a list of things, each with 'class' and 'count'")
            for index, thing in enumerate(things):
                _check_thing(thing, index, f"{row.where}: {name}[{index}]")
    folder = f"{number:05d}"
    return BenchmarkSample(
        key=folder,
        where=row.where,
        prompt=row.text("prompt", "the prompt"),
        pictures=tuple(f"{folder}/samples/{index:05d}.png" for index in range(PICTURES)),
        texts={f"{folder}/metadata.jsonl": line + "\n"},
    )


def _check_thing(thing: Any, index: int, where: str) -> None:
    """Raises where the scorer could not read what is to be in a picture."""
    if not isinstance(thing, dict):
        raise ValueError(f"{where} must be an object with 'class' and 'count', but is {shown(thing)}.")
    row = Row(where, thing)
    row.text("class", "the name of a thing")
    row.get("count", int, "a number")
    if "color" in thing:
        row.text("color", "the name of a colour")
    if "position" in thing:
        position = row.get("position", list, "a relation and the place of an earlier thing in the list")
        if len(position) != 2 or not isinstance(position[0], str) or position[1] not in range(index):
            raise ValueError(
                f"{where}: the field 'position' must be a relation and the place of an earlier thing in the list, such "
                f"as ['left of', 0], but is {shown(position)}."
            )


GENEVAL = Benchmark("geneval", "GenEval", "generate", read, paper={"guidance_scale": 3.0}, published=553)
