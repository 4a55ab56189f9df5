# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""GEdit-Bench (arXiv 2504.17761): edits that people asked for, in English and in Chinese."""

from pathlib import Path

from .imgedit import picture_of
from .prompt_files import Row, check_file_name, check_prompts_path, check_unique, data_set, data_set_rows, is_on_hub
from .samples import Benchmark, BenchmarkSample

LANGUAGES = ("en", "cn")
TASK_TYPES = (
    "background_change",
    "color_alter",
    "material_alter",
    "motion_change",
    "ps_human",
    "style_change",
    "subject-add",
    "subject-remove",
    "subject-replace",
    "text_change",
    "tone_transfer",
)
EXPECTED = "the data set GEdit-Bench as Parquet files or as `datasets` saves it"
# What the scorer compares with, and the same picture in its own size, which the model sees where there is one.
SHOWN, RAW = "input_image", "input_image_raw"


def read(prompts: str | Path, *, method: str = "wallaroo") -> list[BenchmarkSample]:
    """Samples of a data set as `stepfun-ai/GEdit-Bench`.

    The scorer wants `{method}/fullset/{task_type}/{en|cn}/{key}.png` and the source beside it.

    Args:
        method: what the scorer is to call the model.
    """
    check_file_name(method, "`method`")
    if not is_on_hub(prompts):
        check_prompts_path(prompts, EXPECTED)
    data = data_set(prompts)
    if SHOWN not in data.column_names:
        raise ValueError(f"{prompts} has no column {SHOWN!r} with the pictures to be edited: {data.column_names}.")
    seen = RAW if RAW in data.column_names else SHOWN
    samples = []
    for number, row in enumerate(data_set_rows(prompts, data, (SHOWN, RAW))):
        folder = _folder(row)
        key = row.file_name("key", "the name of the sample")
        path = f"{method}/fullset/{folder}/{key}"
        samples.append(
            BenchmarkSample(
                key=f"{folder}/{key}",
                where=row.where,
                prompt=row.text("instruction", "the instruction"),
                pictures=(f"{path}.png",),
                source=picture_of(data, number, seen),
                source_copy=f"{path}_SRCIMG.png",
                source_shown=picture_of(data, number, SHOWN),
            )
        )
    check_unique([(sample.key, sample.where) for sample in samples], "key")
    return samples


def _folder(row: Row) -> str:
    task_type, language = (row.text(name, "a string") for name in ("task_type", "instruction_language"))
    for name, value, known in (("task_type", task_type, TASK_TYPES), ("instruction_language", language, LANGUAGES)):
        if value not in known:
            raise ValueError(f"{row.where}: the field {name!r} must be one of {', '.join(known)}, but is {value!r}.")
    return f"{task_type}/{language}"


# The paper has no numbers of GEdit-Bench: these are its settings of ImgEdit-Bench, with templates in the language of
# each instruction.
GEDIT = Benchmark("gedit", "GEdit-Bench", "edit", read, paper={"guidance_scale": 3.0, "language": None}, published=1212)
