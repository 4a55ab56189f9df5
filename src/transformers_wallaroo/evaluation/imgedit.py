# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""ImgEdit-Bench, its basic part (arXiv 2505.20275): nine kinds of edits, scored by a model that sees both pictures."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from ..image_processing_wallaroo import to_rgb
from .prompt_files import (
    Row,
    check_file_name,
    check_prompts_path,
    check_unique,
    data_set,
    data_set_rows,
    is_on_hub,
    json_entries,
)
from .samples import Benchmark, BenchmarkSample

EXPECTED = "the file singleturn.json (or basic_edit.json) of ImgEdit-Bench"
COLUMNS = ("input_image", "image")  # of a data set, the source; the first that there is


def read(prompts: str | Path, *, sources: str | Path | None = None) -> list[BenchmarkSample]:
    """Samples of `singleturn.json`, or of a data set with the fields `key`, `prompt`, `edit_type` and `input_image`.

    The scorer wants `{key}.png`.

    Args:
        sources: folder of the pictures that the file's `id` names; by default the folder of the file.
    """
    if is_on_hub(prompts) or Path(prompts).suffix == ".parquet":
        return _of_data_set(prompts)
    path = check_prompts_path(prompts, EXPECTED)
    if path.is_dir():
        raise ValueError(f"`prompts` must be {EXPECTED}, but {path} is a folder.")
    folder = path.parent if sources is None else Path(sources)
    samples, missing = [], []
    for key, row in json_entries(path):
        picture = folder / row.text("id", "the path of the picture to be edited")
        if not picture.is_file():
            missing.append(f"{row.where}: {picture}")
        samples.append(_sample(key, row, _opener(picture)))
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(samples)} pictures to be edited are not there, such as {missing[0]}. `sources` "
            f"must be the folder that their paths begin in, but is {folder}."
        )
    check_unique([(sample.key, sample.where) for sample in samples], "key")
    return samples


def _opener(path: Path) -> Callable[[], Image.Image]:
    return lambda: to_rgb(path, name=str(path))


def _of_data_set(prompts: str | Path) -> list[BenchmarkSample]:
    data = data_set(prompts)
    column = next((name for name in COLUMNS if name in data.column_names), None)
    if column is None:
        raise ValueError(f"{prompts} has no column {COLUMNS[0]!r} with the pictures to be edited: {data.column_names}.")
    samples = []
    for number, row in enumerate(data_set_rows(prompts, data, COLUMNS)):
        samples.append(_sample(row.text("key", "the name of the sample"), row, picture_of(data, number, column)))
    check_unique([(sample.key, sample.where) for sample in samples], "key")
    return samples


def picture_of(data, number: int, column: str) -> Callable[[], Image.Image]:
    """Gives the picture of a row when it is wanted."""
    return lambda: to_rgb(data[number][column], name=column)


def _sample(key: str, row: Row, source: Callable[[], Image.Image]) -> BenchmarkSample:
    check_file_name(key, f"{row.where}: the key")
    row.text("edit_type", "the kind of the edit, such as 'replace'")
    prompt = row.text("prompt", "the instruction")
    return BenchmarkSample(key=key, where=row.where, prompt=prompt, pictures=(f"{key}.png",), source=source)


IMGEDIT = Benchmark("imgedit", "ImgEdit-Bench", "edit", read, paper={"guidance_scale": 3.0})
